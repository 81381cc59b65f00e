"""What is decided before the first trial, and the sentence for a study that was made with something else."""

from __future__ import annotations

import re
import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.audit import NARROW, PAGES
from bhsearch.data.open_data import open_data
from bhsearch.errors import BackboneError, DataError, InputError, SettingsError, StudyError
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.objectives.space import frozen_space
from bhsearch.study.context import SYNTHETIC, StudyContext, versions
from bhsearch.study.events import ProgressReporter, StudyPlan
from bhsearch.study.outcome.summary import summary_record
from bhsearch.study.plan import make_plan
from bhsearch.study.resume.metadata import check_agreement
from tests.models.backbones.encoders.tiny import Tiny
from tests.studies import STUDY, search, settings

SPACE = frozen_space(("staintex-s",))


def prepared(**changes) -> StudyContext:
    return StudyContext.build(settings(**changes), ProgressReporter())


def plan(finished: int = 0, **changes) -> StudyPlan:
    return make_plan(prepared(**changes), SPACE, finished)


def held_by(made: StudyContext) -> dict:
    """What a study keeps that was made with this."""
    return made.metadata() | {"uid": "1", "backbones": {name: one.digest for name, one in made.backbones.items()}}


def refusal(then: StudyContext, now: StudyContext) -> str:
    with pytest.raises(StudyError) as caught:
        check_agreement("mine", held_by(then), now.metadata(), now.backbones)
    message = str(caught.value)
    assert message.startswith("Cannot resume the study 'mine'")
    assert "--study" in message
    return message


# -- the name ----------------------------------------------------------------------------------------------------------


def test_a_study_is_called_after_data_regime_grouping_and_engine():
    assert prepared().study == STUDY
    assert prepared(group_by="image").study == STUDY.replace("case-optuna", "image-optuna")
    assert prepared(engine="keras-tuner").study == STUDY.replace("case-optuna", "case-keras-tuner")
    assert prepared(study="mine").study == "mine"


@pytest.mark.parametrize(("engine", "sampler"), [("optuna", "tpe"), ("keras-tuner", "bayesian")])
def test_a_sampler_that_was_not_named_is_the_engines_own(engine, sampler):
    made = prepared(engine=engine)
    assert made.settings.sampler == made.metadata()["sampler"] == sampler
    assert made.metadata()["engine"] == engine
    assert prepared(engine=engine, sampler="random").settings.sampler == "random"


@pytest.mark.parametrize(("engine", "pruner"), [("optuna", "median"), ("keras-tuner", "none")])
def test_only_optuna_prunes_where_nothing_was_said(engine, pruner):
    assert prepared(engine=engine, regime="finetune", backbones=("cnn",)).pruner == pruner


def test_a_magnification_is_a_part_of_the_name():
    """Another magnification is another search; it must not meet the study of all."""
    assert prepared(magnification="100X").study == STUDY.replace("frozen", "100x-frozen")


@pytest.mark.parametrize(("device", "sizes"), [(True, (32, 64)), (False, (16, 32))])
def test_batches_are_larger_on_a_gpu(device, sizes, monkeypatch):
    monkeypatch.setattr(backend, "gpu_files", lambda: device)
    made = prepared(regime="finetune", backbones=("cnn",))
    assert made.settings.batch_sizes == sizes
    (batch,) = (row for row in made.space(("cnn",)) if row.name == "batch")
    assert (batch.start, batch.choices) == (sizes[0], sizes)
    assert prepared(regime="finetune", backbones=("cnn",), batch_sizes=(8,)).settings.batch_sizes == (8,)
    assert prepared().settings.batch_sizes == ()


def test_a_study_from_a_gpu_says_which_batches_it_needs_elsewhere(monkeypatch):
    other = {"regime": "finetune", "backbones": ("cnn",)}
    monkeypatch.setattr(backend, "gpu_files", lambda: True)
    then = prepared(**other)
    monkeypatch.setattr(backend, "gpu_files", lambda: False)
    assert "--batch-sizes: was [32, 64], is now [16, 32]" in refusal(then, prepared(**other))
    again = prepared(**other, batch_sizes=(32, 64))
    check_agreement("mine", held_by(then), again.metadata(), again.backbones)
    old = {key: value for key, value in held_by(prepared(**other)).items() if key != "batch_sizes"}
    check_agreement("mine", old, prepared(**other).metadata(), again.backbones)


