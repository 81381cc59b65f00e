"""Measure how much leaky splits inflate the score of a fixed configuration, with folds by image, by slide and by case.

The sealed test cases do not depend on the grouping, so all groupings train and validate on the same images, and only
the assignment of images to folds differs. Only the score with folds by case is an estimate for new patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.splits import Split, make_split
from bhsearch.errors import RunError
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache, check_feature_backend
from bhsearch.models.resize import make_resize
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.scoring import OutOfFoldScorer
from bhsearch.objectives.space import Params, frozen_space, starting_point
from bhsearch.study.events import ProgressReporter
from bhsearch.tasks import Task, task_of

GROUPINGS = ("image", "slide", "case")  # leakiest first
POINT: Params = starting_point(frozen_space(("",)), "")  # a linear head on the image itself


@dataclass(frozen=True)
class FoldScores:
    """The scores of the configuration with one grouping of the folds.

    Attributes:
        group_by: Unit whose images are kept in the same fold: `image`, `slide` or `case`.
        aucs: Case-weighted ROC AUC of each repeat, mean over its folds.
        n_torn: Number of development cases with images in several folds of the first repeat.
    """

    group_by: str
    aucs: tuple[float, ...]
    n_torn: int

    @property
    def mean(self) -> float:
        """Mean AUC over all folds and repeats."""
        return float(np.mean(self.aucs))


def measure(
    index: Dataset,
    backbone: Backbone,
    reporter: ProgressReporter,
    *,
    image_size: int = 224,
    folds: int = 5,
    repeats: int = 5,
    feature_backend: str = "auto",
) -> list[FoldScores]:
    """Score the fixed configuration with every grouping of the folds; features are computed once per image.

    Args:
        index: The whole data set; its sealed test images are not used.
        backbone: Backbone that computes the features.
        reporter: Receives progress events.
        image_size: Side length of the resized images in pixels.
        folds: Number of folds per repeat.
        repeats: Number of repeats of the cross-validation.
        feature_backend: Backend that computes the features; see `FeatureCache`.

    Returns:
        Scores in the order of `GROUPINGS`, without `slide` if the data set does not specify slides.

    Raises:
        InputError: If the data cannot be split, or an option is out of range.
        RunError: If the development images differ between groupings.
    """
    check_feature_backend(feature_backend)
    resize = make_resize("crop", image_size)
    known = GROUPINGS if (index.column("slide") != "").all() else ("image", "case")
    splits = [make_split(index, n_folds=folds, n_repeats=repeats, group_by=group_by) for group_by in known]
    rows = splits[0].development
    if any(not np.array_equal(split.development, rows) for split in splits):
        raise RunError("The development sets of the groupings differ, so their scores cannot be compared.")
    backend.import_backend()
    with reporter.step("resizing images") as progress:
        pixels = pixel_cache(index.select(rows), resize, progress)
    features, results = FeatureCache(pixels, feature_backend), []
    with reporter.step("training heads") as progress:
        for done, split in enumerate(splits, start=1):
            results.append(_score(split, features, backbone, index.labels[rows], task_of(index)))
            progress(done, len(splits))
    return results


def _score(split: Split, features: FeatureCache, backbone: Backbone, label: np.ndarray, task: Task) -> FoldScores:
    rows = split.development
    fold, group = split.folds[:, rows], split.groups[rows]
    objective = FrozenObjective(features, {backbone.name: backbone}, label, fold, group, seed=0, task=task)
    probability = objective({**POINT, "backbone": backbone.name}).probability
    parts = [slice(repeat, repeat + 1) for repeat in range(len(fold))]
    aucs = [OutOfFoldScorer(label, fold[r], group, task).epochs(probability[None, r])[0] for r in parts]
    torn = sum(len(np.unique(fold[0, group == number])) > 1 for number in np.unique(group))
    return FoldScores(split.group_by, tuple(map(float, aucs)), torn)


def table_rows(results: Sequence[FoldScores]) -> list[tuple[str, str, str, str]]:
    """Return the cells of a table with one row per grouping.

    The columns are the grouping, the mean AUC with its range over repeats, the difference from folds by case, and
    `FoldScores.n_torn`.
    """
    honest = results[-1].mean
    rows = []
    for row in results:
        ends = f" ({min(row.aucs):.3f} to {max(row.aucs):.3f})" if len(row.aucs) > 1 else ""
        difference = "" if row is results[-1] else f"{row.mean - honest:+.3f}"
        rows.append((row.group_by, f"{row.mean:.3f}{ends}", difference, str(row.n_torn)))
    return rows
