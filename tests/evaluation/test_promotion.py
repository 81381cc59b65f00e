"""The gate: who passes, who does not, and what it says then. The true gains are stated in each test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import group_draws, interval
from bhsearch.evaluation.metrics import weighted_auc
from bhsearch.evaluation.promotion import FEWEST_GROUPS, TestScores, decide, enough, needs
from tests.tasks.samples import BINARY

GOOD, FAIR, GUESS = 1.5, 0.7, 0.0  # how far the classes are apart on logits; true AUCs 0.84, 0.68, 0.5 with one image


def model(
    strength: float, n_benign: int = 20, n_malignant: int = 25, *, seed: int = 0, case_seed: int = 9
) -> TestScores:
    """A model of a known strength. All models of one `case_seed` see the same images."""
    rng = np.random.default_rng(case_seed)
    n_cases = n_benign + n_malignant
    size = rng.integers(1, 6, n_cases)
    number = np.repeat(np.arange(n_cases), size)
    label = (number >= n_benign).astype(np.int8)
    common = rng.normal(0, 0.5, n_cases)[number]  # cases that are hard for every model
    own = np.random.default_rng((seed, 1)).normal(0, 0.6, len(number))
    logits = strength * (2 * label - 1) / 1.5 + common + own
    return TestScores(
        probability=1 / (1 + np.exp(-logits)),
        label=label,
        group=number * 2 + 1,
        case=np.array([f"test{case}" for case in number], dtype=object),
        digest=np.array([f"{case_seed}-{row}" for row in range(len(number))], dtype=object),
        development_cases=frozenset({"dev1", "dev2"}),
        development_digests=frozenset({"d1", "d2"}),
    )


def take(scores: TestScores, rows: np.ndarray, **changes) -> TestScores:
    names = ("probability", "label", "group", "case", "digest")
    return replace(scores, **{**{name: getattr(scores, name)[rows] for name in names}, **changes})


def test_the_first_model_is_champion_if_it_is_better_than_chance():
    verdict = decide(model(GOOD), None, BINARY)
    assert verdict.promote
    assert verdict.numbers["challenger_low"] > 0.5
    assert "is above 0.5" in verdict.reason
    assert "half of the models" not in verdict.reason


def test_a_first_model_that_guesses_is_refused_with_its_numbers():
    verdict = decide(model(GUESS), None, BINARY)
    assert not verdict.promote
    assert verdict.numbers["challenger_low"] <= 0.5
    assert f"{verdict.numbers['challenger_auc']:.3f}" in verdict.reason
    needed = 0.5 + verdict.numbers["smallest_gain"]
    assert f"about half of the models with an AUC of {needed:.3f} would pass." in verdict.reason


def test_the_numbers_are_case_weighted_and_the_interval_is_over_cases():
    scores = model(FAIR)
    _, number = np.unique(scores.group, return_inverse=True)
    weight = 1 / np.bincount(number)[number]
    draws = group_draws(scores.group, scores.label.astype(np.int64), 1000, 0)
    samples = weighted_auc(scores.label, scores.probability, weight * draws[:, number])
    numbers = decide(scores, None, BINARY).numbers
    assert numbers["challenger_auc"] == pytest.approx(weighted_auc(scores.label, scores.probability, weight))
    assert (numbers["challenger_low"], numbers["challenger_high"]) == pytest.approx(interval(samples), abs=1e-9)
    assert (numbers["n_groups"], numbers["n_benign_groups"], numbers["n_malignant_groups"]) == (45, 20, 25)


def test_the_same_model_again_is_refused():
    """True gain 0."""
    verdict = decide(model(GOOD), model(GOOD), BINARY)
    assert not verdict.promote
    assert verdict.numbers["difference"] == verdict.numbers["difference_low"] == verdict.numbers["difference_high"] == 0
    assert verdict.numbers["smallest_gain"] > 0.02  # what models that are not the same would have needed


def test_a_model_that_ranks_alike_but_for_rounding_is_refused():
    verdict = decide(replace(model(GOOD), probability=np.round(model(GOOD).probability, 3)), model(GOOD), BINARY)
    assert not verdict.promote


def test_a_clearly_better_model_is_promoted_and_a_worse_one_is_not():
    """True gain about 0.2 one way and -0.2 the other."""
    up, down = (
        decide(model(GOOD, seed=1), model(FAIR, seed=2), BINARY),
        decide(model(FAIR, seed=2), model(GOOD, seed=1), BINARY),
    )
    assert up.promote
    assert up.numbers["difference_low"] > 0
    assert "is above 0:" in up.reason
    assert not down.promote
    assert down.numbers["difference_high"] < 0
    assert down.numbers["difference"] == pytest.approx(-up.numbers["difference"])


def test_a_gain_beyond_the_smallest_passes_and_one_below_does_not():
    """The number that a refusal names is the one that would have been needed."""
    for seed in range(12):
        numbers = decide(model(0.9, seed=seed), model(FAIR, seed=50 + seed), BINARY).numbers
        assert (numbers["difference"] > numbers["smallest_gain"]) == (numbers["difference_low"] > 0)


def test_a_challenger_is_compared_in_pairs():
    """Cases that are hard for both cancel: the difference's interval is narrower than that of unlike models."""
    numbers = decide(model(GOOD, seed=1), model(FAIR, seed=2), BINARY).numbers
    widths = [numbers[f"{who}_high"] - numbers[f"{who}_low"] for who in ("challenger", "champion", "difference")]
    assert widths[2] < np.hypot(widths[0], widths[1])