@pytest.mark.parametrize(
    ("sizes", "words"), [((16, 6, 0), "positive multiples of 4, but got 6, 0"), ((8, 8), "differ")]
)
def test_batches_that_cannot_be_split_are_refused(sizes, words):
    with pytest.raises(SettingsError, match=f"--batch-sizes must .*{words}"):
        prepared(regime="finetune", backbones=("cnn",), batch_sizes=sizes)


# -- agreement ---------------------------------------------------------------------------------------------------------


def test_the_same_options_agree():
    made = prepared()
    check_agreement("mine", held_by(made), made.metadata(), made.backbones)


def test_options_that_change_no_trial_agree():
    """More trials, another time-out, another folder of the same weights: that is what going on is for."""
    then, now = prepared(), prepared(trials=99, timeout=5.0, max_failures=1, tracking=False)
    check_agreement("mine", held_by(then), now.metadata(), now.backbones)


def test_more_backbones_agree():
    then, now = prepared(), prepared(backbones=("staintex-s", "staintex-l"))
    check_agreement("mine", held_by(then), now.metadata(), now.backbones)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "phantom:cases=24,images=3,seed=1"}, "images, labels or cases: was"),
        ({"folds": 2}, r"split \(--folds"),
        ({"repeats": 2}, r"split \(--folds"),
        ({"test_fraction": 0.3}, r"split \(--folds"),
        ({"group_by": "image"}, r"split \(--folds"),
        ({"image_size": 64}, r"--image-size: was \[48\], is now \[64\]"),
        ({"resize": "squash"}, "--resize: was crop, is now squash"),
        ({"feature_backend": "keras"}, "--feature-backend: was auto, is now keras"),
        ({"feature_precision": "f32"}, "--feature-precision: was auto, is now f32"),
        ({"seed": 7}, "--seed: was 0, is now 7"),
        ({"backbones": ("staintex-l",)}, "fewer backbones: staintex-s was in the search space"),
    ],
)
def test_what_differs_is_named_with_both_values(changes, words):
    import re

    assert re.search(words, refusal(prepared(), prepared(**changes)))


def test_other_weights_of_the_same_name_are_named(tmp_path):
    made = prepared()
    other = replace(made.found, backbones=(Backbone("staintex-s", None, "another digest", "staintex"),))
    changed = StudyContext.of(made.settings, made.index, made.split, other, made.study, made.regime)
    assert "weights of staintex-s: the digest was" in refusal(made, changed)


def test_other_class_names_are_named():
    made = prepared()
    index = replace(made.index, class_names=("normal", "tumour"))
    changed = StudyContext.of(made.settings, index, made.split, made.found, made.study, made.regime)
    assert changed.task.class_names == ("normal", "tumour")
    assert "another task or other class names" in refusal(made, changed)


def test_a_study_from_before_tasks_were_stored_is_binary():
    made = prepared()
    held = {key: value for key, value in held_by(made).items() if key != "task"}
    check_agreement("mine", held, made.metadata(), made.backbones)


def test_another_space_is_named():
    made = prepared()
    held = held_by(made) | {"space": ["of an older version"]}
    with pytest.raises(StudyError, match="search space: was"):
        check_agreement("mine", held, made.metadata(), made.backbones)


def test_every_difference_is_named_at_once():
    """Else a person meets them one by one."""
    message = refusal(prepared(), prepared(image_size=64, seed=7, folds=2))
    assert all(word in message for word in ("--image-size", "--seed", "--folds"))


def test_what_a_study_keeps_is_json():
    import json

    facts = prepared().metadata()
    assert json.loads(json.dumps(facts)) == facts


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_plan_says_what_is_about_to_be_done():
    rows = dict(plan(finished=2, trials=5).rows)
    made = prepared()
    n_search, n_sealed = int(made.split.development.sum()), int(made.split.test.sum())
    assert f"{len(made.index)} images" in rows["data"]
    assert f"{n_search} images" in rows["search on"]
    assert "19 cases (8 benign, 11 malignant)" in rows["search on"]
    assert f"{n_sealed} images" in rows["sealed"]
    assert rows["folds"] == "3 folds by case"
    assert "48 px" in rows["regime"]
    assert rows["backbones"] == "staintex-s"
    assert rows["trials"] == "3 to do, 2 finished before"
    assert rows["study"] == f"{STUDY} in sqlite:///optuna.db"
    assert re.fullmatch(r"MLflow, at most [0-9.]+ MB of models", rows["results"])
    assert "never for screening patients" in rows["use"]


