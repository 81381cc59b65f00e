"""What `--combine` cannot be combined with is refused with a sentence before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from bhsearch import run
from bhsearch.errors import SettingsError
from bhsearch.study.checks.combine import plan_row
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from tests.models.backbones.files.small import SIZE, write_onnx
from tests.models.finetuning import own_backbone
from tests.studies import arguments, command_here, search, settings

BOTH = ("staintex-s", "staintex-l")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"combine": 4}, "--combine must be one of 0, 2, 3, but got 4."),
        (
            {"combine": 2, "backbones": ("auto",), "features": ("uni.parquet",)},
            "--combine 2 cannot be used with --features: the deployed model takes the vectors of one encoder. Join the "
            "vectors of several encoders in one file instead.",
        ),
        (
            {"combine": 2, "regime": "finetune"},
            "--combine 2 requires --regime frozen or auto, but got --regime finetune: features can be joined, but "
            "networks cannot be fine-tuned together.",
        ),
        (
            {"combine": 3, "engine": "keras-tuner"},
            "--combine 3 requires --engine optuna, but got --engine keras-tuner, which cannot decide during a study "
            "which backbones are joined.",
        ),
        (
            {"combine": 2, "backbones": ("staintex-s",)},
            "--combine 2 requires two or more backbones, but got staintex-s. Add backbones, or remove --combine.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(changes, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        search(**{"backbones": BOTH, **changes})
    assert str(caught.value) == said
    assert list(tmp_path.iterdir()) == []


def context_of(combine, backbones=BOTH):
    return StudyContext.build(settings(combine=combine, backbones=backbones), ProgressReporter())


def test_the_plan_says_what_is_joined():
    after = "decided when the starting points of all backbones have ended; features side by side, costs in sum"
    assert plan_row(context_of(0)) == ""
    assert plan_row(context_of(2)) == plan_row(context_of(3)) == f"both backbones as joint-1, {after}"


def test_a_file_of_another_framework_cannot_be_joined(here: Path):
    file = write_onnx(here, name="encoder")
    words = arguments(backbones=("staintex-s", file.name), image_size=SIZE, combine=2, quiet=True)
    done = command_here(run, *words)
    assert done.returncode == 2
    assert "--combine 2 requires Keras networks, but got encoder:" in done.stderr
    assert not (here / "optuna.db").exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of the file that Keras writes
def test_a_backbone_cannot_have_the_name_of_a_joint_one(here: Path):
    own_backbone(here).file.rename(here / "joint-2.keras")
    with pytest.raises(SettingsError, match="but joint-2 is the name of a backbone"):
        search(combine=2, backbones=("staintex-s", "joint-2.keras"))
    assert not (here / "optuna.db").exists()
