"""The papers' rates, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.evaluation.breakhis_rates import Rates, recognition_rates, summaries


def test_rates_are_those_of_the_paper():
    """Patient a: 3 of 4 right; b: 0 of 1; c: 2 of 2."""
    right = np.array([True, True, True, False, False, True, True])
    found = recognition_rates(2, "40X", right, np.array(list("aaaabcc"), dtype=object))
    assert found == Rates(2, "40X", pytest.approx(5 / 7), pytest.approx((0.75 + 0 + 1) / 3), 7, 3)


def test_a_summary_is_mean_and_spread_over_folds_the_smallest_magnification_first():
    found = [Rates(k, key, 0.1 * k, 0.2 * k, 5, 2) for key in ("100X", "40X") for k in (1, 2, 3)]
    first, second = summaries(found)
    assert (first.magnification, second.magnification) == ("40X", "100X")
    assert first.n_folds == 3
    assert first.image_rate == pytest.approx((0.2, 0.1))
    assert first.recognition_rate == pytest.approx((0.4, 0.2))


def test_one_fold_has_no_spread():
    (only,) = summaries([Rates(1, "40X", 0.5, 0.6, 5, 2)])
    assert only.image_rate[0] == 0.5
    assert np.isnan(only.image_rate[1])
