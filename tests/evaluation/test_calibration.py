"""Platt's line and the threshold on it: what they find, and what must not change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from bhsearch.errors import DataError
from bhsearch.evaluation.calibration import (
    NO_CALIBRATION,
    SLOPES,
    Calibration,
    fit_calibration,
    logit,
    operating_point,
)
from bhsearch.evaluation.predictions import Predictions, case_weights
from bhsearch.evaluation.thresholds import best_threshold
from tests.evaluation.simulated import reorder, simulate
from tests.tasks.samples import BINARY


def drawn(n: int, slope: float, offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are off by a known line on logits, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, n)
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-(slope * x + offset)))).astype(np.int8)
    return 1 / (1 + np.exp(-x)), label


def test_the_line_that_labels_were_drawn_from_is_found() -> None:
    probability, label = drawn(40_000, slope=0.4, offset=-0.7)
    found = fit_calibration(probability, label, np.ones(len(label)))
    assert (found.slope, found.offset) == pytest.approx((0.4, -0.7), abs=0.03)


def test_it_is_the_weighted_logistic_regression_on_platts_targets() -> None:
    """Each row split into its two labels, with the target as their shares."""
    probability, label = drawn(300, slope=1.5, offset=0.5)
    weight = np.random.default_rng(1).uniform(0.1, 1, 300)
    positive, negative = (weight * label).sum(), (weight * (1 - label)).sum()
    target = np.where(label == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logit(probability), 2)[:, None],
        np.repeat([1, 0], 300),
        sample_weight=np.concatenate([weight * target, weight * (1 - target)]),
    )
    found = fit_calibration(probability, label, weight)
    assert found.slope == pytest.approx(peer.coef_[0, 0], abs=1e-4)
    assert found.offset == pytest.approx(peer.intercept_[0], abs=1e-4)


def test_a_calibrated_model_has_the_right_rate_of_the_malignant() -> None:
    """The weighted mean of the probabilities is that of the targets: the offset's equation."""
    probability, label = drawn(4000, slope=0.5, offset=1.0)
    calibrated = fit_calibration(probability, label, np.ones(4000)).apply(probability)
    assert calibrated.mean() == pytest.approx(label.mean(), abs=1e-3)


@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.01, 0.3, 1.0, 20.0]),
    turned=st.booleans(),
    n=st.integers(4, 60),
)
@settings(max_examples=30, deadline=None)
def test_the_slope_is_above_zero_whatever_comes_in(seed: int, scale: float, turned: bool, n: int) -> None:
    """Even where the model ranks the wrong way round: a calibration never turns a ranking over."""
    rng = np.random.default_rng(seed)
    label = np.resize([0, 1], n).astype(np.int8)
    x = (rng.normal(size=n) + 2 * label) * scale * (-1 if turned else 1)
    probability = 1 / (1 + np.exp(-np.clip(x, -80, 80)))
    found = fit_calibration(probability, label, rng.uniform(0.1, 1, n))
    assert SLOPES[0] <= found.slope <= SLOPES[1]
    assert np.isfinite(found.offset)
    calibrated = found.apply(probability)
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    assert (np.diff(calibrated[np.argsort(probability)]) >= 0).all()


def test_a_ranking_that_is_upside_down_gets_the_flattest_slope() -> None:
    probability, label = drawn(2000, slope=-1.0, offset=0.0)
    assert fit_calibration(probability, label, np.ones(2000)).slope == SLOPES[0]


def test_classes_that_are_apart_do_not_make_the_slope_endless() -> None:
    label = np.repeat([0, 1], 20).astype(np.int8)
    found = fit_calibration(np.where(label == 1, 0.8, 0.2), label, np.ones(40))
    assert 0.5 < found.slope < 5
    assert found.apply(np.array([0.8]))[0] == pytest.approx(21 / 22, abs=1e-3)  # Platt's target of 20 malignant ones


def test_probabilities_of_nought_and_one_are_no_trouble() -> None:
    label = np.resize([0, 1], 30).astype(np.int8)
    probability = np.where(np.arange(30) % 7 == 0, 1 - label, label).astype(np.float32)
    found = fit_calibration(probability, label, np.ones(30))
    assert np.isfinite(found.apply(probability)).all()
    assert np.isfinite(Calibration(2.0, 0.1).apply(np.array([0.0, 1.0], np.float32))).all()


def test_no_calibration_without_both_classes() -> None:
    with pytest.raises(DataError, match="total weight of benign images is 0"):
        fit_calibration(np.full(3, 0.5), np.ones(3, np.int8), np.ones(3))
    with pytest.raises(DataError, match="malignant images 0"):
        fit_calibration(np.full(2, 0.5), np.array([0, 1], np.int8), np.array([1, 0]))