@pytest.mark.parametrize(("n_benign", "n_malignant"), [(3, 4), (4, 40), (40, 4)])
def test_few_cases_decide_nothing(n_benign, n_malignant):
    for champion in (None, model(GUESS, n_benign, n_malignant, seed=3)):
        verdict = decide(model(5.0, n_benign, n_malignant), champion, BINARY)
        assert not verdict.promote
        assert "Too few cases to decide" in verdict.reason
        assert f"{n_benign} and {n_malignant}" in verdict.reason
        # Wherever the interval lies, it is not what the refusal rests on.
        assert "decides nothing" in verdict.reason
        assert "must be above" not in verdict.reason
        assert f"about half of the models with {'an AUC' if champion is None else 'a difference'} of" in verdict.reason


def test_five_cases_of_each_class_are_enough_to_decide():
    assert decide(model(8.0, FEWEST_GROUPS, FEWEST_GROUPS), None, BINARY).promote


def test_groups_that_hold_both_classes_count_for_both():
    mixed = model(GOOD, 10, 10)
    mixed = replace(mixed, group=mixed.group % 20 // 2)
    numbers = decide(mixed, None, BINARY).numbers
    assert numbers["n_groups"] == numbers["n_benign_groups"] == numbers["n_malignant_groups"] == 10


def test_a_group_that_the_champion_was_developed_on_is_left_out_whole():
    """By case or by picture; one image of a group is enough."""
    challenger, champion = model(GOOD, seed=1), model(FAIR, seed=2)
    first, last = challenger.group[0], challenger.group[-1]
    known = replace(
        champion,
        development_cases=frozenset({str(challenger.case[0])}),
        development_digests=frozenset({str(challenger.digest[-1])}),
    )
    inside = ~np.isin(challenger.group, [first, last])
    judged, peer = (
        decide(challenger, known, BINARY),
        decide(take(challenger, inside), take(champion, inside), BINARY),
    )
    assert judged.numbers == peer.numbers
    assert judged.numbers["n_groups"] == 43


def test_a_challenger_is_not_judged_on_what_it_was_developed_on_itself():
    scores = model(GOOD)
    seen = replace(scores, development_cases=frozenset(scores.case[scores.group < 20].tolist()))
    assert decide(seen, None, BINARY).numbers == decide(take(scores, scores.group >= 20), None, BINARY).numbers


def test_images_without_a_case_are_not_all_the_same_case():
    scores = model(GOOD)
    unknown = replace(scores, case=np.full(len(scores.case), "", dtype=object), development_cases=frozenset({""}))
    assert decide(unknown, None, BINARY).numbers["n_groups"] == 45


def test_images_are_matched_by_picture_in_whatever_order_they_come():
    challenger, champion = model(GOOD, seed=1), model(FAIR, seed=2)
    rows = np.random.default_rng(0).permutation(len(champion.label))[:60]
    shuffled = take(champion, rows)
    inside = np.isin(challenger.digest.astype(str), shuffled.digest.astype(str))
    peer = decide(take(challenger, inside), take(champion, inside), BINARY)
    assert decide(challenger, shuffled, BINARY).numbers == peer.numbers
    assert peer.numbers["n_images"] == 60


def test_models_without_a_common_picture_cannot_be_compared():
    verdict = decide(model(GOOD), model(GOOD, case_seed=10), BINARY)
    assert not verdict.promote
    assert "there are 0 and 0" in verdict.reason
    assert "no gain at all" in verdict.reason
    assert verdict.numbers == {"n_images": 0, "n_groups": 0, "n_benign_groups": 0, "n_malignant_groups": 0}


def test_a_picture_with_two_labels_is_an_error():
    champion = model(FAIR)
    with pytest.raises(DataError, match="differ between champion and challenger"):
        decide(model(GOOD), replace(champion, label=1 - champion.label), BINARY)


def test_what_may_not_be_promoted_is_refused_however_good_it_is():
    reason = "The folds are made by image. No model made with it can be promoted."
    verdict = decide(replace(model(8.0), why_not_promotable=reason), None, BINARY)
    assert not verdict.promote
    assert verdict.reason.startswith(reason)
    assert "half of the models" in verdict.reason
    assert verdict.numbers["challenger_low"] > 0.5


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_copies_of_every_test_image_change_no_interval(seed, copies):
    """More pictures of the same cases are no more evidence. Copies get digests of their own, as near copies have."""
    challenger, champion = model(GOOD, seed=seed, case_seed=seed), model(FAIR, seed=seed + 1, case_seed=seed)
    rows = np.tile(np.arange(len(challenger.label)), copies)
    named = np.array([f"{challenger.digest[row]} {at}" for at, row in enumerate(rows)], dtype=object)
    one = decide(challenger, champion, BINARY, 100).numbers
    other = decide(take(challenger, rows, digest=named), take(champion, rows, digest=named), BINARY, 100).numbers
    assert other.pop("n_images") == copies * one.pop("n_images")
    assert other == pytest.approx(one, abs=1e-9)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="same shape"):
        replace(model(GOOD), probability=np.ones(3))


