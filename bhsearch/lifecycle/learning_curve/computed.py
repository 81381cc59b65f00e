"""Compute the learning curve of a frozen trial: train its heads on nested subsets of the development cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.data.nested_subsets import in_one_fold, nested_subsets
from bhsearch.errors import StudyError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.supplementary.learning_curve import LearningCurve, learning_curve
from bhsearch.evaluation.supplementary.power_law import FEWEST_SIZES
from bhsearch.models.features import FeatureCache, FeatureSubset
from bhsearch.objectives.scoring import LINKS, ValidationFolds
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features, frozen_objective
from bhsearch.text import verb

if TYPE_CHECKING:
    from bhsearch.objectives.space import Params

SHARES = (0.25, 0.35, 0.5, 0.7)  # of the development cases; the trial itself has all
N_FAMILIES = 10  # least number of random orders of the cases, from each of which one subset per share is taken


class NoLearningCurve(Exception):  # noqa: N818  # a result, not an error
    """The learning curve cannot be computed; the message is the reason."""


def curve_of(
    prepared: StudyContext, params: Params, predictions: Predictions, reporter: ProgressReporter
) -> LearningCurve:
    """Train heads with one parameter set on nested subsets of the development cases, and fit the learning curve.

    The heads of a fold are trained on the part of a subset outside the fold, and scored on the whole fold. No sealed
    image is used.

    Args:
        prepared: Context of the study, in the frozen regime.
        params: Parameters of the trial.
        predictions: Out-of-fold predictions of the trial, which are those of all cases.
        reporter: Receives progress events.

    Raises:
        NoLearningCurve: If there are too few cases, or if folds do not keep cases together.
        StudyError: If the predictions are of other images than those of the study.
    """
    images = prepared.images
    if predictions.path.tolist() != images.path.tolist():
        raise StudyError("The stored predictions are for other images than those of the study.")
    if not all(in_one_fold(images.group, fold) for fold in images.fold):
        raise NoLearningCurve("the folds do not keep the images of a case together")
    n_repeats = len(images.fold)
    repeats = [k % n_repeats for k in range(n_repeats * -(-N_FAMILIES // n_repeats))]  # as many of each repeat
    chains = [
        nested_subsets(images.group, images.stratum, images.label, images.fold[repeat], SHARES, seed)
        for seed, repeat in enumerate(repeats)
    ]
    shares = [share for share in SHARES if all(share in chain for chain in chains)]
    if len(shares) + 1 < FEWEST_SIZES:
        raise NoLearningCurve(
            f"too few cases: {len(shares)} of {len(SHARES)} subsets {verb(len(shares), 'has', 'have')} cases of "
            "both classes in every fold, and "
            f"{FEWEST_SIZES - 1} are needed"
        )
    features = cached_features(prepared, reporter)
    families, sizes = [], []
    with reporter.step("training heads on fewer cases") as progress:
        for done, (repeat, chain) in enumerate(zip(repeats, chains, strict=True)):
            family = []
            for place, share in enumerate(shares):
                family.append(_on_subset(prepared, params, features, chain[share], repeat))
                progress(done * len(shares) + place + 1, len(repeats) * len(shares))
            whole = images.take(np.ones(len(images), dtype=bool), slice(repeat, repeat + 1))
            families.append([*family, whole.predictions(predictions.probability[repeat][None])])
            masks = [*(chain[share] for share in shares), np.ones(len(images), dtype=bool)]
            sizes.append([_n_training(images.group, images.fold[repeat], mask) for mask in masks])
    with reporter.step("fitting the learning curve"):
        return learning_curve(families, sizes, prepared.task)


def _on_subset(
    prepared: StudyContext, params: Params, features: FeatureCache, mask: npt.NDArray[np.bool_], repeat: int
) -> Predictions:
    """Train heads on the images of a mask, and return their out-of-fold predictions of all development images."""
    part = prepared.images.take(mask, slice(repeat, repeat + 1))
    trained = frozen_objective(prepared, part, FeatureSubset(features, mask))(params)
    whole = prepared.images.take(np.ones(len(mask), dtype=bool), slice(repeat, repeat + 1))
    views = [features.get(prepared.backbones[params["backbone"]], view) for view in trained.model["views"]]
    link = LINKS[prepared.task.link]
    return whole.predictions(ValidationFolds(whole.fold).out_of_fold(trained.heads, views, link))


def _n_training(group: npt.NDArray[np.int64], fold: npt.NDArray[np.int8], mask: npt.NDArray[np.bool_]) -> float:
    """Return the number of groups that a fold's head is trained on, mean over folds."""
    n_folds = int(fold.max()) + 1
    return float(np.mean([len(np.unique(group[mask & (fold != k)])) for k in range(n_folds)]))
