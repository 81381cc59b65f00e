"""The proposed trial: the rule written out, what it guarantees, and its use in every draw of the correction."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.evaluation.selection.bbc_cv import corrected_score
from bhsearch.evaluation.selection.proposal import MARGIN, proposed, spread_of_differences
from tests.evaluation.selection.test_bbc_cv import trials
from tests.tasks.samples import BINARY

COSTS = [1.0, 2.0, 2.0, 4.0, np.inf, np.nan]
N_DRAWS = 10  # the reference scores every trial and fold with scikit-learn


def by_hand(scores, differences, cost):
    """The rule in plain Python for one sample of cases, with numbers of the trials that it proposes.

    `differences[i, j]` has the bootstrap differences of the scores of two trials.
    """
    price = [np.inf if np.isnan(value) else value for value in cost]
    best = max(scores)
    leaders = [j for j, value in enumerate(scores) if value >= best - 1e-9]
    candidates = []
    for i, value in enumerate(scores):
        widths = [statistics.NormalDist().inv_cdf(0.975) * np.std(differences[i, j]) for j in leaders]
        if best - value <= 0.002 + 1e-9 and any(best - value <= width + 1e-9 for width in widths):
            candidates.append(i)
    cheapest = min(price[i] for i in candidates)
    cheap = [i for i in candidates if price[i] == cheapest]
    top = max(scores[i] for i in cheap)
    return [i for i in cheap if scores[i] >= top - 1e-9]


def made_up(seed, n_trials=8, n_draws=60):
    """Scores close to each other, bootstrap samples with shared and own variation, and costs with ties."""
    rng = np.random.default_rng(seed)
    scores = 0.8 + rng.choice([0.0, 0.0005, 0.001, 0.0019, 0.0021, 0.004], n_trials)
    own = rng.choice([0.0, 0.0002, 0.001, 0.01], n_trials)[:, None] * rng.normal(size=(n_trials, n_draws))
    return scores, scores[:, None] + 0.02 * rng.normal(size=n_draws) + own, rng.choice(COSTS, n_trials)


@given(st.integers(0, 10_000))
def test_the_rule_written_out_proposes_the_same_trials(seed):
    scores, samples, cost = made_up(seed)
    chosen = proposed(scores[:, None], spread_of_differences(samples), cost)[:, 0]
    assert np.flatnonzero(chosen).tolist() == by_hand(scores, samples[:, None] - samples, cost)


@given(st.integers(0, 10_000))
def test_the_proposed_trial_is_within_the_margin_and_the_cheapest_of_those_that_are_tied(seed):
    scores, samples, cost = made_up(seed)
    spread = spread_of_differences(samples)
    (chosen, *_) = np.flatnonzero(proposed(scores[:, None], spread, cost)[:, 0])
    assert scores[chosen] >= scores.max() - MARGIN - 1e-9
    best = scores.argmax()
    for other in np.flatnonzero((scores >= scores.max() - MARGIN) & (scores.max() - scores <= spread(best))):
        assert not cost[other] < cost[chosen]


@given(st.integers(0, 10_000))
def test_the_order_of_the_trials_does_not_matter(seed):
    scores, samples, cost = made_up(seed)
    order = np.random.default_rng(seed).permutation(len(scores))
    chosen = proposed(scores[:, None], spread_of_differences(samples), cost)
    moved = proposed(scores[order, None], spread_of_differences(samples[order]), cost[order])
    assert moved[:, 0].tolist() == chosen[order, 0].tolist()


def test_a_trial_that_is_certainly_worse_is_not_proposed_however_cheap_and_close():
    scores, shared = np.array([0.9, 0.8995]), 0.05 * np.random.default_rng(0).normal(size=200)
    spread = spread_of_differences(scores[:, None] + shared)
    assert proposed(scores[:, None], spread, np.array([100.0, 1.0]))[:, 0].tolist() == [True, False]


def test_trials_of_unknown_cost_are_proposed_by_their_score():
    scores, samples, _ = made_up(3)
    unknown = np.full(len(scores), np.nan)
    chosen = proposed(scores[:, None], spread_of_differences(samples), unknown)[:, 0]
    assert chosen.tolist() == (scores >= scores.max() - 1e-9).tolist()


def test_a_sample_that_cannot_be_scored_proposes_nothing():
    scores = np.array([[0.9, np.nan], [0.9, np.nan]])
    assert proposed(scores, lambda _: np.zeros(2), np.array([2.0, 1.0])).tolist() == [[False, False], [True, False]]
    assert spread_of_differences(np.full((2, 3), np.nan))(0).tolist() == [0.0, 0.0]


def scored(trial, counts):
    """The score under a draw by scikit-learn: mean AUC of the folds that keep both classes."""
    column = np.unique(trial.group, return_inverse=True)[1]
    found = []
    for repeat in range(trial.n_repeats):
        for fold in range(trial.n_folds):
            rows = (trial.fold[repeat] == fold) & (counts[column] > 0)
            if len(np.unique(trial.label[rows])) == 2:
                weight = counts[column][rows] * trial.weight[repeat, rows]
                found.append(roc_auc_score(trial.label[rows], trial.probability[repeat, rows], sample_weight=weight))
    return np.mean(found) if found else np.nan


@pytest.mark.parametrize("noise", [0.002, 0.05])
def test_every_draw_of_the_correction_applies_the_rule_of_the_whole(noise):
    """Against a reference with scikit-learn's AUC, plain loops and the rule in plain Python."""
    competing = trials(6, noise=noise, n_repeats=2)
    copy = replace(competing[0], probability=competing[0].probability.copy())
    competing, cost = [*competing, copy], [3.0, 1.0, 2.0, np.inf, 2.0, 1.0, 3.0]
    draws = group_draws(competing[0].group, competing[0].stratum, N_DRAWS, seed=5)
    inside = np.array([[scored(trial, counts) for counts in draws] for trial in competing])
    outside = np.array([[scored(trial, (counts == 0).astype(int)) for counts in draws] for trial in competing])
    whole = inside[:, np.isfinite(inside).all(axis=0)]
    differences = whole[:, None] - whole
    found, dearer = [], 0
    for column, left_out in zip(inside.T, outside.T, strict=True):
        if np.isfinite(column).all() and np.isfinite(left_out).all():
            winners = by_hand(column, differences, cost)
            dearer += column.argmax() not in winners
            found.append(np.mean(left_out[winners]))
    corrected = corrected_score(competing, BINARY, N_DRAWS, seed=5, cost=cost)
    assert corrected.score == pytest.approx(np.mean(found), abs=1e-9)
    everything = np.ones(draws.shape[1], dtype=int)
    scores = [scored(trial, everything) for trial in competing]
    assert corrected.raw == pytest.approx(scores[by_hand(scores, differences, cost)[0]], abs=1e-9)
    assert dearer > 0


def test_the_spread_is_the_standard_deviation_of_the_differences():
    samples = np.random.default_rng(0).normal(size=(4, 30)) + 7
    samples[2, 3] = np.nan
    spread = spread_of_differences(samples)
    for trial in range(4):
        expected = np.nanstd(samples - samples[trial] + 0 * samples[2], axis=1)
        np.testing.assert_allclose(spread(trial), expected, atol=1e-12)
