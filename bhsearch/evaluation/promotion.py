"""The promotion gate, which decides on unseen test images whether a challenger replaces the champion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import Interval, bootstrap_scores, group_draws, interval, paired_difference
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions
from bhsearch.tasks.base import Task
from bhsearch.text import plural

FEWEST_GROUPS = 5  # minimum number of groups with images of each class


@dataclass(frozen=True, eq=False)
class TestScores:
    """Test predictions of one model, with the cases and images that were used to develop the model.

    Attributes:
        probability: P(malignant). Shape (n_images,).
        label: 0 benign, 1 malignant. Shape (n_images,).
        group: Number of each image's group of cases, which is the unit of weighting and resampling. Shape (n_images,).
        case: Case key, empty if unknown. Shape (n_images,).
        digest: Digest of the decoded pixels. Shape (n_images,).
        development_cases: Case keys of the development images, on which the model was selected or trained.
        development_digests: Pixel digests of the development images.
        why_not_promotable: Reasons why the model must not be promoted, see `Split`; empty if there are none.

    Raises:
        DataError: If the shapes disagree.
    """

    __test__: ClassVar[bool] = False  # no test class for pytest to collect

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
            raise DataError(f"All arrays must have the same shape (n_images,), but got {shapes}.")

    def has_seen(self, other: TestScores) -> npt.NDArray[np.bool_]:
        """Return the mask of the images of `other` whose case or pixels were used to develop this model."""
        # An empty key means that the case is unknown, so images with empty keys need not be from the same case.
        by_case = np.isin(other.case.astype(str), sorted(self.development_cases - {""}))
        return np.asarray(by_case | np.isin(other.digest.astype(str), sorted(self.development_digests)))


@dataclass(frozen=True)
class Decision:
    """Decision of the promotion gate.

    Attributes:
        promote: Whether the challenger becomes champion.
        reason: Reason in sentences, including the decisive numbers.
        numbers: Finite numbers by name: the numbers of compared images and groups (`n_images`, `n_groups`,
            `n_benign_groups`, `n_malignant_groups`); `challenger_auc`, `challenger_low` and `challenger_high`; with a
            champion also `champion_auc`, `champion_low`, `champion_high`, `difference`, `difference_low` and
            `difference_high`; and `smallest_gain`.
    """

    promote: bool
    reason: str
    numbers: dict[str, float]


def decide(
    challenger: TestScores, champion: TestScores | None, task: Task, n_draws: int = 1000, seed: int = 0
) -> Decision:
    """Decide whether the challenger is promoted, based on test groups that were not used to develop either model.

    Images of the two models are matched by pixel digest. A test group of the challenger is left out entirely if any of
    its cases or images was used to develop either model. All groups have equal weight, and both models are evaluated on
    the same bootstrap samples. Without a champion, the lower end of the 95 % interval of the challenger's AUC must be
    above 0.5. With a champion, the lower end of the interval of the paired difference in AUC must be above 0. The
    challenger is refused if fewer than `FEWEST_GROUPS` groups have images of either class.

    Args:
        challenger: Test predictions of the new version.
        champion: Test predictions of the current champion, on as many of the challenger's images as possible; None if
            there is no champion.
        task: Task that defines the strata and the score.
        n_draws: Number of bootstrap samples of groups within strata.
        seed: Random seed of the bootstrap.

    Raises:
        DataError: If the label of an image differs between the two models.

    Source:
        Ours: two-sided 95 % percentile intervals over groups of cases.
    """
    rows, others = _matched(challenger, champion)
    models = {"challenger": challenger.probability[rows]}
    if champion is not None:
        models["champion"] = others[rows]
    label, group = challenger.label[rows], challenger.group[rows]
    numbers = _counts(label, group)
    if numbers["n_benign_groups"] and numbers["n_malignant_groups"]:
        numbers |= _compared(models, label, group, n_draws, seed, task)
    numbers = {name: float(value) for name, value in numbers.items() if np.isfinite(value)}
    refusals = [sentence for sentence in (challenger.why_not_promotable, _too_few(numbers)) if sentence]
    what, least = ("difference", 0.0) if champion is not None else ("challenger", 0.5)
    promote = not refusals and numbers[f"{what}_low"] > least
    return Decision(promote, " ".join([*refusals, *_findings(numbers, what, promote, not refusals)]), numbers)


def _matched(challenger: TestScores, champion: TestScores | None) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Match the champion's predictions to the challenger's images.

    Returns:
        Mask of the challenger's images that are compared, and the champion's probability of each image, or nan if the
        champion has no prediction. Shape (n_images,) each.

    Raises:
        DataError: If the label of an image differs between the two models.
    """
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
                f"The labels of {plural(len(contradicting), 'test image')} differ between champion and challenger; the "
                f"first is of case {challenger.case[contradicting[0]]!r} (pixel digest "
                f"{challenger.digest[contradicting[0]]}). Correct the labels of the data set."
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
    task: Task,
) -> dict[str, float]:
    """Return the AUCs with intervals, their difference, and the smallest gain, as `Decision.numbers`.

    The dictionary `models` must contain the challenger first.
    """
    _, number = np.unique(group, return_inverse=True)
    # Recompute strata for the compared groups. With the strata of the whole data set, a stratum could be left with a
    # single group, which every draw would contain exactly once.
    stratum = task.strata(number, label)[number]
    draws = group_draws(number, stratum, n_draws, seed)
    numbers: dict[str, float] = {}
    aucs, samples = [], []
    for name, probability in models.items():
        predictions = _as_one_part(probability, label, number, stratum)
        aucs.append(score(predictions, task))
        samples.append(bootstrap_scores(predictions, draws, task))
        numbers |= _named(name, aucs[-1], interval(samples[-1]))
    if len(models) == 1:
        return numbers | {"smallest_gain": aucs[0] - interval(samples[0]).low}
    difference, ends = aucs[0] - aucs[1], paired_difference(samples[0], samples[1])
    gain = difference - ends.low
    if ends.low == ends.high:  # the models rank all images alike, which says nothing about other differences
        gain = math.hypot(*(auc - interval(kept).low for auc, kept in zip(aucs, samples, strict=True)))
    differences = {"difference": difference, "difference_low": ends.low, "difference_high": ends.high}
    return numbers | differences | {"smallest_gain": gain}


