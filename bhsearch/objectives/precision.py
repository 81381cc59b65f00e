"""Comparison of features in bf16 with those in f32 by the scores of linear heads, which decides the precision."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, paired_difference, with_observed
from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.frozen.precision import BF16, F32
from bhsearch.objectives.base import TrialResult
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import LOG10_PENALTY, frozen_space, starting_point
from bhsearch.tasks import Task

MOST_IMAGES = 400  # enough for intervals of a hundredth where the precisions agree, and a fraction of most data sets
_ALL_UP_TO = 600  # images that are all compared: the study then uses the features in the precision that is chosen
TOLERANCE = 0.005  # of the AUC
COMBINATIONS = tuple(itertools.product((F32, BF16), repeat=2))  # precision of the training, and of the predictions
_SEED = 0
_N_DRAWS = 1000


@dataclass(frozen=True)
class PrecisionComparison:
    """Scores of linear heads that are trained on features in one precision and predict from features in another.

    Attributes:
        n_images: Number of development images.
        n_groups: Number of their groups.
        cosine: Smallest cosine similarity of the two feature vectors of an image.
        log10_penalty: Penalty of the heads, the best one in f32.
        auc: Out-of-fold score of each of `COMBINATIONS`, such as `f32/bf16` for heads trained on f32.
        intervals: 95 % interval of the difference between the scores of two combinations, for each pair. A key is
            the difference as text, such as `f32/bf16 - f32/f32`.
    """

    n_images: int
    n_groups: int
    cosine: float
    log10_penalty: float
    auc: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    @property
    def agrees(self) -> bool:
        """Whether every interval lies within `TOLERANCE` of 0."""
        return all(low >= -TOLERANCE and high <= TOLERANCE for low, high in self.intervals.values())

    @property
    def widest(self) -> tuple[float, float]:
        """The lowest and the highest end of all intervals."""
        return min(low for low, _ in self.intervals.values()), max(high for _, high in self.intervals.values())

    def to_record(self) -> dict[str, Any]:
        """Return the comparison as a JSON-compatible dict."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Restore a comparison from the dict of `to_record`."""
        pairs = {name: (float(low), float(high)) for name, (low, high) in record["intervals"].items()}
        return cls(**{**record, "intervals": pairs})


def compare_precisions(
    features: FeatureCache, backbone: Backbone, images: ImageColumns, task: Task
) -> PrecisionComparison | None:
    """Compare the precisions of the features of a backbone by the out-of-fold scores of linear heads.

    The features of some images are computed in both precisions: `MOST_IMAGES`, or all in small data sets. Heads have
    the penalty that is best for features in f32. All combinations have the folds and the bootstrap samples in common.

    Args:
        features: Features of the development images.
        backbone: Backbone whose features are compared.
        images: The development images.
        task: Task of the study.

    Returns:
        The comparison; None if a fold lacks a class, so that no score is defined.
    """
    n_images = MOST_IMAGES if len(images) > _ALL_UP_TO else len(images)
    rows = rows_by_case(images.group, images.label, n_images)
    part = replace(images.take(rows, slice(1)), shift_weight=0.0)
    if not _has_both_classes(part):
        return None
    single, lower = (features.of_rows(rows, {backbone.name: precision}) for precision in (F32, BF16))
    one, other = (each.get(backbone, IDENTITY) for each in (single, lower))
    found = _predictions(single, lower, backbone, part, task, LOG10_PENALTY.values[0])
    penalties = found.curves[LOG10_PENALTY.name]
    penalty = penalties[int(np.argmax(found.curves["auc"]))]
    probability: dict[str, Float32Array] = {}
    for trained, asked, name, crossed in ((single, lower, F32, BF16), (lower, single, BF16, F32)):
        outcome = _predictions(trained, asked, backbone, part, task, penalty)
        probability[f"{name}/{name}"], probability[f"{name}/{crossed}"] = outcome.probability, outcome.shifted[0]
    draws = group_draws(part.group, part.stratum, _N_DRAWS, _SEED)
    counts, _ = with_observed(part.group, draws)
    names = ["/".join(pair) for pair in COMBINATIONS]
    scores = {name: bootstrap_scores(part.predictions(probability[name]), counts, task) for name in names}
    intervals = {
        f"{after} - {before}": paired_difference(scores[after][1:], scores[before][1:])
        for before, after in itertools.combinations(names, 2)
    }
    return PrecisionComparison(
        n_images=len(part),
        n_groups=len(np.unique(part.group)),
        cosine=float(_cosine(one, other).min()),
        log10_penalty=float(penalty),
        auc={name: float(scores[name][0]) for name in names},
        intervals={name: (ends.low, ends.high) for name, ends in intervals.items()},
    )


def rows_by_case(
    group: npt.NDArray[np.int64], label: npt.NDArray[np.int8], most: int, seed: int = _SEED
) -> npt.NDArray[np.bool_]:
    """Draw images so that all groups, and both classes within a group, have about the same number.

    Args:
        group: Group number of each image. Shape (n_images,).
        label: Class of each image. Shape (n_images,).
        most: Number of images to draw.
        seed: Random seed.

    Returns:
        Mask of the images that are drawn, all if there are no more than `most`. Shape (n_images,).
    """
    drawn = np.random.default_rng(seed).permutation(len(group))
    _, part = np.unique(np.stack([group, label.astype(np.int64)]), axis=1, return_inverse=True)
    turn = np.empty(len(group), np.int64)  # the first image of every group comes before any second one
    for number in np.unique(part):
        members = drawn[part.ravel()[drawn] == number]
        turn[members] = np.arange(len(members))
    rows = np.zeros(len(group), bool)
    rows[drawn[np.argsort(turn[drawn], kind="stable")][:most]] = True
    return rows


def _predictions(
    trained: FeatureCache, asked: FeatureCache, backbone: Backbone, images: ImageColumns, task: Task, penalty: float
) -> TrialResult:
    """Train heads on one kind of features; the result has predictions from these, and `shifted` ones from others."""
    trained.shifted = (asked,)
    columns = images.label, images.fold, images.group
    objective = FrozenObjective(trained, {backbone.name: backbone}, *columns, _SEED, task=task, shift_weight=0.5)
    point = starting_point(frozen_space((backbone.name,)), backbone.name)
    return objective(point | {LOG10_PENALTY.name: penalty})


def _has_both_classes(images: ImageColumns) -> bool:
    n_folds = int(images.fold.max()) + 1
    return all(len(np.unique(images.label[images.fold[0] == fold])) == 2 for fold in range(n_folds))


def _cosine(one: Float32Array, other: Float32Array) -> npt.NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
