"""The binary task, and a task with other class names that goes through everything that takes a task."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.data.stratify import strata_of
from bhsearch.errors import DataError
from bhsearch.evaluation import calibration, metrics, thresholds
from bhsearch.evaluation.bootstrap import bootstrap_metric, bootstrap_scores, group_draws
from bhsearch.evaluation.calibration import NO_CALIBRATION, Calibration, operating_point
from bhsearch.evaluation.metrics import METRICS, metrics_of, trial_metrics
from bhsearch.evaluation.selection.bbc_cv import corrected_score
from bhsearch.evaluation.subgroups import subgroup_results, worst_cases
from bhsearch.evaluation.thresholds import classification_text, cross_fitted_labels
from bhsearch.models.losses import LINKS, LOSSES
from bhsearch.objectives import scoring
from bhsearch.objectives.scoring import OutOfFoldScorer
from bhsearch.reporting.figures import trial
from bhsearch.reporting.figures.image_grid import pick_examples
from bhsearch.tasks.base import Task
from bhsearch.tasks.binary import BinaryTask
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

TUMOUR: Task = BinaryTask(("normal", "tumour"), name="tumour")


def test_every_name_of_the_task_is_implemented():
    assert BINARY.loss in LOSSES
    assert BINARY.loss in scoring.LOSSES
    assert BINARY.link in LINKS
    assert BINARY.link in scoring.LINKS
    assert BINARY.score in METRICS
    assert set(BINARY.metrics) == set(METRICS)
    assert BINARY.threshold_rule in thresholds.RULES
    assert BINARY.calibration in calibration.METHODS


def test_labels_are_positions_of_class_names():
    assert [BINARY.encode(name) for name in CLASS_NAMES] == [0, 1]
    assert TUMOUR.encode("tumour") == 1
    with pytest.raises(DataError, match="normal and tumour, but got 'malignant'"):
        TUMOUR.encode("malignant")


@pytest.mark.parametrize("names", [("one",), ("a", "b", "c"), ("same", "same")])
def test_a_binary_task_has_two_classes(names):
    with pytest.raises(ValueError, match="two different class names"):
        BinaryTask(names)


def test_strata_are_those_of_the_split():
    unit, label = np.repeat(np.arange(20), 3), (np.arange(60) % 7 < 3).astype(np.int8)
    assert np.array_equal(BINARY.strata(unit, label), strata_of(unit, label))


def test_class_names_of_a_task_reach_tables_captions_and_figures():
    predictions = simulate()
    decisions = cross_fitted_labels(predictions, TUMOUR)
    text = classification_text(predictions, TUMOUR)
    assert "tumour" in text
    assert "malignant" not in text
    assert {group.kind for group in subgroup_results(predictions, decisions, "subtype", TUMOUR)} == {"normal", "tumour"}
    worst = worst_cases(predictions, decisions, TUMOUR)
    assert all("P(tumour)" in case.caption for case in worst)
    assert {case.kind for case in worst_cases(predictions, decisions, TUMOUR, 99)} == {"normal", "tumour"}
    assert {example.caption.split()[2] for example in pick_examples(predictions, decisions, TUMOUR)} == {
        "normal",
        "tumour",
    }
    matrix = metrics.confusion(predictions, decisions.predicted, predictions.weight)
    picture = trial.confusion_picture(matrix, matrix, TUMOUR)
    assert picture.panels[0].figure.x.labels == ["normal", "tumour"]


def test_a_task_chooses_its_metrics():
    few = replace(BINARY, metrics=("auc", "brier"))
    assert list(metrics_of(few)) == ["auc", "brier"]
    found = trial_metrics(simulate(), few)
    assert "brier" in found
    assert {"sensitivity", "ece"}.isdisjoint(found)


def test_a_task_chooses_its_threshold_rule_and_calibration(monkeypatch):
    predictions = simulate()
    monkeypatch.setitem(thresholds.RULES, "fixed", lambda label, probability, weight: 0.25)
    monkeypatch.setitem(calibration.METHODS, "flip", lambda probability, label, weight: Calibration(1.0, -9.0))
    other = replace(BINARY, threshold_rule="fixed", calibration="flip")
    assert (cross_fitted_labels(predictions, other).threshold == 0.25).all()
    point = operating_point(predictions, other)
    assert point.threshold == 0.25
    assert point.calibration == NO_CALIBRATION  # this one makes the Brier score worse
    assert point.brier_after > point.brier_before


def test_a_task_chooses_its_score():
    predictions = simulate(n_repeats=2)
    other = replace(BINARY, score="average_precision")
    labels = cross_fitted_labels(predictions, BINARY)
    metric = metrics.METRICS["average_precision"]
    assert metrics.score(predictions, other) == metric.value(predictions, labels)
    draws = group_draws(predictions.group, predictions.stratum, 20)
    expected = bootstrap_metric(metric, predictions, labels, draws)
    assert np.array_equal(bootstrap_scores(predictions, draws, other), expected)
    assert corrected_score([predictions], other, 20).raw == metrics.score(predictions, other)
    scorer = OutOfFoldScorer(predictions.label, predictions.fold, predictions.group, other)
    rows = np.flatnonzero(predictions.fold[1] == 2)
    expected = metrics.fold_scores(predictions, metrics.weighted_average_precision)[1, 2]
    assert scorer.fold_score(1, rows, predictions.probability[1, rows]) == expected


def test_the_loss_and_link_are_those_of_keras():
    logits, target = np.array([-3.0, 0.0, 0.5, 4.0], np.float32), np.array([0.0, 1.0, 0.3, 1.0], np.float32)
    expected = [
        float(keras.losses.binary_crossentropy(target[k : k + 1], logits[k : k + 1], from_logits=True))
        for k in range(4)
    ]
    assert np.asarray(LOSSES[BINARY.loss](logits, target)) == pytest.approx(expected, abs=1e-6)
    assert np.asarray(LINKS[BINARY.link](logits)) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    label = np.array([0, 1, 1, 0], np.int8)
    assert scoring.LOSSES[BINARY.loss](logits, label) == pytest.approx(np.asarray(LOSSES[BINARY.loss](logits, label)))
    assert scoring.LINKS[BINARY.link](logits) == pytest.approx(np.asarray(LINKS[BINARY.link](logits)))
