"""Fits are those of SciPy's curve_fit, and known power laws are recovered."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from bhsearch.evaluation.supplementary.power_law import FEWEST_SIZES, fit_power_law

SIZES = np.array([22.4, 31.2, 44.8, 63.2, 89.6])


def law(n, limit, loss, exponent):
    return limit - loss * (n / SIZES.max()) ** -exponent


def reference(scores):
    """SciPy's fit, of the best of several starts."""
    fits = []
    for start in (0.2, 0.7, 1.5):
        found, _ = curve_fit(
            law,
            SIZES,
            scores,
            p0=(0.9, 0.05, start),
            sigma=1 / np.sqrt(SIZES),
            bounds=((-np.inf, -np.inf, 0.05), (1.0, np.inf, 3.0)),
            max_nfev=20_000,
            xtol=1e-14,
            ftol=1e-14,
        )
        fits.append((float(SIZES @ (law(SIZES, *found) - scores) ** 2), found))
    return min(fits, key=lambda fit: fit[0])


@pytest.mark.parametrize("truth", [(0.92, 0.04, 0.5), (0.99, 0.15, 0.3), (0.8, 0.01, 1.4), (0.7, -0.02, 0.8)])
def test_a_known_power_law_is_recovered(truth):
    found = fit_power_law(SIZES, law(SIZES, *truth))
    assert found.exponent == pytest.approx(truth[2], rel=0.006)  # half a step of the grid
    assert found.score(2 * SIZES.max()) == pytest.approx(law(2 * SIZES.max(), *truth), abs=1e-4)
    assert found.gain(2.0) == pytest.approx(law(2 * SIZES.max(), *truth) - law(SIZES.max(), *truth), abs=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_noisy_curves_are_fitted_as_by_scipy(seed):
    random = np.random.default_rng(seed)
    scores = law(SIZES, random.uniform(0.85, 1.0), random.uniform(0.01, 0.1), random.uniform(0.2, 1.5))
    scores = scores + random.normal(0, 0.003, len(SIZES))
    found, (squares, expected) = fit_power_law(SIZES, scores), reference(scores)
    assert float(SIZES @ (found.score(SIZES) - scores) ** 2) == pytest.approx(squares, rel=0.03, abs=1e-9)
    assert found.score(SIZES.max()) == pytest.approx(law(SIZES.max(), *expected), abs=2e-4)
    assert found.gain(2.0) == pytest.approx(law(2 * SIZES.max(), *expected) - law(SIZES.max(), *expected), abs=5e-4)


def test_the_limit_is_at_most_one():
    scores = np.array([0.90, 0.93, 0.955, 0.975, 0.99])
    found = fit_power_law(SIZES, scores)
    assert found.limit <= 1
    squares, expected = reference(scores)
    assert expected[0] == pytest.approx(1, abs=1e-3)
    assert float(SIZES @ (found.score(SIZES) - scores) ** 2) == pytest.approx(squares, rel=0.03)


def test_many_curves_are_fitted_as_one_by_one():
    random = np.random.default_rng(0)
    scores = 0.9 + random.normal(0, 0.01, (7, len(SIZES)))
    together = fit_power_law(SIZES, scores)
    one_by_one = [fit_power_law(SIZES, row) for row in scores]
    assert together.gain(2.0) == pytest.approx([float(one.gain(2.0)) for one in one_by_one])
    apart = np.stack([one.score(SIZES) for one in one_by_one])
    np.testing.assert_allclose(together.score(SIZES[:, None]).T, apart)


def test_a_flat_curve_gains_nothing_and_too_few_sizes_are_refused():
    assert fit_power_law(SIZES, np.full(5, 0.8)).gain(2.0) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="at least 4"):
        fit_power_law(SIZES[: FEWEST_SIZES - 1], np.full(3, 0.8))
