"""What a model carries about its training images, and what `predict` says of images that differ from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bhsearch
from bhsearch.cli import terminal
from bhsearch.data.open_data import open_data
from bhsearch.evaluation.drift import image_statistics
from bhsearch.lifecycle import predict
from bhsearch.lifecycle.validation.training_facts import (
    Batch,
    TrainingFacts,
    compare,
    magnification_in_name,
    sampled_rows,
)
from bhsearch.models.calibrated import ImageOutput
from bhsearch.predict import app
from bhsearch.study.events import ProgressReporter
from tests.registered import DATA, NAME

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MODEL = f"{NAME}/2"
FRESH = "phantom:cases=12,images=2,difficulty=0.2,seed=3"


@pytest.fixture
def model(inside):
    return predict.open_model(MODEL, ProgressReporter())


def batch_of(size=(50, 50), n_cases=1, magnification="", n_images=1, value=90) -> Batch:
    batch = Batch()
    image = np.full((*size, 3), value, np.uint8)
    for case in range(n_cases):
        for _ in range(n_images):
            output = ImageOutput(0.5, 0.5, np.zeros(3, np.float32), size)
            batch.add(f"c{case}", magnification, output, image_statistics(image))
    return batch


FACTS = TrainingFacts((460.0, 460.0), (700.0, 700.0), 0.05, ("100X",), 1, {})


def test_another_size_is_said_once_for_the_batch():
    (warning,) = compare(batch_of(n_cases=3), FACTS).warnings
    assert "3 of 3 images have another size" in warning
    assert "50 x 50 pixels, but 700 x 460 in training" in warning
    assert compare(batch_of((460, 700)), FACTS).warnings == ()
    assert compare(batch_of((440, 690)), FACTS).warnings == ()  # within a tenth


def test_as_many_small_images_as_a_training_case_has_are_no_difference():
    batch = batch_of((460, 700), n_cases=9)
    batch.sizes.append((460, 300))
    assert compare(batch, FACTS).warnings
    assert compare(batch, replace(FACTS, odd_sizes=0.1)).warnings == ()


def test_another_magnification_is_said_and_unknown_ones_are_not():
    (warning,) = compare(batch_of((460, 700), magnification="400X"), FACTS).warnings
    assert "1 of 1 image has the magnification 400X, but the model was trained on 100X" in warning
    for known in ("100x", ""):
        assert compare(batch_of((460, 700), magnification=known), FACTS).warnings == ()
    assert compare(batch_of((460, 700), magnification="40X"), replace(FACTS, magnifications=())).warnings == ()


def test_a_magnification_is_read_from_a_breakhis_name():
    assert magnification_in_name("SOB_M_DC-14-90001-400-001.png") == "400X"
    assert magnification_in_name("10253_idx5_x1_y51_class0.png") == ""


def test_at_most_twelve_images_of_a_case_are_kept():
    batch = batch_of(n_cases=2, n_images=30)
    assert len(batch.sizes) == 60
    assert batch.case_means("texture").n_images.tolist() == [12, 12]
    rows = sampled_rows(["a"] * 30 + ["b"] * 3)
    assert len(rows) == 15
    assert rows[0] == 0
    assert rows[11] == 29


def test_a_model_without_facts_says_that_nothing_is_checked():
    assert "register it again" in compare(batch_of(), None).unchecked


def test_a_registered_model_carries_facts_and_no_images(model):
    facts = model.facts
    index = open_data(DATA)
    height, width = np.asarray(Image.open(index.paths()[0])).shape[:2]
    assert (facts.heights, facts.widths) == ((height, height), (width, width))
    assert facts.magnifications == tuple(set(index.column("magnification")))
    assert sorted(facts.tests) == ["colour", "encoder", "texture"]
    for test in facts.tests.values():
        assert test.reference.n_cases == 48  # half of the development cases
        assert sorted(test.thresholds) == [5, 10]
        assert max(test.false_alarms.values()) <= 0.02


def test_probabilities_are_the_same_whether_or_not_features_are_collected(model):
    files = open_data(FRESH).paths()
    case = predict.case_of(None)
    plain = list(predict.predict(model, files, case, [], lambda done, total: None))
    rows, _ = predict.predict_all(model, files, case, [], lambda done, total: None)
    assert [row.probability for row in rows] == pytest.approx([row.probability for row in plain], rel=1e-5)


def test_images_like_the_training_images_raise_no_warning_and_dark_ones_do(model, tmp_path):
    files = open_data(FRESH).paths()
    case, silent = predict.case_of(None), lambda done, total: None
    _, differences = predict.predict_all(model, files, case, [], silent)
    assert differences.warnings == ()
    assert set(differences.drift) == {"colour", "encoder", "texture"}
    dark = []
    for file in files:
        Image.fromarray((np.asarray(Image.open(file)) * 0.7).astype(np.uint8)).save(tmp_path / file.name)
        dark.append(tmp_path / file.name)
    _, differences = predict.predict_all(model, dark, case, [], silent)
    assert any("the drift score is" in warning for warning in differences.warnings)
    _, differences = predict.predict_all(model, dark[:4], case, [], silent)
    assert differences.warnings == ()
    assert "needs 5 known cases" in differences.unchecked


def small_images(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(folder / f"{number}.png")


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--strict",), 1)])
def test_a_warning_ends_the_command_with_one_if_it_is_strict(inside, tmp_path, monkeypatch, capsys, words, code):
    small_images(tmp_path / "in")
    monkeypatch.setattr("sys.argv", ["bhsearch.predict", str(tmp_path / "in"), "--model", MODEL, *words])
    with pytest.raises(SystemExit) as caught:
        terminal.main(app, "python -m bhsearch.predict")
    shown = capsys.readouterr()
    assert caught.value.code == code
    assert "warning: 3 of 3 images have another size" in shown.err
    assert len(shown.out.splitlines()) == 4


def test_the_function_lists_warnings_and_cases(inside):
    index = open_data(FRESH)
    frame = bhsearch.predict_images(index.root, model=MODEL, quiet=True)
    assert frame.attrs["warnings"] == []
    cases = frame.attrs["cases"].set_index("case")
    assert len(cases) == 12
    assert cases["n_images"].sum() == len(frame)
    mean = frame.groupby("case")["probability"].mean()
    assert cases["probability"].to_dict() == pytest.approx(mean.to_dict(), abs=1e-5)
