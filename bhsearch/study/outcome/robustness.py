"""Robustness of the best trials of a frozen study: their scores under shifts of the validation images (`--robustness`).

The numbers are reported only: they influence neither the search nor the choice of a trial.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.evaluation.predictions import FloatArray
from bhsearch.evaluation.robustness import Robustness, robustness
from bhsearch.evaluation.thresholds import RULES
from bhsearch.models.augmentation.shifts import SHIFTS
from bhsearch.models.features import FeatureCache, FeatureSubset
from bhsearch.objectives.scoring import LINKS, ValidationFolds
from bhsearch.objectives.space import Params, effective, frozen_space, starting_point
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features, frozen_objective, shifted_features
from bhsearch.study.outcome.selection import RankedTrial, default_of, proposed_of

N_BEST = 5
FINETUNED = "it is available for frozen studies only"


def in_the_running(ranking: Sequence[RankedTrial]) -> list[RankedTrial]:
    """Return the `N_BEST` best trials, the proposed one, and the one with the default parameters.

    Args:
        ranking: Complete trials of a frozen study, best first.
    """
    wanted = [*ranking[:N_BEST], proposed_of(ranking), default_of(ranking, frozen_space(("",)))]
    return [row for row in ranking if row in wanted]


def is_default(params: Params) -> bool:
    """Return whether the parameters of a frozen trial are the default ones of its backbone, or have the same effect."""
    return effective(params) == effective(starting_point(frozen_space(("",)), params["backbone"]))


def plan_row(context: StudyContext) -> str:
    """Return the description of the computation for the plan; empty if it is not requested."""
    if not context.settings.robustness:
        return ""
    if context.regime == FINETUNE:
        return f"not computed: {FINETUNED}"
    return (
        f"after the search, of the {N_BEST} best trials, the proposed one and the default: {len(SHIFTS)} further "
        f"feature passes over {len(context.images):,} images for each of their backbones and views"
    )


def robustness_of(
    context: StudyContext, trials: Sequence[RankedTrial], reporter: ProgressReporter
) -> dict[int, Robustness]:
    """Predict shifted validation images with the fold models of some trials, and compare with the unchanged images.

    The heads are trained again from cached features, which takes little time. The features of shifted images are
    cached, too.

    Args:
        context: Context of the study, in the frozen regime.
        trials: Complete trials of the study.
        reporter: Receives progress events.

    Returns:
        Robustness by trial number.

    Raises:
        DataError: If an image cannot be decoded.
        BackboneError: If features are missing and the weights of a backbone are not available.
    """
    features = cached_features(context, reporter)
    objective = frozen_objective(context, context.images, features)
    trained = {}
    with reporter.step("training heads again") as progress:
        for done, row in enumerate(trials, start=1):
            trained[row.trial.number] = objective(row.params)
            progress(done, len(trials))
        thresholds = dict(zip(trained, thresholds_of(context, [row.params for row in trials], features), strict=True))
    passes = {(row.params["backbone"], view) for row in trials for view in trained[row.trial.number].model["views"]}
    reporter.say(_cost(context, passes, features))
    clean = {number: context.images.predictions(outcome.probability) for number, outcome in trained.items()}
    folds, link = ValidationFolds(context.images.fold), LINKS[context.task.link]
    shifted: dict[int, dict[str, Float32Array]] = {number: {} for number in trained}
    with reporter.step("shifting images") as progress:
        for done, (name, shift) in enumerate(SHIFTS.items(), start=1):
            of_shift = shifted_features(context, shift, features, reporter)
            for row in trials:
                number, outcome = row.trial.number, trained[row.trial.number]
                backbone = context.backbones[row.params["backbone"]]
                views = (of_shift.get(backbone, view) for view in outcome.model["views"])
                shifted[number][name] = folds.out_of_fold(outcome.heads, views, link)
            progress(done, len(SHIFTS))
    return {
        row.trial.number: replace(
            robustness(clean[row.trial.number], shifted[row.trial.number], thresholds[row.trial.number], context.task),
            is_default=is_default(row.params),
        )
        for row in trials
    }


def thresholds_of(context: StudyContext, trials: Sequence[Params], features: FeatureCache) -> list[FloatArray]:
    """Return the threshold of each fold for each trial, from the training part of the fold alone.

    The threshold of fold k is chosen on out-of-fold predictions within the training part of fold k: each of the other
    folds is predicted by a head that was trained without it and without fold k. Cross-fitted thresholds of the trial
    itself would not do, because their heads were trained on fold k.

    Args:
        context: Context of the study, in the frozen regime.
        trials: Parameters of the trials. Trials with the same backbone and views share a path of linear heads.
        features: Features of the development images.

    Returns:
        Probability from which an image of the fold is classified as malignant; 0.5 with only two folds, where no head
        can be trained without both. Shape (n_repeats, n_folds) each.
    """
    images, rule = context.images, RULES[context.task.threshold_rule]
    n_folds = int(images.fold.max()) + 1
    found = [np.full((len(images.fold), n_folds), 0.5) for _ in trials]
    for repeat, fold in np.ndindex((len(images.fold), n_folds) if n_folds > 2 else (0, 0)):
        part = images.without_fold(repeat, fold)
        objective = frozen_objective(context, part, FeatureSubset(features, images.fold[repeat] != fold))
        for params, threshold in zip(trials, found, strict=True):
            predictions = part.predictions(objective(params).probability)
            threshold[repeat, fold] = rule(part.label, predictions.probability[0], predictions.weight[0])
    return found


def _cost(context: StudyContext, passes: Collection[tuple[str, str]], features: FeatureCache) -> str:
    """Return a sentence with the number of feature passes, and with their duration if none of them is cached.

    Args:
        context: Context of the study.
        passes: Backbone and view of each pass over the images of one shift.
        features: Features of the unchanged images, with the costs of the backbones.
    """
    milliseconds = sum(features.cost(context.backbones[backbone]).milliseconds for backbone, _ in passes)
    minutes = len(SHIFTS) * milliseconds * len(context.images) / 60_000
    return (
        f"Robustness: {len(SHIFTS) * len(passes)} feature passes over {len(context.images):,} images; unless cached, "
        f"they take the networks about {max(minutes, 0.1):.1f} min."
    )