def test_the_plan_says_the_licences_of_weights(tmp_path):
    names = []
    for name, licence in (("uni", "cc-by-nc-4.0"), ("own", "mit"), ("optimus", "h-optimus"), ("new", "")):
        folder = Tiny().write_timm(tmp_path / name)
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n" if licence else "")
        names.append(str(folder))
    said = dict(plan(backbones=("staintex-s", *names)).rows)["licences"]
    assert said == (
        "cc-by-nc-4.0 (non-commercial): uni; mit: own; h-optimus (commercial use unknown): optimus; unknown: new. A "
        "non-commercial backbone makes its models non-commercial."
    )
    assert dict(plan(backbones=tuple(names[1:2])).rows)["licences"] == "mit: own"
    assert "licences" not in dict(plan().rows)  # filters need none


def test_the_plan_says_how_many_images_a_magnification_selects(tmp_path):
    source = open_data(settings().data)
    table = source.table[["path", "label", "case"]].copy()
    table["magnification"] = ["40" if at % 3 else "100" for at in range(len(table))]
    table.to_csv(tmp_path / "list.csv", index=False)
    said = dict(plan(data=str(tmp_path / "list.csv"), image_root=str(source.root), magnification="40x").rows)["data"]
    assert re.search(r"; at magnification 40X: [0-9]+ images \([0-9]+ benign, [0-9]+ malignant\)$", said)
    assert "magnification" not in dict(plan().rows)["data"]


def test_a_plan_without_trials_to_do_promises_no_models():
    assert dict(plan(finished=5, trials=5).rows)["results"] == "MLflow, no new models"


def test_a_plan_counts_the_models_that_are_kept():
    def size(keep):
        return dict(plan(finished=0, trials=50, keep_models=keep).rows)["results"]

    assert size("none") == "MLflow, no new models"
    assert size("best:50") == size("best:99") == size("all") != size("best:5")


def test_a_plan_without_tracking_names_no_store():
    assert "results" not in dict(plan(tracking=False).rows)


def test_repeats_stand_in_the_plan():
    assert "3 folds x 2 repeats" in dict(plan(repeats=2).rows)["folds"]


@pytest.fixture
def messy(tmp_path) -> Path:
    """24 images of 12 cases, each case in two spellings, one picture twice, and what is no image."""
    lines = ["path,label,case,stain"]
    for at in range(24):
        pixels = np.full((8, 8, 3), 10 * max(at, 1), np.uint8)  # the first two are the same
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
        lines.append(f"{at}.png,{at % 2},{('case', 'Case')[at % 2]}{at // 2},HE")
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "list.csv"


def test_what_is_wrong_with_the_data_stands_in_the_plan_and_beside_the_result(messy, monkeypatch):
    monkeypatch.chdir(messy.parent)
    said = plan(data=str(messy), folds=2).warnings
    expected = [
        "Images labelled both benign and malignant: 1, such as 0.png = 1.png.",
        "Cases with several spellings, kept together: 12, such as Case0 = case0.",
    ]
    assert "Column of the manifest not used: stain." in said
    assert set(expected) <= set(said)
    result = search(data=str(messy), folds=2, trials=1)
    assert set(expected) <= set(result.findings)
    assert all(f"- {sentence}" in summary_record(result, {}, {})["summary"] for sentence in expected)


def test_files_that_are_left_out_are_counted_in_the_plan(tmp_path):
    shutil.copytree(open_data(settings().data).root, tmp_path / "data")
    for file in (tmp_path / "data").glob("*.json"):
        file.unlink()
    for row in (plan(), plan(data=str(tmp_path / "data"))):
        assert "files" not in dict(row.rows)
    for name in ("a_mask.png", "Thumbs.db", "slide.svs"):
        (tmp_path / "data" / name).touch()
    rows = dict(plan(data=str(tmp_path / "data")).rows)
    assert rows["files"].startswith("3 files left out: ")
    assert all(part in rows["files"] for part in ("1 .png (mask or annotation)", "1 .db (thumbnail)", "1 .svs"))


def test_synthetic_data_are_said_to_be_so():
    said = plan()
    assert "synthetic" in dict(said.rows)["data"]
    assert any(SYNTHETIC in sentence for sentence in said.warnings)
    assert prepared().note == SYNTHETIC


@pytest.mark.data
def test_real_data_are_not_called_synthetic(breakhis):
    made = prepared(data=str(breakhis), folds=5)
    assert made.note == ""
    assert not any(SYNTHETIC in sentence for sentence in make_plan(made, SPACE, 0).warnings)


def test_a_division_by_case_leaks_nothing_and_one_by_image_says_what_it_leaks():
    assert plan().invalid == ()
    sentences = plan(group_by="image").invalid
    assert sentences
    assert any("case" in sentence for sentence in sentences)


