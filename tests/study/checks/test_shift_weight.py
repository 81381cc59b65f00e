"""What `--score-weight-shift` cannot be combined with is refused with a sentence before anything is made."""

from __future__ import annotations

import pytest

from bhsearch.errors import SettingsError
from bhsearch.study.checks import shift_weight
from bhsearch.study.checks.shift_weight import check_shift_weight, plan_row
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from tests.studies import search, settings


@pytest.mark.parametrize(
    ("changes", "has_gpu", "said"),
    [
        ({"score_weight_shift": 1.5}, False, "--score-weight-shift must be from 0 to 1, but got 1.5."),
        ({"score_weight_shift": -0.5}, False, "--score-weight-shift must be from 0 to 1, but got -0.5."),
        (
            {"score_weight_shift": 0.5, "regime": "finetune"},
            False,
            "--score-weight-shift 0.5 requires --regime frozen or auto, but got --regime finetune: fine-tuned networks "
            "are scored on unchanged images only.",
        ),
        (
            {"score_weight_shift": 0.5, "regime": "auto"},
            True,
            "--score-weight-shift 0.5 requires --regime frozen on a machine with a GPU: --regime auto also fine-tunes "
            "networks there, which are scored on unchanged images only.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(changes, has_gpu, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shift_weight.backend, "gpu_files", lambda: has_gpu)
    with pytest.raises(SettingsError) as caught:
        search(**changes)
    assert str(caught.value) == said
    assert list(tmp_path.iterdir()) == []


def test_what_can_work_is_not_refused(monkeypatch):
    monkeypatch.setattr(shift_weight.backend, "gpu_files", lambda: True)
    for changes in ({"regime": "finetune"}, {}, {"score_weight_shift": 1.0, "regime": "frozen"}):
        check_shift_weight(settings(**changes))
    monkeypatch.setattr(shift_weight.backend, "gpu_files", lambda: False)
    check_shift_weight(settings(score_weight_shift=0.5, nested=True, robustness=True, race_divisions=2))


def test_the_plan_says_nothing_without_it():
    assert plan_row(StudyContext.build(settings(), ProgressReporter())) == ""
