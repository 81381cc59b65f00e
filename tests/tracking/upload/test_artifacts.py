"""What a trial and a study leave as files."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest

from bhsearch.evaluation.metrics import trial_metrics
from bhsearch.evaluation.predictions import DISCLAIMER, Predictions
from bhsearch.models.augmentation.device_transforms import SHOWN_SAMPLES, SHOWN_STRENGTHS
from bhsearch.tracking import keys
from bhsearch.tracking.upload import artifacts
from tests.evaluation.simulated import simulate
from tests.reporting.drawn import Drawn
from tests.tasks.samples import BINARY

NOTE = "Synthetic data (phantom)"
HISTORY = {"auc": [0.5, 0.6], "loss": [0.7, 0.6], "training_loss": [0.7, 0.5]}


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    return simulate(n_repeats=2, largest=6)


@pytest.fixture(scope="module")
def written(predictions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    values, ends = artifacts.score_and_interval(predictions, BINARY)
    pixels = np.full((len(predictions), 1, 32, 32, 3), 200, np.uint8)
    artifacts.write_trial(folder, predictions, BINARY, values, ends, HISTORY, pixels, NOTE)
    return folder


def test_the_score_is_inside_its_interval_and_the_metrics_are_those_of_the_trial(predictions):
    values, ends = artifacts.score_and_interval(predictions, BINARY)
    assert ends.low == values["auc_low"] < values["auc"] < values["auc_high"] == ends.high
    assert trial_metrics(predictions, BINARY).items() <= values.items()


def test_the_interval_is_the_same_each_time(predictions):
    """Every trial is drawn with the same weights, or their intervals could not be compared."""
    assert artifacts.score_and_interval(predictions, BINARY) == artifacts.score_and_interval(predictions, BINARY)


def test_every_picture_can_be_opened(written):
    pictures = list((written / "pictures").iterdir())
    assert len(pictures) == 6
    for file in pictures:
        drawn = Drawn(file.read_bytes())
        assert NOTE in drawn.words, file
        assert drawn.outside() == [], file


def test_predictions_come_back_and_say_what_they_are_for(written, predictions):
    file = written / keys.PREDICTIONS
    assert (pd.read_csv(file)["use"] == f"{NOTE}. {DISCLAIMER}").all()
    assert DISCLAIMER in file.with_name("out_of_fold_predictions.README.txt").read_text()
    assert (Predictions.from_csv(file).probability == predictions.probability.astype(np.float32)).all()


def test_every_table_is_plain_csv_of_six_digits(written):
    for file in written.glob("*.csv"):
        table = pd.read_csv(file, dtype=str)
        numbers = [name for name in table if "probability" in name or "rate" in name or name == "threshold"]
        assert numbers
        for value in table[numbers].to_numpy().ravel():
            assert len(value.split("e")[0].replace(".", "").replace("-", "").lstrip("0")) <= 6, (file, value)


def test_the_roc_points_run_from_corner_to_corner(written):
    with (written / "roc.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 10
    rates = [name for name in rows[0] if "positive" in name or name in ("fpr", "tpr")]
    assert len(rates) == 2
    for name in rates:
        values = [float(row[name]) for row in rows]
        assert min(values) == pytest.approx(0.0)
        assert max(values) == pytest.approx(1.0)


def test_the_report_says_that_the_data_are_synthetic(written):
    assert NOTE in (written / "classification_report.txt").read_text()


def trial(state="COMPLETE", value=0.6):
    complete = state == "COMPLETE"
    notes = {"seconds": 3.0} if complete else {"reason": "it failed"}
    params = {"backbone": "cnn", "rate": 0.1, "kind": "a"}
    return {"state": state, "value": value if complete else None, "params": params, "notes": notes}


def study(trials, **changes):
    best = [{"name": "trial 0", "score": 0.6, "low": 0.5, "high": 0.7, "tied": True}]
    return {"trials": trials, "importances": {}, "log": ["rate"], "best": best, **changes}


@pytest.mark.parametrize(
    ("record", "pictures"),
    [
        (study([trial(), trial("FAIL"), trial(value=0.7)]), {"history", "slice", "cost", "best_trials"}),
        (
            study([trial()], importances={"rate": 0.8, "kind": 0.2}),
            {"history", "slice", "cost", "best_trials", "importances"},
        ),
        (study([trial("PRUNED")], best=[]), {"history"}),
        (study([trial("FAIL")], best=[]), {"history"}),
    ],
)
def test_a_study_gets_the_pictures_that_it_has_numbers_for(tmp_path, record, pictures):
    """A study of failures, or of one trial, must not make the logging fail."""
    artifacts.write_study(tmp_path, record, {}, NOTE)
    assert {file.stem for file in (tmp_path / "pictures").iterdir()} == pictures
    assert json.loads((tmp_path / "trials.json").read_text()) == record


def test_a_study_that_augments_shows_what_each_policy_does(tmp_path):
    n_pictures = 1 + SHOWN_SAMPLES * len(SHOWN_STRENGTHS)
    pictures = np.random.default_rng(0).integers(0, 255, (2, n_pictures, 32, 32, 3), np.uint8)
    record = study([trial()], policies=["stain", "zoom"])
    artifacts.write_study(tmp_path, record, {"augmentation": pictures}, NOTE)
    drawn = Drawn((tmp_path / "pictures/augmentation.svg").read_bytes())
    assert len(drawn.all("image")) == 2 * n_pictures
    with pytest.raises(ValueError, match="zip"):
        artifacts.write_study(tmp_path / "other", record | {"policies": ["stain"]}, {"augmentation": pictures}, NOTE)


def test_no_value_of_a_trial_is_lost_in_the_scores(predictions):
    values, _ = artifacts.score_and_interval(predictions, BINARY)
    assert all(math.isfinite(value) for value in values.values())
