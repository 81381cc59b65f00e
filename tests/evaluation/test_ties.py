"""Ties: who cannot be told from the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.errors import DataError
from bhsearch.evaluation.ties import tied_with_best


def by_loops(scores: np.ndarray, samples: np.ndarray, level: float = 0.95) -> list[bool]:
    """The rule written out, a trial, a competitor and a draw at a time."""
    tied = []
    for t, mine in enumerate(scores):
        others = [j for j in range(len(scores)) if j != t]
        error = {j: (samples[j] - samples[t]) - (scores[j] - mine) for j in others}
        spread = {j: float(np.std(error[j])) for j in others}
        by_chance = [max(error[j][d] / spread[j] for j in others) for d in range(samples.shape[1])]
        tied.append(max((scores[j] - mine) / spread[j] for j in others) <= np.quantile(by_chance, level))
    return tied


@pytest.mark.parametrize("seed", range(3))
def test_the_rule_written_out_gives_the_same_trials(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.8, 0.05, 30)
    shared, spread = rng.normal(0, 0.03, 400), rng.uniform(0.005, 0.05, (30, 1))
    samples = scores[:, None] + shared + spread * rng.normal(size=(30, 400))
    tied = tied_with_best(scores, samples)
    assert tied.tolist() == by_loops(scores, samples)
    assert 1 < tied.sum() < 30


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_best_is_tied_and_the_order_of_trials_says_nothing(seed: int, n_trials: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(n_trials)
    samples = scores[:, None] + rng.normal(0, 0.2, (n_trials, 60))
    tied, order = tied_with_best(scores, samples), rng.permutation(n_trials)
    assert tied[np.argmax(scores)]
    assert tied_with_best(scores[order], samples[order]).tolist() == tied[order].tolist()


def test_trials_that_guess_do_not_tie_others_with_the_best() -> None:
    """One common bound would be as wide as the noise of the worst trials, and tie nearly everything."""
    rng = np.random.default_rng(0)
    close = np.array([0.90, 0.87]), rng.normal(0, 0.05, 1000) + rng.normal(0, 0.005, (2, 1000))
    scores = np.concatenate([close[0], np.full(5, 0.5)])
    samples = scores[:, None] + np.concatenate([close[1], rng.normal(0, 0.1, (5, 1000))])
    assert tied_with_best(scores, samples).tolist() == [True] + [False] * 6


def test_copies_of_the_best_are_tied_and_copies_that_are_worse_are_not() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 200)
    scores = np.array([0.8, 0.8, 0.7])
    assert tied_with_best(scores, scores[:, None] + noise).tolist() == [True, True, False]
    assert tied_with_best(np.full(3, 0.5), np.full((3, 10), 0.5)).all()


@pytest.mark.parametrize("precise", [True, False], ids=["a precise best", "a noisy best"])
def test_the_best_in_truth_is_tied_as_often_as_the_level_says(precise: bool) -> None:
    """Among noisy and precise trials of equal worth; a bound around the winner of the day alone held it too rarely."""
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(20) == 0, 0.01, 0.06) if precise else np.where(np.arange(20) == 0, 0.1, 0.02)
    held = []
    for _ in range(300):
        scores = 0.8 + spread * rng.normal(size=20)
        held.append(tied_with_best(scores, scores[:, None] + spread[:, None] * rng.normal(size=(20, 300)))[0])
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_noise_that_trials_share_does_not_make_ties() -> None:
    shared = np.random.default_rng(0).normal(0, 0.1, 500)
    scores = np.array([0.8, 0.79])
    assert tied_with_best(scores, scores[:, None] + shared).tolist() == [True, False]


def test_trials_without_a_score_are_refused() -> None:
    with pytest.raises(DataError, match="Leave out failed trials"):
        tied_with_best(np.array([0.8, np.nan]), np.ones((2, 5)))
    with pytest.raises(DataError, match="at least one draw"):
        tied_with_best(np.array([0.8, 0.7]), np.full((2, 5), np.nan))
    with pytest.raises(DataError, match="shapes"):
        tied_with_best(np.array([0.8, 0.7]), np.ones((3, 5)))
