from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.evaluation.metrics import trial_metrics
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.subgroups import UNNAMED, subgroup_results, worst_cases
from bhsearch.evaluation.thresholds import HardLabels, cross_fitted_labels
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY


def tiny() -> tuple[Predictions, HardLabels]:
    """Three cases: all right, half right, all wrong; one threshold for all."""
    text = {name: np.array(list("aabbcc"), dtype=object) for name in ("path", "case")}
    predictions = Predictions(
        label=np.array([0, 0, 1, 1, 1, 1], np.int8),
        probability=np.array([[0.1, 0.2, 0.9, 0.3, 0.4, 0.01]]),
        fold=np.zeros((1, 6), np.int8),
        group=np.array([0, 0, 1, 1, 2, 2]),
        stratum=np.zeros(6, np.int64),
        subtype=np.array(["A", "A", "DC", "DC", "DC", "DC"], dtype=object),
        magnification=np.array([""] * 6, dtype=object),
        **text,
    )
    return predictions, HardLabels((predictions.probability >= 0.5).astype(np.int8), np.array([[0.5]]))


def test_every_case_counts_the_same_in_a_part():
    benign, malignant = subgroup_results(*tiny(), "subtype", task=BINARY)
    assert (benign.name, benign.kind, benign.n_images, benign.n_cases, benign.accuracy) == ("A", "benign", 2, 1, 1.0)
    assert (malignant.accuracy, malignant.by_case, malignant.n_cases) == (0.25, (0.0, 0.5), 2)
    assert benign.auc is malignant.auc is None


def test_the_share_of_a_subtype_is_the_recall_that_is_logged():
    predictions = simulate(n_repeats=2)
    metrics = trial_metrics(predictions, BINARY)
    for part in subgroup_results(predictions, cross_fitted_labels(predictions, BINARY), "subtype", BINARY):
        assert part.accuracy == pytest.approx(metrics[f"recall/{part.name}"])
    for part in subgroup_results(predictions, cross_fitted_labels(predictions, BINARY), "magnification", BINARY):
        assert part.auc == pytest.approx(metrics[f"magnification/{part.name}"])


def test_images_without_a_value_are_a_part_of_their_own():
    (part,) = subgroup_results(*tiny(), "magnification", task=BINARY)
    assert (part.name, part.kind, part.n_images) == (UNNAMED, "both", 6)
    assert part.auc is not None


def test_parts_hold_every_image_once_and_are_in_order():
    predictions = simulate()
    parts = subgroup_results(predictions, cross_fitted_labels(predictions, BINARY), "case", BINARY)
    assert sum(part.n_images for part in parts) == len(predictions)
    assert [part.kind for part in parts] == sorted(part.kind for part in parts)
    names = [
        part.name
        for part in subgroup_results(predictions, cross_fitted_labels(predictions, BINARY), "magnification", BINARY)
    ]
    assert names == ["40X", "100X"]


def test_the_worst_case_comes_first_with_its_worst_image():
    worst = worst_cases(*tiny(), task=BINARY)
    assert [(item.name, item.accuracy, item.row) for item in worst] == [("c", 0.0, 5), ("b", 0.5, 3), ("a", 1.0, 1)]
    assert worst[0].caption == "case c, malignant, P(malignant) 0.01; 0% of 2 images right"
    assert worst_cases(*tiny(), most=1, task=BINARY) == worst[:1]


def test_a_case_without_a_name_has_one_to_be_shown():
    predictions, decisions = tiny()
    predictions = replace(predictions, case=np.array([""] * 6, dtype=object))
    assert {item.name for item in worst_cases(predictions, decisions, BINARY)} == {UNNAMED}
