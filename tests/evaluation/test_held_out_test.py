"""The test's metrics are those of a trial at a fixed threshold, and their intervals are of cases, not of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from bhsearch.evaluation import held_out_test
from bhsearch.evaluation.bootstrap import bootstrap_metric, group_draws
from bhsearch.evaluation.calibration import operating_point
from bhsearch.evaluation.curves import precision_recall_band, roc_band
from bhsearch.evaluation.metrics import METRICS, calibration_bins
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.supplementary.decision_curve import decision_curve
from bhsearch.evaluation.supplementary.supplements import TITLES
from bhsearch.reporting.figures import held_out_test as figures
from tests.reporting.drawn import Drawn
from tests.tasks.samples import BINARY


def simulated(n_cases=30, images=4, seed=0):
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_cases), random.integers(1, 2 * images, n_cases))
    label = (group % 2).astype(np.int8)
    of_case = random.normal(0, 1, n_cases)[group]
    probability = 1 / (1 + np.exp(-(label * 1.2 - 0.6 + of_case + random.normal(0, 0.3, len(group)))))
    names = np.array([f"case {g}" for g in group], dtype=object)
    blank = np.full(len(group), "", dtype=object)
    return Predictions(
        label, probability[None], np.zeros((1, len(group)), np.int8), group, label.astype(np.int64),
        np.array([f"{k}.png" for k in range(len(group))], dtype=object), names, blank, blank,
    )  # fmt: skip


def repeated(predictions, times):
    rows = np.tile(np.arange(len(predictions)), times)
    return Predictions(
        **{
            name: getattr(predictions, name)[rows]
            for name in ("label", "group", "stratum", "path", "case", "subtype", "magnification")
        },
        probability=predictions.probability[:, rows],
        fold=predictions.fold[:, rows],
    )


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_values_are_those_of_scikit_learn_at_the_fixed_threshold(threshold):
    predictions = simulated()
    tested = held_out_test.evaluate_test(predictions, predictions.probability[0], threshold, BINARY, n_draws=50)
    weight, probability = predictions.weight[0], predictions.probability[0]
    assert tested.values["auc"] == pytest.approx(roc_auc_score(predictions.label, probability, sample_weight=weight))
    expected = balanced_accuracy_score(predictions.label, probability >= threshold, sample_weight=weight)
    assert tested.values["balanced_accuracy"] == pytest.approx(expected)
    assert "auc_fold_std" not in tested.values


def test_a_draw_of_every_case_once_gives_the_values_themselves():
    """Each interval is of the very metric whose name it has."""
    predictions = simulated()
    once = np.ones((1, len(np.unique(predictions.group))), np.int64)
    tested = held_out_test.evaluate_test(predictions, predictions.probability[0] ** 2, 0.6, BINARY, n_draws=10)
    found = {
        name: bootstrap_metric(METRICS[name.removesuffix("_uncalibrated")], source, tested.decisions, once)
        for source, names in (
            (tested.predictions, METRICS),
            (tested.uncalibrated, ("brier_uncalibrated", "ece_uncalibrated")),
        )
        for name in names
    }
    assert set(found) == set(tested.intervals) - set(TITLES)
    for name, (value,) in found.items():
        assert value == pytest.approx(tested.values[name], abs=1e-12), name


def test_repeating_every_image_of_every_case_changes_no_interval():
    predictions = simulated()
    one = held_out_test.evaluate_test(predictions, predictions.probability[0], 0.5, BINARY)
    three = repeated(predictions, 3)
    other = held_out_test.evaluate_test(three, three.probability[0], 0.5, BINARY)
    for name, ends in one.intervals.items():
        assert other.intervals[name] == pytest.approx(ends), name


def test_calibration_is_told_before_and_after():
    predictions = simulated()
    tested = held_out_test.evaluate_test(
        predictions, np.clip(predictions.probability[0] * 0.2, 0, 1), 0.5, BINARY, n_draws=20
    )
    assert tested.values["ece_uncalibrated"] > tested.values["ece"]
    assert tested.values["brier_uncalibrated"] > tested.values["brier"]
    mass, mean, share = (values[0] for values in calibration_bins(tested.uncalibrated))
    gaps = np.where(mass > 0, mass * np.abs(mean - share), 0)
    assert tested.values["ece_uncalibrated"] == pytest.approx(gaps.sum())


def test_flat_names_carry_the_prefix_and_both_ends():
    predictions = simulated()
    flat = held_out_test.evaluate_test(predictions, predictions.probability[0], 0.5, BINARY, n_draws=20).flat()
    assert {"test/auc", "test/auc_low", "test/auc_high", "test/ece_uncalibrated"} <= set(flat)
    assert all(name.startswith("test/") and isinstance(value, float) for name, value in flat.items())


def test_pictures_are_svg_files_and_differ_with_the_note():
    predictions = simulated()
    tested = held_out_test.evaluate_test(predictions, predictions.probability[0], 0.5, BINARY, n_draws=20)
    plain, noted = figures.pictures(tested), figures.pictures(tested, "synthetic")
    assert set(plain) == {"roc", "precision_recall", "calibration", "confusion_matrix"}
    for name, content in plain.items():
        assert Drawn(content).outside() == [], name
        assert content != noted[name], name


def test_the_grid_takes_the_pixels_of_the_rows_it_shows():
    predictions = simulated()
    tested = held_out_test.evaluate_test(predictions, predictions.probability[0], 0.5, BINARY, n_draws=20)
    asked = []

    def pixels_of(row):
        asked.append(row)
        return np.full((32, 32, 3), row % 256, np.uint8)

    assert len(Drawn(figures.worst_and_best(tested, pixels_of)).all("image")) == len(asked)
    wrong = tested.decisions.predicted[0] != predictions.label
    assert wrong[asked].any()
    assert not wrong[asked].all()


def test_a_model_that_knows_nothing_has_an_interval_around_a_half():
    predictions = simulated(n_cases=60)
    random = np.random.default_rng(1)
    blind = replace(predictions, probability=random.uniform(0, 1, predictions.probability.shape))
    ends = held_out_test.evaluate_test(blind, blind.probability[0], 0.5, BINARY).intervals["auc"]
    assert ends.low < 0.5 < ends.high


def test_sensitivity_and_specificity_at_fixed_rates_are_those_of_scikit_learn():
    predictions = simulated()
    rates = operating_point(predictions, BINARY).fixed_rates
    tested = held_out_test.evaluate_test(
        predictions, predictions.probability[0], 0.5, BINARY, n_draws=50, fixed_rates=rates
    )
    for rate, threshold in rates.items():
        for name, value in (("sensitivity", 1), ("specificity", 0)):
            expected = recall_score(
                predictions.label,
                predictions.probability[0] >= threshold,
                sample_weight=predictions.weight[0],
                pos_label=value,
            )
            key = f"{name}_at_{rate}"
            assert tested.values[key] == pytest.approx(expected)
            assert tested.intervals[key].low <= expected <= tested.intervals[key].high
    title = held_out_test.metric_title("specificity_at_sensitivity_95")
    assert title == "specificity at the threshold for 95 % sensitivity"


def test_a_class_with_a_single_case_has_no_interval_anywhere():
    """Neither in the numbers for MLflow, nor in the bands of curves: every resample contains the case once."""
    many = simulated()
    few = many.select((many.label == 0) | (many.group == 1))
    tested = held_out_test.evaluate_test(few, few.probability[0], 0.5, BINARY, fixed_rates={"sensitivity_95": 0.4})
    varying = {name for name in tested.intervals if name.partition("_at_")[0] == "specificity"}
    assert varying
    for name, pair in tested.intervals.items():
        assert np.isfinite(pair).all() == (name in varying), name
    logged = {name for name, value in tested.flat().items() if np.isfinite(value)}
    assert "test/auc" in logged
    assert not {"test/auc_low", "test/sensitivity_low", "test/brier_high"} & logged
    draws = group_draws(few.group, few.stratum, 50)
    assert not roc_band(few, draws).has_interval
    assert not precision_recall_band(few, draws).has_interval
    assert not np.isfinite(decision_curve(few, draws).low).any()