@pytest.mark.parametrize("champion", [None, model(FAIR, 1, 6)])
def test_a_class_of_one_group_has_no_interval_and_shows_no_gain(champion):
    verdict = decide(model(GOOD, 1, 6), champion, BINARY)
    assert not verdict.promote
    assert "without an interval, which needs at least two groups of each class" in verdict.reason
    assert "no gain at all" in verdict.reason
    assert "[" not in verdict.reason


def test_no_gain_above_an_auc_of_one_is_asked_for():
    guess = model(GUESS, 2, 2)
    guess = replace(guess, probability=np.array([0.9, 0.2, 0.3, 0.95])[guess.group // 2])
    wide = decide(guess, None, BINARY)
    assert wide.numbers["smallest_gain"] > 0.5
    assert "not even an AUC of 1 would have passed" in wide.reason
    assert "half of the models" not in wide.reason


def test_a_refusal_explains_the_smallest_gain_and_a_promotion_does_not_need_it():
    refused, promoted = decide(model(GUESS), None, BINARY), decide(model(GOOD), None, BINARY)
    assert not refused.promote
    assert refused.reason.count("about half of the models with") == 1
    assert promoted.promote
    assert "half of the models" not in promoted.reason


@pytest.mark.parametrize("n_benign", [FEWEST_GROUPS - 1, FEWEST_GROUPS])
def test_what_is_needed_is_said_as_it_is_judged(n_benign):
    verdict = decide(model(8.0, n_benign=n_benign), None, BINARY)
    assert enough(n_benign, 25) == verdict.promote
    said = needs(n_benign, 25, has_champion=False)
    assert ("cannot pass" in said) == (not verdict.promote)
    assert "AUC above 0.5" in said
    assert "difference to the champion above 0" in needs(n_benign, 25, has_champion=True)