def test_the_identity_is_a_calibration() -> None:
    probability = np.array([[0.1, 0.5], [0.7, 0.999]])
    assert np.allclose(Calibration(1.0, 0.0).apply(probability), probability, rtol=0, atol=1e-12)


def test_the_operating_point_counts_every_case_the_same_and_averages_logits() -> None:
    predictions = simulate(30, n_repeats=3)
    averaged = 1 / (1 + np.exp(-logit(predictions.probability).mean(axis=0)))
    weight = case_weights(predictions.group, np.zeros((1, len(predictions)), np.int8))[0]
    point = operating_point(predictions, BINARY)
    peer = fit_calibration(averaged, predictions.label, weight)
    assert (point.calibration.slope, point.calibration.offset) == pytest.approx((peer.slope, peer.offset), abs=1e-6)
    calibrated = point.calibration.apply(averaged)
    assert point.threshold == pytest.approx(best_threshold(predictions.label, calibrated, weight), abs=1e-9)
    unweighted = fit_calibration(averaged, predictions.label, np.ones(len(weight)))
    assert abs(unweighted.offset - point.calibration.offset) > 0.01


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
@settings(max_examples=10, deadline=None)
def test_copies_of_every_image_and_another_order_change_nothing(seed: int, copies: int) -> None:
    base = simulate(14, n_folds=3, seed=seed, largest=8)
    rows = np.random.default_rng(seed).permutation(np.tile(np.arange(len(base)), copies))
    one, other = operating_point(base, BINARY), operating_point(reorder(base, rows), BINARY)
    assert (other.calibration.slope, other.calibration.offset, other.threshold) == pytest.approx(
        (one.calibration.slope, one.calibration.offset, one.threshold), abs=1e-4
    )


def test_the_same_predictions_give_the_same_point_bit_for_bit() -> None:
    assert operating_point(simulate(20), BINARY) == operating_point(simulate(20), BINARY)


def single_images(probability: np.ndarray, label: np.ndarray) -> Predictions:
    """Predictions of cases with one image each."""
    n = len(label)
    text = np.full(n, "", dtype=object)
    fold = np.zeros((1, n), np.int8)
    return Predictions(label, probability[None], fold, np.arange(n), label.astype(np.int64), text, text, text, text)


def test_a_calibration_that_makes_the_brier_score_worse_on_other_cases_is_left_out() -> None:
    """The probabilities are right as they are; a line fitted on thirty cases adds its own error, as a rule."""
    left_out = 0
    for seed in range(10):
        point = operating_point(single_images(*drawn(30, slope=1.0, offset=0.0, seed=seed)), BINARY)
        is_worse = point.brier_after > point.brier_before
        assert (point.calibration == NO_CALIBRATION) == is_worse
        if is_worse:
            assert f"from {point.brier_before:.4f} to {point.brier_after:.4f}" in str(point)
        left_out += is_worse
    assert left_out > 2


def test_a_calibration_that_helps_is_applied() -> None:
    for slope, offset in ((0.3, 0.0), (1.0, -1.5), (3.0, 0.5)):
        point = operating_point(single_images(*drawn(300, slope, offset)), BINARY)
        assert point.brier_after < point.brier_before
        assert point.calibration != NO_CALIBRATION
        assert f"slope {point.calibration.slope:.3f}" in str(point)


def test_the_cross_fitted_brier_score_is_of_lines_that_have_not_seen_the_case() -> None:
    """Four cases of each class make four parts of one benign and one malignant case."""
    probability = np.array([0.1, 0.4, 0.3, 0.2, 0.9, 0.6, 0.3, 0.8])
    label = np.repeat([0, 1], 4).astype(np.int8)
    point = operating_point(single_images(probability, label), BINARY)
    found = np.empty(8)
    for k in range(4):
        inside = np.arange(8) % 4 == k
        line = fit_calibration(probability[~inside], label[~inside], np.ones(6))
        found[inside] = line.apply(probability[inside])
    assert point.brier_after == pytest.approx(((found - label) ** 2).mean(), abs=1e-9)
    assert point.brier_before == pytest.approx(((probability - label) ** 2).mean(), abs=1e-9)


def test_a_case_is_never_on_both_sides_of_the_cross_fitting() -> None:
    """With images of a case apart, copies of a case would vouch for themselves."""
    predictions = simulate(20, largest=40)
    wrong = replace(predictions, group=np.arange(len(predictions)))
    assert operating_point(predictions, BINARY).brier_after != operating_point(wrong, BINARY).brier_after


def test_with_one_case_of_a_class_nothing_is_calibrated() -> None:
    point = operating_point(single_images(np.array([0.1, 0.6, 0.7, 0.9]), np.array([0, 1, 1, 1], np.int8)), BINARY)
    assert point.calibration == NO_CALIBRATION
    assert "single case of a class" in str(point)
