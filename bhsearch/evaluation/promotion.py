"""The gate: whether a challenger becomes champion, as numbers of test images that neither was developed on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bhsearch.data.stratify import strata_of
from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import Interval, bootstrap_scores, group_draws, interval, paired_difference
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions

FEWEST_GROUPS = 5  # holding either class
# Follows the gain that a refusal names.
GAIN_NOTE = (
    "The smallest gain is the distance from the estimate to the lower end of its 95 % interval: "
    "of models that are better by just this, about half would pass."
)


@dataclass(frozen=True, eq=False)
class TestScores:
    """What one model says of its test images, and what it was developed on.

    Attributes:
        probability: P(malignant). Shape (n,).
        label: 0 benign, 1 malignant. Shape (n,).
        group: Number of the group of cases: the unit of weighting and resampling. Shape (n,).
        case: Case key, empty where unknown. Shape (n,).
        digest: Digest of the decoded pixels. Shape (n,).
        development_cases: Case keys of the images that the model was searched or trained on.
        development_digests: Pixel digests of these.
        why_not_promotable: As in `Split`; empty if it may be promoted.

    Raises:
        DataError: If the shapes disagree.
    """

    __test__: ClassVar[bool] = False  # not a class of tests, whatever its name

    probability: npt.NDArray[np.floating[Any]]
    label: npt.NDArray[np.int8]
    group: npt.NDArray[np.int64]
    case: npt.NDArray[np.object_]
    digest: npt.NDArray[np.object_]
    development_cases: frozenset[str]
    development_digests: frozenset[str]
    why_not_promotable: str = ""

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("probability", "label", "group", "case", "digest")}
        if len(set(shapes.values())) > 1 or self.label.ndim != 1:
            raise DataError(f"all columns of test images must have one shape (n,), but got {shapes}.")

    def has_seen(self, other: TestScores) -> npt.NDArray[np.bool_]:
        """Images of `other` whose case or picture this model was developed on. Shape of `other`."""
        # An empty case is no name that two data sets could have in common.
        by_case = np.isin(other.case.astype(str), sorted(self.development_cases - {""}))
        return np.asarray(by_case | np.isin(other.digest.astype(str), sorted(self.development_digests)))


@dataclass(frozen=True)
class Decision:
    """What the gate says.

    Attributes:
        promote: Whether the challenger becomes champion.
        reason: For people, with the numbers it rests on.
        numbers: Finite ones only: `n_images`, `n_groups`, `n_benign_groups` and `n_malignant_groups` of what was
            compared; `challenger_auc`, `challenger_low`, `challenger_high`; with a champion `champion_auc`,
            `champion_low`, `champion_high`, `difference`, `difference_low`, `difference_high`; and `smallest_gain`.
    """

    promote: bool
    reason: str
    numbers: dict[str, float]


def decide(challenger: TestScores, champion: TestScores | None = None, n_draws: int = 1000, seed: int = 0) -> Decision:
    """Decide on test groups that are in neither model's development.

    Images of the two are matched by pixel digest. A group of the challenger's test is left out whole if one of its
    cases or pictures is in either development. Every group counts the same, and the draws of groups are the same for
    both models. Without a champion the lower end of the challenger's interval must be above 0.5; with one, that of the
    paired difference above 0. With fewer than `FEWEST_GROUPS` groups holding either class nothing is decided.

    Args:
        challenger: The new version.
        champion: The version it would replace, on as many of the same images as there are; None if there is none.
        n_draws: Bootstrap draws of groups within strata.
        seed: Of the draws.

    Raises:
        DataError: If the same picture has two labels.

    Source:
        Ours (issue 4, point 4). Two-sided 95 % percentile intervals.
    """
    rows, others = _matched(challenger, champion)
    models = {"challenger": challenger.probability[rows]}
    if champion is not None:
        models["champion"] = others[rows]
    label, group = challenger.label[rows], challenger.group[rows]
    numbers = _counts(label, group)
    if numbers["n_benign_groups"] and numbers["n_malignant_groups"]:
        numbers |= _compared(models, label, group, n_draws, seed)
    numbers = {name: float(value) for name, value in numbers.items() if np.isfinite(value)}
    refusals = [sentence for sentence in (challenger.why_not_promotable, _too_few(numbers)) if sentence]
    what, least = ("difference", 0.0) if champion is not None else ("challenger", 0.5)
    promote = not refusals and numbers[f"{what}_low"] > least
    return Decision(promote, " ".join([*refusals, *_findings(numbers, what, promote, not refusals)]), numbers)


def _matched(challenger: TestScores, champion: TestScores | None) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Which of the challenger's images count, and what the champion says of each, nan where nothing. Both (n,)."""
    seen = challenger.has_seen(challenger)
    others = np.full(len(challenger.label), np.nan)
    known = np.ones(len(challenger.label), dtype=bool)
    if champion is not None:
        seen |= champion.has_seen(challenger)
        row_of = {digest: row for row, digest in enumerate(champion.digest.tolist())}
        at = np.array([row_of.get(digest, -1) for digest in challenger.digest.tolist()], dtype=np.int64)
        known = at >= 0
        others[known] = champion.probability[at[known]]
        contradicting = np.flatnonzero(known)[champion.label[at[known]] != challenger.label[known]]
        if len(contradicting):
            raise DataError(
                f"a picture must have one label, but {len(contradicting)} test images have another one with the "
                f"champion than with the challenger, the first with pixel digest {challenger.digest[contradicting[0]]}."
            )
    return known & ~np.isin(challenger.group, challenger.group[seen]), others


