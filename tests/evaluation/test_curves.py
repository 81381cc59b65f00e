"""Curves as arrays: against scikit-learn, and their areas against the metrics."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from bhsearch.evaluation import curves
from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.evaluation.curves import precision_recall_band, roc_band, roc_points
from bhsearch.evaluation.metrics import trial_metrics
from tests.evaluation.simulated import reorder, simulate
from tests.tasks.samples import BINARY


def test_points_are_those_of_scikit_learn_in_every_fold() -> None:
    base = simulate(20, n_repeats=2)
    points = roc_points(base)
    for repeat, fold in np.ndindex(2, 5):
        rows = base.fold[repeat] == fold
        here = (points["repeat"] == repeat) & (points["fold"] == fold)
        false_rate, true_rate, threshold = roc_curve(
            base.label[rows],
            base.probability[repeat, rows],
            sample_weight=base.weight[repeat, rows],
            drop_intermediate=False,
        )
        assert np.allclose(points["false_positive_rate"][here], false_rate, atol=1e-12)
        assert np.allclose(points["true_positive_rate"][here], true_rate, atol=1e-12)
        assert np.array_equal(points["threshold"][here], threshold)


def test_areas_under_the_mean_curves_are_the_metrics() -> None:
    base = simulate(40, n_repeats=2)
    found = trial_metrics(base, BINARY)
    roc, precision = roc_band(base), precision_recall_band(base)
    assert np.trapezoid(roc.mean, roc.x) == pytest.approx(found["auc"], abs=0.01)
    assert precision.mean[1:].mean() == pytest.approx(found["average_precision"], abs=0.01)
    assert np.isnan(roc.low).all()
    assert roc.mean[-1] == 1
    assert (np.diff(roc.mean) >= 0).all()


def test_a_band_holds_the_curve_and_narrows_with_more_cases() -> None:
    width = []
    for n_cases in (20, 160):
        base = simulate(n_cases, largest=6)
        band = roc_band(base, group_draws(base.group, base.stratum, 100))
        assert ((band.low <= band.mean + 1e-9) & (band.mean <= band.high + 1e-9)).mean() > 0.9
        width.append((band.high - band.low).mean())
    assert width[1] < width[0] / 2


@pytest.mark.parametrize("make", [roc_band, precision_recall_band])
def test_bands_do_not_depend_on_order_or_copies_of_images(make) -> None:
    base = simulate(14, n_folds=3, largest=9)
    draws = group_draws(base.group, base.stratum, 40)
    rows = np.random.default_rng(0).permutation(np.tile(np.arange(len(base)), 2))
    first, second = make(base, draws), make(reorder(base, rows), draws)
    for name in ("mean", "low", "high", "base"):
        assert np.allclose(getattr(first, name), getattr(second, name), atol=1e-9), name


def test_guessing_is_as_precise_as_the_share_of_malignant_cases() -> None:
    assert precision_recall_band(simulate(20)).base == pytest.approx(12 / 20)


def test_many_images_have_the_same_curves_with_fewer_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against exact curves: no thinned point is off by more than the step of its thresholds."""
    base = simulate(60, n_repeats=1)
    draws = group_draws(base.group, base.stratum, 50)
    exact = [make(base, draws) for make in (roc_band, precision_recall_band)]
    n_points = len(roc_points(base)["threshold"])
    monkeypatch.setattr(curves, "_MOST_EXACT", 10)
    monkeypatch.setattr(curves, "_N_THINNED", 30)
    for whole, band in zip(exact, (roc_band(base, draws), precision_recall_band(base, draws)), strict=True):
        for name in ("mean", "low", "high"):
            assert np.abs(getattr(whole, name) - getattr(band, name)).max() < 0.15
        assert np.abs(whole.mean - band.mean).mean() < 0.02
    thinned = roc_points(base)
    assert len(thinned["threshold"]) <= 5 * 31 < n_points
    ends = thinned["false_positive_rate"][np.flatnonzero(np.diff(thinned["fold"], append=9))]
    assert (ends == 1).all()


def test_sums_by_group_are_those_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way is faster."""
    base = simulate(40, n_repeats=2)
    draws = group_draws(base.group, base.stratum, 50)
    by_group = roc_band(base, draws)
    monkeypatch.setattr(curves, "_MOST_CELLS", 0)
    by_image = roc_band(base, draws)
    for name in ("mean", "low", "high"):
        np.testing.assert_allclose(getattr(by_group, name), getattr(by_image, name), atol=1e-12)
