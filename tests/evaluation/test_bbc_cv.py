"""The correction for having searched: the rule, what it removes, and what must not change it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.errors import DataError
from bhsearch.evaluation.bbc_cv import CORRECTED_NOTE, corrected_score
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import Predictions
from tests.evaluation.simulated import reorder, simulate


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
        inside = [bootstrap_scores(trial, counts[None])[0] for trial in competing]
        left_out = (counts == 0).astype(np.int64)
        winners = [trial for trial, value in zip(competing, inside, strict=True) if value >= max(inside) - 1e-9]
        found.append(np.mean([bootstrap_scores(winner, left_out[None])[0] for winner in winners]))
    corrected = corrected_score(competing, 60, seed=3)
    assert corrected.raw == max(map(score, competing))
    assert corrected.score == pytest.approx(np.nanmean(found), abs=1e-12)
    assert (corrected.low, corrected.high) == pytest.approx(interval(np.array(found)), abs=1e-12)
    assert (corrected.n_trials, corrected.n_groups) == (7, 30)


def test_the_best_of_guesses_is_brought_back_to_chance() -> None:
    """What it is for: over many searches among guesses the best looks good, and the corrected score does not."""
    made = [corrected_score(guesses(15, seed), 200) for seed in range(25)]
    raw, corrected = (np.mean([getattr(row, name) for row in made]) for name in ("raw", "score"))
    assert raw > 0.6
    assert abs(corrected - 0.5) < 0.02
    assert np.mean([row.low <= 0.5 <= row.high for row in made]) >= 0.9


def test_a_winner_that_is_really_better_keeps_its_score() -> None:
    good = simulate(60, largest=6)
    rng = np.random.default_rng(0)
    rest = [replace(good, probability=rng.uniform(size=good.probability.shape)) for _ in range(20)]
    corrected = corrected_score([*rest, good])
    assert corrected.raw == score(good)
    assert corrected.score == pytest.approx(score(good), abs=0.02)


def test_a_single_trial_is_hardly_corrected() -> None:
    (only,) = trials(1)
    corrected = corrected_score([only])
    assert corrected.score == pytest.approx(corrected.raw, abs=0.03)
    assert corrected.low < corrected.raw < corrected.high


def test_the_interval_is_not_narrower_than_that_of_a_single_score_of_all_cases() -> None:
    """A draw scores on a third of the cases, and says so by its width."""
    (only,) = trials(1, n_cases=60)
    corrected = corrected_score([only])
    low, high = interval(bootstrap_scores(only, group_draws(only.group, only.stratum)))
    assert corrected.high - corrected.low > high - low


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_copies_of_every_image_of_every_case_change_nothing(seed: int, copies: int) -> None:
    """More pictures of the same cases are no more evidence."""
    competing = trials(4, seed, n_cases=15, n_folds=3)
    rows = np.tile(np.arange(len(competing[0])), copies)
    one, other = (corrected_score(each, 60) for each in (competing, [reorder(trial, rows) for trial in competing]))
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
    one, other = corrected_score(competing, 60), corrected_score(shuffled, 60)
    assert (other.raw, other.score, other.low, other.high) == pytest.approx(
        (one.raw, one.score, one.low, one.high), abs=1e-9
    )


def test_draws_whose_left_out_cases_hold_one_class_only_are_left_out() -> None:
    few = trials(3, n_cases=8, n_folds=2)
    draws = group_draws(few[0].group, few[0].stratum, 200)
    unscored = np.isnan(bootstrap_scores(few[0], (draws == 0).astype(np.int64)))
    assert 0 < unscored.sum() < 200
    corrected = corrected_score(few, 200)
    assert np.isfinite([corrected.score, corrected.low, corrected.high]).all()


def test_cases_that_no_draw_leaves_out_cannot_correct_anything() -> None:
    """Each group alone in its stratum: every draw takes all of them."""
    (only,) = trials(1, n_cases=6)
    _, number = np.unique(only.group, return_inverse=True)
    with pytest.raises(DataError, match="too few cases"):
        corrected_score([replace(only, stratum=number)])


def test_trials_of_other_folds_or_cases_do_not_compete() -> None:
    first, second = trials(2)
    other_fold = replace(second, fold=(second.fold + 1).astype(np.int8) % 5)
    with pytest.raises(DataError, match="number 1 has another fold"):
        corrected_score([first, other_fold])
    with pytest.raises(DataError, match="number 1 has another label and fold and group"):
        corrected_score([first, trials(1, n_cases=20)[0]])
    with pytest.raises(DataError, match="at least one"):
        corrected_score([])


def test_the_sentence_says_that_it_is_not_all() -> None:
    assert "not all" in CORRECTED_NOTE
    assert "sealed test" in CORRECTED_NOTE
