"""The lower bound of the best trial: against independent computation, invariances, and coverage on guesses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import bisect
from scipy.stats import norm

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_auc, group_draws
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.mabt import influence, lower_bound, selection_level, tilted_weights
from tests.evaluation.simulated import reorder, simulate
from tests.tasks.samples import BINARY


def trials(n: int, seed: int = 0, noise: float = 0.2, **options: int) -> list[Predictions]:
    """Trials that differ by noise."""
    base = simulate(seed=seed, **{"n_cases": 30, "largest": 6, **options})
    rng = np.random.default_rng(seed + 1)
    moved = np.clip(base.probability + rng.normal(0, noise, (n, *base.probability.shape)), 0, 1)
    return [replace(base, probability=probability) for probability in moved]


def bound_of(competing: list[Predictions], n_draws: int = 300, level: float = 0.975, seed: int = 0) -> float:
    draws = group_draws(competing[0].group, competing[0].stratum, n_draws, seed)
    samples = np.stack([bootstrap_auc(trial, draws) for trial in competing])
    return lower_bound(competing, np.array([score(trial, BINARY) for trial in competing]), samples, draws, level)


def single_fold(label: list[int], probability: list[float], stratum: list[int] | None = None) -> Predictions:
    """One image a case, all in one fold."""
    text = np.full(len(label), "", dtype=object)
    return Predictions(
        np.array(label, np.int8),
        np.array([probability]),
        np.zeros((1, len(label)), np.int8),
        np.arange(len(label)),
        np.array(label if stratum is None else stratum, np.int64),
        **dict.fromkeys(("path", "case", "subtype", "magnification"), text),
    )


# -- against independent computation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_repeats", [1, 2])
def test_influences_are_derivatives_of_the_score(n_repeats: int) -> None:
    (only,) = trials(1, n_repeats=n_repeats)
    step = 1e-5
    moved = step * np.eye(30)
    differences = bootstrap_auc(only, 1 + moved) - bootstrap_auc(only, 1 - moved)
    assert influence(only) == pytest.approx(differences / (2 * step), abs=1e-8)


def test_the_bound_of_a_mean_is_that_of_a_direct_solution() -> None:
    """With one benign case the AUC is the share of malignant cases above it, which is the mean of a binary variable.

    The tilted distribution of the number of such cases is binomial, so SciPy gives the exact bound.
    """
    n, n_above, alpha = 40, 29, 0.025
    only = single_fold([0] + [1] * n, [0.5] + [0.9] * n_above + [0.1] * (n - n_above))
    from scipy.stats import binom

    exact = bisect(lambda share: binom.sf(n_above - 1, n, share) - alpha, 1e-6, n_above / n)
    assert bound_of([only], 20_000) == pytest.approx(exact, abs=0.003)


def test_the_bound_of_a_weighted_mean_is_that_of_a_direct_solution() -> None:
    """The same with shares between 0 and 1; the tilted bootstrap is carried out instead of reweighted."""
    benign = np.linspace(0, 1, 21)
    malignant = np.random.default_rng(3).uniform(0.1, 1.2, 25)
    share = np.array([np.mean((value > benign) + 0.5 * (value == benign)) for value in malignant])
    group = np.concatenate([np.zeros(21, int), np.arange(1, 26)])
    rows = single_fold([0] * 21 + [1] * 25, [*benign / 2, *malignant / 2])
    only = replace(rows, group=group)
    assert score(only, BINARY) == pytest.approx(share.mean(), abs=1e-12)

    def excess(strength: float) -> float:
        rng = np.random.default_rng(0)
        probability = np.exp(strength * share) / np.exp(strength * share).sum()
        means = share[rng.choice(25, (40_000, 25), p=probability)].mean(axis=1)
        return float(np.mean(means >= share.mean() - 1e-9) - 0.025)

    strength = bisect(excess, -6, 0, xtol=1e-3)
    direct = np.average(share, weights=np.exp(strength * share))
    assert bound_of([only], 20_000) == pytest.approx(direct, abs=0.005)


@pytest.mark.parametrize("seed", range(3))
def test_the_rule_written_out_gives_the_same_bound(seed: int) -> None:
    """One draw, one trial and one group at a time."""
    competing = trials(5, seed, n_repeats=2)
    draws = group_draws(competing[0].group, competing[0].stratum, 400, seed)
    scores = np.array([score(trial, BINARY) for trial in competing])
    samples = np.stack([bootstrap_auc(trial, draws) for trial in competing])
    best = int(np.argmax(scores))

    largest = [max((samples[j, d] - scores[j]) / np.std(samples[j]) for j in range(5)) for d in range(400)]
    own = [(samples[best, d] - scores[best]) / np.std(samples[best]) for d in range(400)]
    alpha = 0.025 * norm.sf(np.quantile(largest, 0.975)) / norm.sf(np.quantile(own, 0.975))
    assert selection_level(scores, samples, best, 0.025) == pytest.approx(alpha, rel=1e-9)

    winner, slopes = competing[best], influence(competing[best])
    stratum = winner.stratum[np.unique(winner.group, return_index=True)[1]]

    def probabilities(strength: float) -> np.ndarray:
        found = np.zeros(30)
        for g in range(30):
            same = [other for other in range(30) if stratum[other] == stratum[g]]
            found[g] = np.exp(strength * slopes[g]) / sum(np.exp(strength * slopes[other]) for other in same)
        return found

    def excess(strength: float) -> float:
        ratio = probabilities(strength) * [np.sum(stratum == value) for value in stratum]
        weights = [np.prod(ratio ** draws[d]) * (samples[best, d] >= scores[best] - 1e-9) for d in range(400)]
        return float(np.mean(weights) - alpha)

    strength = bisect(excess, -300, 0, xtol=1e-9)
    sizes = np.array([np.sum(stratum == value) for value in stratum])
    expected = bootstrap_auc(winner, (probabilities(strength) * sizes)[None])[0]
    assert lower_bound(competing, scores, samples, draws) == pytest.approx(expected, abs=1e-8)
    assert expected < scores[best]


def test_tilted_weights_keep_the_size_of_each_stratum() -> None:
    rng = np.random.default_rng(0)
    slopes, stratum = rng.normal(size=12), np.arange(12) % 3
    weights = tilted_weights(slopes, stratum, -700.0)
    assert [weights[stratum == value].sum() for value in range(3)] == pytest.approx([4, 4, 4], abs=1e-12)
    assert np.isfinite(weights).all()
    assert tilted_weights(slopes, stratum, 0.0) == pytest.approx(np.ones(12), abs=1e-12)


# -- the adjustment for the selection ----------------------------------------------------------------------------------


def test_one_trial_and_copies_are_not_adjusted() -> None:
    (only,) = trials(1)
    draws = group_draws(only.group, only.stratum, 200)
    samples = bootstrap_auc(only, draws)[None]
    assert selection_level(np.array([score(only, BINARY)]), samples, 0, 0.025) == 0.025
    assert bound_of([only] * 4) == bound_of([only])


def test_independent_trials_count_fully() -> None:
    """The level is divided by the number of trials, as by Bonferroni."""
    samples = np.random.default_rng(0).normal(0, 0.05, (20, 40_000))
    assert selection_level(np.zeros(20), samples, 0, 0.025) == pytest.approx(0.025 / 20, rel=0.2)


def test_more_competitors_lower_the_bound_of_the_same_winner() -> None:
    best, *rest = sorted(trials(12), key=lambda trial: score(trial, BINARY), reverse=True)
    assert bound_of([best, *rest]) < bound_of([best, *rest[:2]]) <= bound_of([best])


@given(seed=st.integers(0, 10_000), n_trials=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_the_bound_rises_with_the_error_probability_and_never_exceeds_the_score(seed: int, n_trials: int) -> None:
    competing = trials(n_trials, seed, n_cases=15, n_folds=3)
    bounds = [bound_of(competing, 200, level) for level in (0.999, 0.99, 0.975, 0.9, 0.7, 0.51)]
    assert bounds == sorted(bounds)
    assert bounds[0] >= 0
    assert bounds[-1] <= max(score(trial, BINARY) for trial in competing)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_neither_the_order_of_trials_nor_that_of_images_matters(seed: int) -> None:
    competing = trials(5, seed, n_cases=15, n_folds=3)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(competing[0]))
    shuffled = [reorder(competing[number], rows) for number in rng.permutation(5)]
    assert bound_of(shuffled) == pytest.approx(bound_of(competing), abs=1e-9)


def test_a_trial_that_was_selected_with_less_than_the_best_score_has_its_own_bound() -> None:
    competing = trials(5)
    draws = group_draws(competing[0].group, competing[0].stratum, 300, 0)
    samples = np.stack([bootstrap_auc(trial, draws) for trial in competing])
    scores = np.array([score(trial, BINARY) for trial in competing])
    each = [lower_bound(competing, scores, samples, draws, selected=np.arange(5) == trial) for trial in range(5)]
    assert (np.array(each) < scores).all()
    assert len(set(each)) == 5
    assert each[scores.argmax()] == lower_bound(competing, scores, samples, draws)
    assert min(each) == lower_bound(competing, scores, samples, draws, selected=np.ones(5, bool))


def test_trials_with_the_same_best_score_give_one_bound_in_any_order() -> None:
    one = single_fold([0] * 6 + [1] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.35, 0.7, 0.8, 0.9, 0.95, 1.0])
    other = replace(one, probability=np.concatenate([one.probability[:, 5::-1], one.probability[:, :5:-1]], axis=1))
    third = single_fold([0] * 6 + [1] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.85, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
    assert score(one, BINARY) == score(other, BINARY) == score(third, BINARY)
    found = {round(bound_of(order), 12) for order in ([one, other, third], [third, one, other], [other, third, one])}
    assert len(found) == 1


# -- small and degenerate studies --------------------------------------------------------------------------------------


def test_a_perfect_score_has_the_exact_bound_of_its_disjoint_pairs() -> None:
    perfect = single_fold([0] * 8 + [1] * 5, [0.1] * 8 + [0.9] * 5)
    assert bound_of([perfect]) == pytest.approx(0.025 ** (1 / 5), abs=1e-12)


def test_equal_probabilities_are_chance_for_certain() -> None:
    constant = single_fold([0] * 30 + [1] * 30, [0.5] * 60)
    assert bound_of([constant]) == 0.5


@pytest.mark.parametrize(
    ("label", "stratum"),
    [([0, 1], None), ([0, 0, 1], None), ([0, 0, 1, 1], None), ([0, 1, 0, 1], [0, 0, 1, 1]), ([0, 1, 1, 1, 0], [0] * 5)],
)
def test_few_groups_give_a_number(label: list[int], stratum: list[int] | None) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        competing = [single_fold(label, rng.random(len(label)).tolist(), stratum) for _ in range(3)]
        bound = bound_of(competing, 100)
        assert 0 <= bound <= max(score(trial, BINARY) for trial in competing)


def test_draws_without_a_score_are_left_out() -> None:
    """With one stratum, a draw can lack a class."""
    competing = [replace(trial, stratum=np.zeros_like(trial.stratum)) for trial in trials(3, n_cases=6, n_folds=2)]
    draws = group_draws(competing[0].group, competing[0].stratum, 500)
    samples = np.stack([bootstrap_auc(trial, draws) for trial in competing])
    scores = np.array([score(trial, BINARY) for trial in competing])
    scored = np.isfinite(samples[0])
    assert 0 < scored.sum() < 500
    bound = lower_bound(competing, scores, samples, draws)
    assert bound == lower_bound(competing, scores, samples[:, scored], draws[scored])


def test_thousands_of_trials_use_little_memory() -> None:
    import tracemalloc

    best, *rest = sorted(trials(8, n_cases=20), key=lambda trial: score(trial, BINARY), reverse=True)
    draws = group_draws(best.group, best.stratum, 1000)
    rows = [bootstrap_auc(trial, draws) for trial in (best, *rest)]
    samples = np.stack([rows[0], *(rows[1 + number % 7] for number in range(4999))])
    scores = np.array([score(best, BINARY), *(score(rest[number % 7], BINARY) for number in range(4999))])
    predictions = [best, *(rest[number % 7] for number in range(4999))]
    tracemalloc.start()
    bound = lower_bound(predictions, scores, samples, draws)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * samples.nbytes
    few = np.stack(rows), np.array([score(best, BINARY), *(score(trial, BINARY) for trial in rest)])
    assert bound == lower_bound([best, *rest], few[1], few[0], draws)


def test_wrong_arguments_are_refused() -> None:
    (only,) = trials(1)
    draws = group_draws(only.group, only.stratum, 10)
    samples = bootstrap_auc(only, draws)[None]
    with pytest.raises(ValueError, match="level=1"):
        lower_bound([only], np.array([0.8]), samples, draws, 1)
    with pytest.raises(DataError, match="2 scores"):
        lower_bound([only], np.array([0.8, 0.7]), samples, draws)
    with pytest.raises(DataError, match="too few cases"):
        lower_bound([only], np.array([0.8]), np.full_like(samples, np.nan), draws)


# -- coverage ----------------------------------------------------------------------------------------------------------


def test_the_bound_holds_where_the_uncorrected_quantile_does_not() -> None:
    """Trials that know nothing: `experiments/benchmarks/bound-coverage.md` has hundreds of studies."""
    held, naive = 0, 0
    for seed in range(40):
        base = simulate(40, largest=4, seed=seed)
        rng = np.random.default_rng(seed)
        _, number = np.unique(base.group, return_inverse=True)
        logits = rng.normal(size=(15, number.max() + 1))[:, number] + rng.normal(size=(15, len(number)))
        competing = [replace(base, probability=1 / (1 + np.exp(-row[None]))) for row in logits]
        draws = group_draws(base.group, base.stratum, 300)
        samples = np.stack([bootstrap_auc(trial, draws) for trial in competing])
        scores = np.array([score(trial, BINARY) for trial in competing])
        held += lower_bound(competing, scores, samples, draws) <= 0.5
        naive += np.quantile(samples[scores.argmax()], 0.025) <= 0.5
    assert held >= 36
    assert naive < held