def _counts(label: npt.NDArray[np.int8], group: IntArray) -> dict[str, float]:
    n_groups = [len(np.unique(group[chosen])) for chosen in (label >= 0, label == 0, label == 1)]
    names = ("n_groups", "n_benign_groups", "n_malignant_groups")
    return {"n_images": len(label), **dict(zip(names, n_groups, strict=True))}


def _compared(
    models: dict[str, npt.NDArray[np.floating[Any]]],
    label: npt.NDArray[np.int8],
    group: IntArray,
    n_draws: int,
    seed: int,
) -> dict[str, float]:
    """AUCs with intervals, the difference of two, and the smallest gain; models in the order challenger, champion."""
    _, number = np.unique(group, return_inverse=True)
    # Of these groups alone: strata of the whole data set could leave one here that holds a single group, which every
    # draw would then hold once.
    stratum = strata_of(number, label)[number]
    draws = group_draws(number, stratum, n_draws, seed)
    numbers: dict[str, float] = {}
    aucs, samples = [], []
    for name, probability in models.items():
        predictions = _as_one_part(probability, label, number, stratum)
        aucs.append(score(predictions))
        samples.append(bootstrap_scores(predictions, draws))
        numbers |= _named(name, aucs[-1], interval(samples[-1]))
    if len(models) == 1:
        return numbers | {"smallest_gain": aucs[0] - interval(samples[0]).low}
    difference, ends = aucs[0] - aucs[1], paired_difference(samples[0], samples[1])
    gain = difference - ends.low
    if ends.low == ends.high:  # two models that rank all images alike say nothing of how others would differ
        gain = math.hypot(*(auc - interval(kept).low for auc, kept in zip(aucs, samples, strict=True)))
    found = {"difference": difference, "difference_low": ends.low, "difference_high": ends.high}
    return numbers | found | {"smallest_gain": gain}


def _named(name: str, auc: float, ends: Interval) -> dict[str, float]:
    return {f"{name}_auc": auc, f"{name}_low": ends.low, f"{name}_high": ends.high}


def _as_one_part(
    probability: npt.NDArray[np.floating[Any]], label: npt.NDArray[np.int8], group: IntArray, stratum: IntArray
) -> Predictions:
    """Test predictions as those of a single fold of a single repeat."""
    blank = np.full(len(label), "", dtype=object)
    fold = np.zeros((1, len(label)), dtype=np.int8)
    return Predictions(label, probability[None], fold, group, stratum, blank, blank, blank, blank)


def _too_few(numbers: dict[str, float]) -> str:
    held = (int(numbers["n_benign_groups"]), int(numbers["n_malignant_groups"]))
    if enough(*held):
        return ""
    return (
        f"Too few cases to decide: {FEWEST_GROUPS} groups with benign and {FEWEST_GROUPS} with malignant test images "
        f"that no model was developed on are needed, but there are {held[0]} and {held[1]}."
    )


def needs(n_benign: int, n_malignant: int, has_champion: bool) -> str:
    """What a version needs to pass, said before the test is opened.

    Args:
        n_benign: Groups of the sealed cases that hold benign images.
        n_malignant: Groups that hold malignant ones.
        has_champion: Whether there is a version to compare with.
    """
    what = "AUC's difference to the champion above 0" if has_champion else "AUC above 0.5"
    least = f"at least {FEWEST_GROUPS} groups with benign and {FEWEST_GROUPS} with malignant images"
    there = "" if enough(n_benign, n_malignant) else f"; there are {n_benign} and {n_malignant}, so it cannot pass"
    return f"lower end of the 95 % interval of the {what}, on {least}{there}"


def enough(n_benign: int, n_malignant: int) -> bool:
    """Whether a test is large enough for the gate to decide; arguments as of `needs`."""
    return min(n_benign, n_malignant) >= FEWEST_GROUPS


def _findings(numbers: dict[str, float], what: str, promote: bool, decided: bool) -> list[str]:
    """Sentences: what was found, and what could have been; `decided` where it was the interval that decided."""
    if f"{what}_low" not in numbers:
        return ["Nothing could be compared, so this test could have shown no gain at all."]
    n = {name: int(numbers[name]) for name in ("n_groups", "n_benign_groups", "n_malignant_groups", "n_images")}
    on = (
        f"on {n['n_groups']} groups of cases ({n['n_benign_groups']} with benign, {n['n_malignant_groups']} with "
        f"malignant images), {n['n_images']} images"
    )
    low, high = numbers[f"{what}_low"], numbers[f"{what}_high"]
    verb = "is" if promote else "must be"
    if what == "difference":
        aucs = f"{numbers['challenger_auc']:.3f} against {numbers['champion_auc']:.3f}"
        found = f"{numbers['difference']:+.3f} [{low:+.3f} {high:+.3f}] ({aucs}) {on}"
        what_is, least = "AUC's difference to the champion", "0"
        gain = f"a difference of {numbers['smallest_gain']:.3f}"
    else:
        found = f"{numbers['challenger_auc']:.3f} [{low:.3f} {high:.3f}] {on}"
        what_is, least = "AUC", "0.5"
        gain = f"an AUC of {0.5 + numbers['smallest_gain']:.3f}"
    # Refused for another reason, such as too few cases, the interval decides nothing, wherever it lies.
    sentence = (
        f"The 95 % interval of the {what_is} {verb} above {least}: {found}."
        if decided
        else f"The {what_is} decides nothing: {found}."
    )
    if promote:
        return [sentence]
    return [sentence, f"The smallest gain that this test could have shown is {gain}.", GAIN_NOTE]
