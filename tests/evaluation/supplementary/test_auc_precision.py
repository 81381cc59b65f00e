"""The standard error is that of simulated tests, and the number of cases is the smallest that suffices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from bhsearch.evaluation.supplementary.auc_precision import (
    auc_standard_error,
    cases_needed,
    smallest_difference,
    what_cases_show,
)


@pytest.mark.parametrize(("auc", "n_negative", "n_positive"), [(0.6, 10, 20), (0.8, 30, 12), (0.9, 25, 40)])
def test_the_standard_error_is_that_of_simulated_exponential_scores(auc, n_negative, n_positive):
    random = np.random.default_rng(0)
    negative = random.exponential(1.0, (6000, n_negative))
    positive = random.exponential(auc / (1 - auc), (6000, n_positive))
    found = (positive[:, :, None] > negative[:, None, :]).mean(axis=(1, 2))
    assert found.mean() == pytest.approx(auc, abs=0.005)
    assert auc_standard_error(auc, n_negative, n_positive) == pytest.approx(found.std(), rel=0.04)


def test_the_smallest_difference_has_a_power_of_eighty_percent():
    error = 0.04
    error_of_difference = np.sqrt(error**2 + error**2 - 2 * 0.5 * error * error)
    z = smallest_difference(error) / error_of_difference
    assert norm.sf(norm.ppf(0.975) - z) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("auc", [0.7, 0.9])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_no_smaller_number_of_cases_suffices(auc, share):
    def half_width(n_cases):
        n_positive = round(n_cases * share)
        return norm.ppf(0.975) * auc_standard_error(auc, n_cases - n_positive, n_positive)

    needed = cases_needed(auc, share)
    assert half_width(needed) <= 0.05 < half_width(needed - 1)


def test_the_sentence_states_the_numbers_and_survives_a_perfect_auc():
    said = what_cases_show(10, 20, 0.8)
    assert f"standard error of {auc_standard_error(0.8, 10, 20):.3f}" in said
    assert f"{cases_needed(0.8, 2 / 3)} cases" in said
    assert "at an AUC of 0.99" in what_cases_show(10, 20, 1.0)
    assert what_cases_show(0, 20, 0.8) == ""
