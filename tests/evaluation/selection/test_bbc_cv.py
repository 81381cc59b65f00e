"""The selection-bias correction and ties: the rule, its effect, and invariances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.bbc_cv import corrected_score, tied_with_best
from bhsearch.evaluation.selection.mabt import REPORTED_LEVEL, lower_bound
from tests.evaluation.simulated import reorder, simulate
from tests.tasks.samples import BINARY


def trials(n: int, seed: int = 0, noise: float = 0.2, **options: int) -> list[Predictions]:
    """Trials that are as good as each other, but for noise."""
    base = simulate(seed=seed, **{"n_cases": 30, "largest": 6, **options})
    rng = np.random.default_rng(seed + 1)
    shape = (n, *base.probability.shape)
    moved = np.clip(base.probability + rng.normal(0, noise, shape), 0, 1)
    return [replace(base, probability=probability) for probability in moved]


def guesses(n: int, seed: int) -> list[Predictions]:
    """Trials that know nothing, each case with a shift of its own in every trial."""
    base = simulate(40, largest=4, seed=seed)
    rng = np.random.default_rng(seed)
    _, number = np.unique(base.group, return_inverse=True)
    shift = rng.normal(size=(n, number.max() + 1))[:, number]
    probability = 1 / (1 + np.exp(-(shift + rng.normal(size=shift.shape))))
    return [replace(base, probability=row[None]) for row in probability]


def test_the_rule_written_out_gives_the_same_numbers() -> None:
    competing = trials(7, n_repeats=2)
    draws = group_draws(competing[0].group, competing[0].stratum, 60, seed=3)
    found = []
    for counts in draws:
        inside = [bootstrap_scores(trial, counts[None], BINARY)[0] for trial in competing]
        left_out = (counts == 0).astype(np.int64)
        winners = [trial for trial, value in zip(competing, inside, strict=True) if value >= max(inside) - 1e-9]
        found.append(np.mean([bootstrap_scores(winner, left_out[None], BINARY)[0] for winner in winners]))
    corrected = corrected_score(competing, BINARY, 60, seed=3)
    assert corrected.raw == max(score(trial, BINARY) for trial in competing)
    assert corrected.score == pytest.approx(np.nanmean(found), abs=1e-12)
    assert (corrected.low, corrected.high) == pytest.approx(interval(np.array(found)), abs=1e-12)
    assert (corrected.n_trials, corrected.n_groups) == (7, 30)


@pytest.mark.parametrize("cost", [None, [2.0, 3.0, 1.0, 4.0]])
def test_the_bound_is_that_of_the_trial_that_is_proposed(cost: list[float] | None) -> None:
    competing = trials(4, noise=0.004)
    draws = group_draws(competing[0].group, competing[0].stratum, 300, 0)
    samples = np.stack([bootstrap_scores(trial, draws, BINARY) for trial in competing])
    scores = np.array([score(trial, BINARY) for trial in competing])
    winner = scores.argmax() if cost is None else 2
    assert scores.argmax() != 2
    found = corrected_score(competing, BINARY, n_draws=300, cost=cost)
    assert found.raw == scores[winner]
    selected = np.arange(4) == winner
    assert found.bound == lower_bound(competing, scores, samples, draws, REPORTED_LEVEL, selected)
    assert 0.5 < found.bound < found.raw


def test_the_best_of_guesses_is_brought_back_to_chance() -> None:
    """What it is for: over many searches among guesses the best looks good, and the corrected score does not."""
    made = [corrected_score(guesses(15, seed), BINARY, 200) for seed in range(25)]
    raw, corrected = (np.mean([getattr(row, name) for row in made]) for name in ("raw", "score"))
    assert raw > 0.6
    assert abs(corrected - 0.5) < 0.02
    assert np.mean([row.low <= 0.5 <= row.high for row in made]) >= 0.9


def test_a_winner_that_is_really_better_keeps_its_score() -> None:
    good = simulate(60, largest=6)
    rng = np.random.default_rng(0)
    rest = [replace(good, probability=rng.uniform(size=good.probability.shape)) for _ in range(20)]
    corrected = corrected_score([*rest, good], BINARY)
    assert corrected.raw == score(good, BINARY)
    assert corrected.score == pytest.approx(score(good, BINARY), abs=0.02)


def test_a_single_trial_is_hardly_corrected() -> None:
    (only,) = trials(1)
    corrected = corrected_score([only], BINARY)
    assert corrected.score == pytest.approx(corrected.raw, abs=0.03)
    assert corrected.low < corrected.raw < corrected.high


def test_the_interval_is_not_narrower_than_that_of_a_single_score_of_all_cases() -> None:
    """A draw scores on a third of the cases, and says so by its width."""
    (only,) = trials(1, n_cases=60)
    corrected = corrected_score([only], BINARY)
    low, high = interval(bootstrap_scores(only, group_draws(only.group, only.stratum), BINARY))
    assert corrected.high - corrected.low > high - low


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_copies_of_every_image_of_every_case_change_nothing(seed: int, copies: int) -> None:
    """More pictures of the same cases are no more evidence."""
    competing = trials(4, seed, n_cases=15, n_folds=3)
    rows = np.tile(np.arange(len(competing[0])), copies)
    one, other = (
        corrected_score(each, BINARY, 60) for each in (competing, [reorder(trial, rows) for trial in competing])
    )
    assert (other.raw, other.score, other.low, other.high) == pytest.approx(
        (one.raw, one.score, one.low, one.high), abs=1e-9
    )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_neither_the_order_of_trials_nor_that_of_images_matters(seed: int) -> None:
    competing = trials(5, seed, n_cases=15, n_folds=3)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(competing[0]))
    shuffled = [reorder(competing[number], rows) for number in rng.permutation(len(competing))]
    one, other = corrected_score(competing, BINARY, 60), corrected_score(shuffled, BINARY, 60)
    assert (other.raw, other.score, other.low, other.high) == pytest.approx(
        (one.raw, one.score, one.low, one.high), abs=1e-9
    )


def test_draws_whose_left_out_cases_hold_one_class_only_are_left_out() -> None:
    few = trials(3, n_cases=8, n_folds=2)
    draws = group_draws(few[0].group, few[0].stratum, 200)
    unscored = np.isnan(bootstrap_scores(few[0], (draws == 0).astype(np.int64), BINARY))
    assert 0 < unscored.sum() < 200
    corrected = corrected_score(few, BINARY, 200)
    assert np.isfinite([corrected.score, corrected.low, corrected.high]).all()


def test_cases_that_no_draw_leaves_out_cannot_correct_anything() -> None:
    """Each group alone in its stratum: every draw takes all of them."""
    (only,) = trials(1, n_cases=6)
    _, number = np.unique(only.group, return_inverse=True)
    with pytest.raises(DataError, match="too few cases"):
        corrected_score([replace(only, stratum=number)], BINARY)


def test_trials_of_other_folds_or_cases_do_not_compete() -> None:
    first, second = trials(2)
    other_fold = replace(second, fold=(second.fold + 1).astype(np.int8) % 5)
    with pytest.raises(DataError, match="the trial at index 1 differs from the first in: fold"):
        corrected_score([first, other_fold], BINARY)
    with pytest.raises(DataError, match="index 1 differs from the first in: label, fold, group"):
        corrected_score([first, trials(1, n_cases=20)[0]], BINARY)
    with pytest.raises(DataError, match="at least one"):
        corrected_score([], BINARY)


# -- ties --------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match="the score of at least one trial is undefined"):
        tied_with_best(np.array([0.8, 0.7]), np.full((2, 5), np.nan))
    with pytest.raises(DataError, match="shapes"):
        tied_with_best(np.array([0.8, 0.7]), np.ones((3, 5)))