def _named(name: str, auc: float, ends: Interval) -> dict[str, float]:
    return {f"{name}_auc": auc, f"{name}_low": ends.low, f"{name}_high": ends.high}


def _as_one_part(
    probability: npt.NDArray[np.floating[Any]], label: npt.NDArray[np.int8], group: IntArray, stratum: IntArray
) -> Predictions:
    """Return test predictions as `Predictions` with a single repeat and fold."""
    blank = np.full(len(label), "", dtype=object)
    fold = np.zeros((1, len(label)), dtype=np.int8)
    return Predictions(label, probability[None], fold, group, stratum, blank, blank, blank, blank)


def _too_few(numbers: dict[str, float]) -> str:
    held = (int(numbers["n_benign_groups"]), int(numbers["n_malignant_groups"]))
    if enough(*held):
        return ""
    return (
        f"Too few cases to decide: the gate needs {FEWEST_GROUPS} groups with benign and {FEWEST_GROUPS} with "
        f"malignant images on which no model was developed, but there are {held[0]} and {held[1]}."
    )


def few_cases_note(n_benign: int, n_malignant: int) -> str:
    """Return the note shown with a test on fewer than `FEWEST_GROUPS` groups of a class; otherwise an empty string.

    Args:
        n_benign: Number of held-out groups of cases with benign images.
        n_malignant: Number of held-out groups of cases with malignant images.
    """
    if enough(n_benign, n_malignant):
        return ""
    return (
        f"The corrected score comes first: the held-out test has {n_benign} benign and "
        f"{plural(n_malignant, 'malignant case')}, "
        f"and fewer than {FEWEST_GROUPS} of a class say little."
    )


