"""The mixed score: score, intervals, correction and bound against direct computation with scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import bisect
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import bootstrap_auc, bootstrap_scores, difference_interval, group_draws, interval
from bhsearch.evaluation.metrics import clean_score, fold_scores, score, trial_metrics
from bhsearch.evaluation.mixed_score import definition, formula, score_axis, score_title
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.bbc_cv import corrected_score
from bhsearch.evaluation.selection.mabt import BOUND_NOTE, MIXED_BOUND_NOTE, REPORTED_LEVEL, influence, lower_bound
from bhsearch.models.augmentation.shifts import SHIFTS
from tests.evaluation.simulated import simulate, with_shifts
from tests.tasks.samples import BINARY

WEIGHTS = (0.3, 1.0)
Area = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def trials(n: int, weight: float, seed: int = 0, **options: int) -> list[Predictions]:
    """Trials that differ by noise, each with its own reaction to shifts."""
    base = simulate(seed=seed, **{"n_cases": 20, "largest": 4, "n_folds": 3, **options})
    rng = np.random.default_rng(seed + 1)
    moved = np.clip(base.probability + rng.normal(0, 0.2, (n, *base.probability.shape)), 0, 1)
    return [with_shifts(replace(base, probability=each), weight, 2, seed + k) for k, each in enumerate(moved)]


def scikit_learn(label: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> float:
    return float(roc_auc_score(label, probability, sample_weight=weight))


def pair_by_pair(label: np.ndarray, probability: np.ndarray, weight: np.ndarray) -> float:
    """The same from the definition, a hundred times as fast on a few images."""
    (p, q), (v, w) = ([column[label == value] for value in (1, 0)] for column in (probability, weight))
    wins = (p[:, None] > q) + 0.5 * (p[:, None] == q)
    return float(v @ wins @ w / (v.sum() * w.sum()))


def by_hand(predictions: Predictions, counts: np.ndarray | None = None, area: Area = pair_by_pair) -> float:
    """The mixed score, fold by fold, with each case as heavy as it was drawn; nan if no fold has both classes."""
    groups, number = np.unique(predictions.group, return_inverse=True)
    drawn = np.ones(len(groups)) if counts is None else np.asarray(counts, np.float64)
    means = []
    for probability in (predictions.probability, *predictions.shifted.values()):
        areas = []
        for repeat, fold in enumerate(predictions.fold):
            for k in np.unique(fold):
                rows = np.flatnonzero(fold == k)
                images = np.bincount(number[rows], minlength=len(groups))
                weight = drawn[number[rows]] / images[number[rows]]
                kept = weight > 0
                label = predictions.label[rows][kept]
                if len(set(label)) == 2:
                    areas.append(area(label, probability[repeat, rows][kept], weight[kept]))
        means.append(np.mean(areas) if areas else np.nan)
    clean, *shifted = means
    return float((1 - predictions.shift_weight) * clean + predictions.shift_weight * np.mean(shifted))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_score_from_a_file_is_that_of_scikit_learn(weight: float, tmp_path: Path) -> None:
    made = with_shifts(simulate(n_repeats=2), weight)
    made.to_csv(tmp_path / "predictions.csv")
    stored = Predictions.from_csv(tmp_path / "predictions.csv")
    assert stored.shifts == made.shifts
    assert stored.shift_weight == weight
    for name, probability in made.shifted.items():
        assert np.array_equal(stored.shifted[name], probability.astype(np.float32))
    assert score(stored, BINARY) == pytest.approx(by_hand(stored, area=scikit_learn), abs=1e-12)
    assert score(stored, BINARY) == pytest.approx(by_hand(stored), abs=1e-12)
    assert score(stored, BINARY) == pytest.approx(by_hand(made), abs=1e-6)
    assert clean_score(stored, BINARY) != pytest.approx(by_hand(stored), abs=1e-4)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_bootstrap_sample_has_the_same_cases_in_all_conditions(weight: float) -> None:
    (only,) = trials(1, weight, n_repeats=2)
    draws = group_draws(only.group, only.stratum, 15)
    expected = [by_hand(only, counts, scikit_learn) for counts in draws]
    assert bootstrap_scores(only, draws, BINARY) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 10_000), weight=st.floats(0.01, 1.0))
@settings(max_examples=20, deadline=None)
def test_the_score_is_a_line_between_the_auc_and_the_mean_over_the_shifts(seed: int, weight: float) -> None:
    """At a weight of 1 it is the mean over the shifts, at a weight near 0 the AUC."""
    mixed = with_shifts(simulate(15, seed=seed, largest=5, n_folds=3), weight, seed=seed)
    alone = [score(replace(mixed.unchanged, probability=each), BINARY) for each in mixed.shifted.values()]
    assert score(replace(mixed, shift_weight=1.0), BINARY) == pytest.approx(np.mean(alone), abs=1e-12)
    expected = (1 - weight) * score(mixed.unchanged, BINARY) + weight * np.mean(alone)
    assert score(mixed, BINARY) == pytest.approx(expected, abs=1e-12)


def test_shifts_that_change_nothing_do_not_change_the_score() -> None:
    base = simulate(20, n_folds=3)
    same = replace(base, shifted={"one": base.probability, "two": base.probability}, shift_weight=0.7)
    draws = group_draws(base.group, base.stratum, 50)
    assert score(same, BINARY) == pytest.approx(score(base, BINARY), abs=1e-12)
    assert bootstrap_scores(same, draws, BINARY) == pytest.approx(bootstrap_scores(base, draws, BINARY), abs=1e-12)
    assert influence(same) == pytest.approx(influence(base), abs=1e-12)


def test_without_shifts_every_number_is_that_of_the_auc_bit_for_bit() -> None:
    base = simulate(n_repeats=2)
    draws = group_draws(base.group, base.stratum, 50)
    assert score(base, BINARY) == float(fold_scores(base).mean())
    assert np.array_equal(bootstrap_scores(base, draws, BINARY), bootstrap_auc(base, draws))
    assert base.conditions == ((1.0, base),)
    assert base.unchanged is base
    assert np.array_equal(base.out_of_fold, base.probability)


def test_all_other_metrics_are_of_the_unchanged_images() -> None:
    base = simulate(20, n_folds=3)
    assert trial_metrics(with_shifts(base, 0.5), BINARY) == trial_metrics(base, BINARY)


def test_a_part_of_the_images_keeps_its_shifts() -> None:
    mixed = with_shifts(simulate(20, n_folds=3), 0.5)
    rows = np.isin(mixed.group, np.unique(mixed.group)[:15])
    part = mixed.select(rows)
    assert part.shift_weight == 0.5
    for name, probability in mixed.shifted.items():
        assert np.array_equal(part.shifted[name], probability[:, rows])
    assert score(part, BINARY) == pytest.approx(by_hand(part), abs=1e-12)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_paired_difference_is_that_of_the_mixed_scores(weight: float) -> None:
    one, other = trials(2, weight)
    draws = group_draws(one.group, one.stratum, 60, 5)
    differences = np.array([by_hand(one, counts) - by_hand(other, counts) for counts in draws])
    assert difference_interval(one, other, BINARY, 60, 5) == pytest.approx(interval(differences), abs=1e-9)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_correction_repeats_the_whole_rule_with_the_mixed_score(weight: float) -> None:
    """One bootstrap sample, one trial, one fold and one condition at a time."""
    competing = trials(5, weight, n_repeats=2)
    draws = group_draws(competing[0].group, competing[0].stratum, 40, seed=3)
    found = []
    for counts in draws:
        inside = [by_hand(trial, counts) for trial in competing]
        winners = [trial for trial, value in zip(competing, inside, strict=True) if value >= max(inside) - 1e-9]
        found.append(np.mean([by_hand(winner, counts == 0) for winner in winners]))
    corrected = corrected_score(competing, BINARY, 40, seed=3)
    assert corrected.raw == pytest.approx(max(map(by_hand, competing)), abs=1e-12)
    assert corrected.score == pytest.approx(np.nanmean(found), abs=1e-9)
    assert (corrected.low, corrected.high) == pytest.approx(interval(np.array(found)), abs=1e-9)
    assert (corrected.shift_weight, corrected.title, corrected.bound_note) == (weight, "mixed score", MIXED_BOUND_NOTE)


def test_another_trial_may_win_than_by_the_auc() -> None:
    """Otherwise the tests of the rule would pass without the shifts."""
    found = [trials(5, 1.0, seed) for seed in range(6)]
    winners = [
        [int(np.argmax([rule(trial, BINARY) for trial in competing])) for rule in (score, clean_score)]
        for competing in found
    ]
    assert any(mixed != clean for mixed, clean in winners)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_influences_are_derivatives_of_the_mixed_score(weight: float) -> None:
    (only,) = trials(1, weight, n_repeats=2)
    step = 1e-4
    moved = step * np.eye(20)
    differences = [by_hand(only, 1 + row) - by_hand(only, 1 - row) for row in moved]
    assert influence(only) == pytest.approx(np.array(differences) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_bound_is_the_mixed_score_under_the_tilt_written_out(weight: float) -> None:
    competing = trials(4, weight, seed=2)
    n_draws, n_groups = 200, 20
    draws = group_draws(competing[0].group, competing[0].stratum, n_draws, 0)
    scores = np.array([by_hand(trial) for trial in competing])
    samples = np.array([[by_hand(trial, counts) for counts in draws] for trial in competing])
    best = int(np.argmax(scores))
    deviations = (samples - scores[:, None]) / samples.std(axis=1, keepdims=True)
    largest, own = (np.quantile(each, 0.975) for each in (deviations.max(axis=0), deviations[best]))
    alpha = (1 - REPORTED_LEVEL) * min(norm.sf(largest) / norm.sf(own), 1.0)

    winner = competing[best]
    step = 1e-4
    slopes = np.array([by_hand(winner, 1 + row) - by_hand(winner, 1 - row) for row in step * np.eye(n_groups)])
    slopes /= 2 * step
    stratum = winner.stratum[np.unique(winner.group, return_index=True)[1]]

    def weights_at(strength: float) -> np.ndarray:
        raw = np.exp(strength * slopes)
        total = {value: raw[stratum == value].mean() for value in np.unique(stratum)}
        return raw / np.array([total[value] for value in stratum])

    def excess(strength: float) -> float:
        likelihood = np.prod(weights_at(strength) ** draws, axis=1)
        return float(np.mean(likelihood * (samples[best] >= scores[best] - 1e-9)) - alpha)

    strength = bisect(excess, -400, 0, xtol=1e-6)
    expected = by_hand(winner, weights_at(strength))
    assert lower_bound(competing, scores, samples, draws, REPORTED_LEVEL) == pytest.approx(expected, abs=1e-4)
    assert corrected_score(competing, BINARY, n_draws).bound == pytest.approx(expected, abs=1e-4)
    assert expected < scores[best]


def test_trials_with_other_shifts_or_another_weight_do_not_compete() -> None:
    one, other = trials(2, 0.5)
    with pytest.raises(DataError, match="differs from the first in: shift_weight"):
        corrected_score([one, replace(other, shift_weight=0.25)], BINARY, 20)
    with pytest.raises(DataError, match="differs from the first in: shifts, shift_weight"):
        corrected_score([one, other.unchanged], BINARY, 20)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"shift_weight": 0.0},
            "must be above 0 and at most 1 with `shifted`, and 0 without, but got 0.0 with 3 shifts",
        ),
        ({"shift_weight": 1.5}, "but got 1.5 with 3 shifts"),
        ({"shifted": {}}, "but got 0.5 with 0 shifts"),
        ({"shifted": {"one": np.zeros((2, 3))}}, "must have the shape"),
    ],
)
def test_a_weight_that_does_not_fit_the_shifts_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        replace(with_shifts(simulate(8, n_folds=2), 0.5), **change)  # type: ignore[arg-type]


def test_probabilities_of_shifted_images_are_checked_too() -> None:
    mixed = with_shifts(simulate(8, n_folds=2), 0.5)
    wrong = {**mixed.shifted, "shift 1": np.full(mixed.probability.shape, np.nan)}
    with pytest.raises(DataError, match=r"Probabilities must be in \[0, 1\]"):
        replace(mixed, shifted=wrong)


def test_a_file_with_shifts_lacks_no_column_that_it_needs(tmp_path: Path) -> None:
    mixed = with_shifts(simulate(6, n_folds=2), 0.5)
    mixed.to_csv(tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    (tmp_path / "p.csv").write_text(text.replace("score_weight_shift", "renamed", 1), encoding="utf-8")
    with pytest.raises(DataError, match="lacks the columns score_weight_shift"):
        Predictions.from_csv(tmp_path / "p.csv")
    mixed.unchanged.to_csv(tmp_path / "q.csv")
    assert "shift" not in (tmp_path / "q.csv").read_text(encoding="utf-8").splitlines()[0]


def test_the_words_name_the_weights_and_every_shift() -> None:
    assert (score_title(0.0), score_axis(0.0), formula(0.0), definition(0.0)) == ("AUC", "ROC AUC", "", "")
    assert (score_title(0.3), score_axis(0.3)) == ("mixed score", "mixed score")
    assert formula(0.3) == f"0.7 x AUC + 0.3 x mean AUC under {len(SHIFTS)} shifts"
    assert formula(0.3) in definition(0.3)
    assert all(shift.title in definition(0.3) for shift in SHIFTS.values())
    (only,) = trials(1, 0.5)
    assert corrected_score([only.unchanged], BINARY, 20).bound_note == BOUND_NOTE