def test_what_auto_left_out_is_said_with_the_reason(tmp_path, monkeypatch):
    """No weights anywhere and no network: the filters are always there, and everything else is named."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("bhsearch.models.backbones.keras_applications._online", lambda: False)
    rows = dict(plan(backbones=("auto",)).rows)
    assert rows["backbones"].startswith("staintex-s")
    assert "no internet connection" in rows["left out"]


# -- records and errors ------------------------------------------------------------------------------------------------


def test_the_images_are_those_of_development_only():
    made = prepared()
    images = made.images
    assert set(images.path) == set(made.development.column("path"))
    assert not set(images.path) & set(made.index.column("path")[made.split.test])
    assert images.fold.min() == 0
    assert images.fold.max() == 2
    probability = np.full(images.fold.shape, 0.25)
    predictions = images.predictions(probability)
    assert predictions.path.tolist() == images.path.tolist()
    assert predictions.probability is probability
    assert images.arrays()["case"].dtype.kind == "U"


def test_a_context_is_immutable_and_can_be_sent_to_a_worker():
    import pickle

    made = prepared()
    with pytest.raises(FrozenInstanceError):
        made.study = "other"
    again = pickle.loads(pickle.dumps(made))
    assert again.split.fingerprint == made.split.fingerprint
    assert again.metadata() == made.metadata()


def test_versions_name_what_a_result_can_depend_on():
    assert {"python", "bhsearch", "keras", "numpy", "optuna"} <= set(versions())


def test_the_audit_is_json():
    import json

    assert json.loads(json.dumps(prepared().audit.to_dict()))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"data": "nosuch"}, DataError, "nosuch"),
        ({"data": "phantom:cases=4"}, DataError, "fold"),
        ({"folds": 99}, InputError, "fold"),
        ({"magnification": "40X"}, SettingsError, "--magnification must be one of all, 100X"),
        ({"layout": "idc"}, SettingsError, "--layout"),
        ({"backbones": ("nosuch",)}, BackboneError, "staintex-s"),
        ({"backbones": ("nosuch.keras",)}, BackboneError, "no Keras model file 'nosuch.keras'"),
        ({"weights_dir": "nosuch"}, BackboneError, "--weights-dir"),
        ({"resize": "nosuch"}, SettingsError, "crop, squash, tiles, but got 'nosuch'"),
        ({"feature_backend": "nosuch"}, SettingsError, "auto, openvino, keras, but got 'nosuch'"),
        ({"sampler": "nosuch"}, SettingsError, "tpe, random, qmc, cmaes with --engine optuna, but got 'nosuch'"),
        ({"engine": "keras-tuner", "sampler": "tpe"}, SettingsError, "with --engine keras-tuner, but got 'tpe'"),
        (
            {"engine": "keras-tuner", "sampler": "hyperband"},
            SettingsError,
            "--sampler hyperband requires --regime finetune, but got --regime auto",
        ),
        ({"engine": "keras-tuner", "storage": "sqlite:///a.db"}, SettingsError, "--storage must be left out"),
        ({"engine": "keras-tuner", "pruner": "median"}, SettingsError, "--pruner must be none"),
        ({"image_size": 8}, SettingsError, "32 to 1024"),
        ({"group_by": "patient"}, SettingsError, "--group-by"),
    ],
)
def test_wrong_input_is_found_before_anything_is_made(tmp_path, monkeypatch, changes, kind, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=words):
        prepared(**changes)
    assert list(Path.cwd().iterdir()) == []


def test_the_plan_says_which_images_may_not_be_read_as_they_were_meant():
    made = prepared()
    first, second = made.index.table["path"][:2]
    odd = replace(made.index, range_used={first: 0.0625, second: 0.9}, pages_left_out={second: 3})
    changed = StudyContext.of(made.settings, odd, made.split, made.found, made.study, made.regime)
    said = make_plan(changed, SPACE, 0).warnings
    assert f"{NARROW}: 1, such as {first}: 6.2%." in said
    assert f"{PAGES}: 1, such as {second}: 3 not read." in said
    assert not any(sentence.startswith((NARROW, PAGES)) for sentence in make_plan(made, SPACE, 0).warnings)


@pytest.mark.parametrize(
    "changes", [{"folds": 1}, {"test_fraction": 1.5}, {"repeats": 0}, {"group_by": "patient"}, {"image_size": -96}]
)
def test_a_number_out_of_range_is_found_before_the_data_are_read(tmp_path, changes):
    (tmp_path / "benign").mkdir()
    (tmp_path / "benign" / "1.png").write_text("no picture")
    with pytest.raises(SettingsError):
        prepared(**{"data": str(tmp_path), **changes})