def needs(n_benign: int, n_malignant: int, has_champion: bool) -> str:
    """Return the condition to pass the gate as text, for messages shown before the sealed test set is used.

    Args:
        n_benign: Number of groups in the held-out test set with benign images.
        n_malignant: Number of groups in the held-out test set with malignant images.
        has_champion: Whether the challenger is compared with a champion.
    """
    what = "AUC's difference to the champion above 0" if has_champion else "AUC above 0.5"
    least = f"at least {FEWEST_GROUPS} groups with benign and {FEWEST_GROUPS} with malignant images"
    there = "" if enough(n_benign, n_malignant) else f"; there are {n_benign} and {n_malignant}, so it cannot pass"
    return f"lower end of the 95 % interval of the {what}, on {least}{there}"


def enough(n_benign: int, n_malignant: int) -> bool:
    """Return whether a test set has at least `FEWEST_GROUPS` groups of each class; for the arguments see `needs`."""
    return min(n_benign, n_malignant) >= FEWEST_GROUPS


def _findings(numbers: dict[str, float], what: str, promote: bool, decided: bool) -> list[str]:
    """Return sentences on the result and, for a refusal, the smallest gain that would have passed.

    Args:
        numbers: See `Decision.numbers`.
        what: `difference` or `challenger`: prefix of the decisive interval in `numbers`.
        promote: Whether the challenger is promoted.
        decided: Whether the interval was decisive, rather than another reason for a refusal.
    """
    if f"{what}_low" not in numbers:
        return ["Nothing could be compared, so this test could have shown no gain at all."]
    n = {name: int(numbers[name]) for name in ("n_groups", "n_benign_groups", "n_malignant_groups", "n_images")}
    on = (
        f"on {plural(n['n_groups'], 'group')} of cases ({n['n_benign_groups']} with benign, "
        f"{n['n_malignant_groups']} with "
        f"malignant images), {plural(n['n_images'], 'image')}"
    )
    if min(n["n_benign_groups"], n["n_malignant_groups"]) < 2:
        # Every resample contains the only group of a class exactly once, so an interval would be too narrow.
        of, value = ("", "challenger_auc") if what == "challenger" else ("'s difference to the champion", "difference")
        return [
            f"The AUC{of} decides nothing: {numbers[value]:.3f} {on}, without an interval, which needs at least two "
            "groups of each class.",
            "This test could have shown no gain at all.",
        ]
    low, high = numbers[f"{what}_low"], numbers[f"{what}_high"]
    verb = "is" if promote else "must be"
    if what == "difference":
        aucs = f"{numbers['challenger_auc']:.3f} against {numbers['champion_auc']:.3f}"
        found = f"{numbers['difference']:+.3f} [{low:+.3f} {high:+.3f}] ({aucs}) {on}"
        what_is, least = "AUC's difference to the champion", "0"
        smallest = f"a difference of {numbers['smallest_gain']:.3f}"
    else:
        found = f"{numbers['challenger_auc']:.3f} [{low:.3f} {high:.3f}] {on}"
        what_is, least = "AUC", "0.5"
        smallest = f"an AUC of {0.5 + numbers['smallest_gain']:.3f}"
    # If the challenger is refused for another reason, such as too few cases, the interval decides nothing.
    sentence = (
        f"The 95 % interval of the {what_is} {verb} above {least}: {found}."
        if decided
        else f"The {what_is} decides nothing: {found}."
    )
    if promote:
        return [sentence]
    if what == "challenger" and numbers["smallest_gain"] > 0.5:  # no AUC is above 1
        return [sentence, "With an interval of this width, not even an AUC of 1 would have passed."]
    return [sentence, f"With an interval of this width, about half of the models with {smallest} would pass."]
