"""Ties: who cannot be told from the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.errors import DataError
from bhsearch.evaluation.ties import tied_with_best


def test_the_rule_written_out_gives_the_same_trials() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.8, 0.03, 30)
    samples = scores[:, None] + rng.normal(0, 0.02, (30, 400))
    best = int(np.argmax(scores))
    largest = [
        max((samples[best, d] - samples[t, d]) - (scores[best] - scores[t]) for t in range(30)) for d in range(400)
    ]
    limit = np.quantile(largest, 0.95)
    tied = tied_with_best(scores, samples)
    assert tied.tolist() == [bool(scores[best] - scores[t] <= limit) for t in range(30)]
    assert 1 < tied.sum() < 30


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_best_is_tied_and_ties_have_no_holes(seed: int, n_trials: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(n_trials)
    tied = tied_with_best(scores, scores[:, None] + rng.normal(0, 0.2, (n_trials, 60)))
    assert tied[np.argmax(scores)]
    assert scores[tied].min() >= (scores[~tied].max() if (~tied).any() else 0)


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
