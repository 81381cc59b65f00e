"""Resampling of groups: what is drawn, that the fast way equals the plain one, and what must not change it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from bhsearch.errors import DataError
from bhsearch.evaluation import bootstrap
from bhsearch.evaluation.bootstrap import (
    bootstrap_metric,
    bootstrap_scores,
    group_draws,
    interval,
    paired_difference,
)
from bhsearch.evaluation.metrics import METRICS, score, weighted_auc
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.thresholds import cross_fitted_labels
from tests.evaluation.simulated import reorder, simulate
from tests.tasks.samples import BINARY


def plain_scores(predictions: Predictions, draws: np.ndarray) -> list[float]:
    """One pass over the images for every draw and fold."""
    groups = np.unique(predictions.group)
    found = []
    for counts in draws:
        times = counts[np.searchsorted(groups, predictions.group)]
        folds = []
        for repeat in range(predictions.n_repeats):
            for fold in range(predictions.n_folds):
                inside = predictions.fold[repeat] == fold
                weight = (predictions.weight[repeat] * times)[inside]
                folds.append(weighted_auc(predictions.label[inside], predictions.probability[repeat, inside], weight))
        found.append(np.nanmean(folds) if np.isfinite(folds).any() else np.nan)
    return found


def test_a_draw_holds_as_many_groups_of_each_stratum_as_there_are() -> None:
    group = np.repeat([4, 8, 15, 16, 23], 3)
    stratum = np.repeat([0, 1, 0, 1, 1], 3)
    draws = group_draws(group, stratum, 50)
    assert draws.shape == (50, 5)
    assert (draws[:, [0, 2]].sum(axis=1) == 2).all()
    assert (draws[:, [1, 3, 4]].sum(axis=1) == 3).all()


def test_every_group_is_drawn_equally_often_in_the_long_run() -> None:
    draws = group_draws(np.arange(10), np.repeat([0, 1], 5), 4000)
    assert np.allclose(draws.mean(axis=0), 1, atol=0.08)
    assert np.allclose(draws.var(axis=0), 0.8, atol=0.08)  # binomial: 5 tries at 1/5


def test_draws_depend_on_the_seed_and_on_nothing_else() -> None:
    base = simulate(12)
    shuffled = reorder(base, np.random.default_rng(1).permutation(len(base)))
    draws = group_draws(base.group, base.stratum, 20)
    assert np.array_equal(draws, group_draws(shuffled.group, shuffled.stratum, 20))
    assert not np.array_equal(draws, group_draws(base.group, base.stratum, 20, seed=1))


def test_a_group_in_two_strata_is_refused() -> None:
    with pytest.raises(DataError, match="group 3"):
        group_draws(np.array([3, 3, 4]), np.array([0, 1, 0]))


@pytest.mark.parametrize("cells", [2_000_000, 40])
def test_samples_equal_those_of_a_plain_pass_over_the_images(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(bootstrap, "_BLOCK_CELLS", cells)  # with small blocks, too
    predictions = simulate(14, n_repeats=2, n_folds=4, largest=20)
    draws = group_draws(predictions.group, predictions.stratum, 40)
    assert np.allclose(
        bootstrap_scores(predictions, draws, BINARY), plain_scores(predictions, draws), rtol=0, atol=1e-12
    )


REFERENCES = {
    "auc": lambda y, p, w: reference.roc_auc_score(y, p, sample_weight=w),
    "average_precision": lambda y, p, w: reference.average_precision_score(y, p, sample_weight=w),
    "balanced_accuracy": lambda y, p, w: reference.balanced_accuracy_score(y, p, sample_weight=w),
    "sensitivity": lambda y, p, w: reference.recall_score(y, p, sample_weight=w),
    "specificity": lambda y, p, w: reference.recall_score(y, p, pos_label=0, sample_weight=w),
    "f1": lambda y, p, w: reference.f1_score(y, p, sample_weight=w),
    "recognition_rate": lambda y, p, w: reference.accuracy_score(y, p, sample_weight=w),
    "brier": lambda y, p, w: reference.brier_score_loss(y, p, sample_weight=w),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("cells", [2_000_000, 40])
def test_a_metric_of_a_draw_is_that_of_scikit_learn_on_the_drawn_images(monkeypatch, name: str, cells: int) -> None:
    monkeypatch.setattr(bootstrap, "_BLOCK_CELLS", cells)
    predictions = simulate(24, n_repeats=2, n_folds=3, largest=8)
    decisions = cross_fitted_labels(predictions, BINARY)
    draws = group_draws(predictions.group, predictions.stratum, 6)
    _, number = np.unique(predictions.group, return_inverse=True)
    expected = []
    for counts in draws:
        parts = METRICS[name].parts(predictions, decisions)
        folds = [(part.label, part.prediction, part.weight * counts[number[part.rows]]) for part in parts]
        # A fold that lost a class has no AUC, and one without malignant images no average precision.
        needed = {"auc": {0, 1}, "average_precision": {1}}.get(name, set())
        kept = [each for each in folds if needed <= set(each[0][each[2] > 0])]
        expected.append(np.mean([REFERENCES[name](*each) for each in kept]))
    found = bootstrap_metric(METRICS[name], predictions, decisions, draws)
    assert np.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_draw_of_every_group_once_gives_the_metric_of_the_trial(name: str) -> None:
    predictions = simulate(24, n_repeats=2, n_folds=3, largest=8)
    decisions = cross_fitted_labels(predictions, BINARY)
    once = np.ones((1, 24), dtype=np.int64)
    (found,) = bootstrap_metric(METRICS[name], predictions, decisions, once)
    assert found == pytest.approx(METRICS[name].value(predictions, decisions), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_batch_of_weights_gives_each_weights_own_value(name: str) -> None:
    """The contract of a metric function: leading dimensions of the weight are kept."""
    (part, *_) = METRICS[name].parts(base := simulate(24, n_folds=3, largest=8), cross_fitted_labels(base, BINARY))
    weight = part.weight * np.random.default_rng(0).integers(0, 3, (2, 3, len(part.weight)))
    batch = METRICS[name].function(part.label, part.prediction, weight)
    assert batch.shape == (2, 3)
    for at in np.ndindex(2, 3):
        single = METRICS[name].function(part.label, part.prediction, weight[at])
        assert single == pytest.approx(batch[at], abs=1e-12)
        assert METRICS[name].low <= single <= METRICS[name].high


def test_draws_of_other_groups_are_refused_for_every_metric() -> None:
    predictions = simulate(20)
    with pytest.raises(DataError, match="one column for each of the 20 groups"):
        bootstrap_metric(
            METRICS["f1"], predictions, cross_fitted_labels(predictions, BINARY), np.ones((3, 19), dtype=np.int64)
        )


def test_cases_with_both_labels_are_resampled_whole() -> None:
    base = simulate(14, n_folds=3, largest=20)
    label = (np.arange(len(base)) % 3 == 0).astype(np.int8)
    mixed = Predictions(
        **{**{name: getattr(base, name) for name in base.__dataclass_fields__}, "label": label},
    )
    draws = group_draws(mixed.group, mixed.stratum, 30)
    assert np.allclose(bootstrap_scores(mixed, draws, BINARY), plain_scores(mixed, draws), rtol=0, atol=1e-12)


def test_drawing_every_group_once_gives_the_score() -> None:
    predictions = simulate(20, n_repeats=2)
    once = np.ones((1, 20), dtype=np.int64)
    assert bootstrap_scores(predictions, once, BINARY)[0] == pytest.approx(score(predictions, BINARY), abs=1e-12)


def test_a_draw_that_leaves_no_fold_with_both_classes_is_not_a_number() -> None:
    predictions = simulate(20)
    only_malignant = np.array([[int(number % 5 < 3) for number in range(20)]])
    assert np.isnan(bootstrap_scores(predictions, only_malignant, BINARY)).all()


def test_draws_of_other_groups_are_refused() -> None:
    with pytest.raises(DataError, match="one column for each of the 20 groups"):
        bootstrap_scores(simulate(20), np.ones((3, 19), dtype=np.int64), BINARY)


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_copies_of_every_image_of_every_case_change_nothing(seed: int, copies: int) -> None:
    # More pictures of the same cases are no more evidence: an interval over images would shrink here.
    base = simulate(14, n_folds=3, seed=seed, largest=8)
    copied = reorder(base, np.tile(np.arange(len(base)), copies))
    draws = group_draws(base.group, base.stratum, 50)
    assert np.array_equal(draws, group_draws(copied.group, copied.stratum, 50))
    assert score(copied, BINARY) == pytest.approx(score(base, BINARY), abs=1e-12)
    assert np.allclose(
        bootstrap_scores(copied, draws, BINARY),
        bootstrap_scores(base, draws, BINARY),
        rtol=0,
        atol=1e-12,
        equal_nan=True,
    )


def width(predictions: Predictions) -> float:
    """Of the interval, from the predictions alone."""
    ends = interval(bootstrap_scores(predictions, group_draws(predictions.group, predictions.stratum, 400), BINARY))
    return ends.high - ends.low


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 5), n_repeats=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_copies_of_every_image_leave_the_width_of_the_interval_unchanged(
    seed: int, copies: int, n_repeats: int
) -> None:
    base = simulate(20, n_folds=3, n_repeats=n_repeats, seed=seed, largest=6)
    copied = reorder(base, np.random.default_rng(seed).permutation(np.tile(np.arange(len(base)), copies)))
    assert width(copied) == pytest.approx(width(base), abs=1e-9)


def test_an_interval_over_images_would_shrink_by_copies() -> None:
    """So the test above can fail: with every image its own group, copies pass for evidence."""
    base = simulate(20, n_folds=3, largest=6)
    copied = reorder(base, np.tile(np.arange(len(base)), 4))
    over_images = [replace(each, group=np.arange(len(each))) for each in (base, copied)]
    assert width(over_images[1]) < 0.7 * width(over_images[0])


def test_an_interval_holds_the_middle_of_the_samples() -> None:
    samples = np.arange(1001) / 1000
    assert interval(samples) == pytest.approx((0.025, 0.975))
    assert interval(np.append(samples, np.nan), 0.5) == pytest.approx((0.25, 0.75))
    assert np.isnan(interval(np.array([np.nan]))).all()
    with pytest.raises(ValueError, match="level"):
        interval(samples, 95)


def test_a_paired_difference_is_narrower_than_either_interval() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0.8, 0.05, 1000)
    first, second = shared + 0.02 + rng.normal(0, 0.002, 1000), shared
    low, high = paired_difference(first, second)
    assert 0.01 < low < 0.02 < high < 0.03
    with pytest.raises(DataError, match="same bootstrap samples"):
        paired_difference(first, second[1:])
