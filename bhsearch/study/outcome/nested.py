"""Nested search of a frozen study: the whole search is repeated in the training part of each fold (`--nested`).

The number is reported only: it influences neither the search nor the choice of a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from bhsearch.config import Settings
from bhsearch.data.arrays import Float32Array
from bhsearch.engines.optuna.engine import engine_in_memory
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.engines.registry import with_sampler
from bhsearch.errors import RunError, SettingsError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.nested import NestedScore
from bhsearch.models.features import FeatureCache, FeatureSubset
from bhsearch.objectives.frozen import deployed_probability
from bhsearch.objectives.space import Parameter
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.joined import with_joints_of
from bhsearch.study.objective_factory import cached_features, frozen_objective
from bhsearch.study.outcome.ranking import rank
from bhsearch.study.outcome.selection import proposed_of
from bhsearch.text import plural

FEWEST_FOLDS = 3  # the training part of a fold needs at least two


def check_nested(settings: Settings) -> None:
    """Check that a nested search is possible with some settings.

    Raises:
        SettingsError: If `--nested` contradicts another option.
    """
    if not settings.nested:
        return
    if settings.regime == FINETUNE:
        raise SettingsError(
            f"--nested requires --regime frozen or auto, but got --regime {settings.regime}: every fold would need all "
            "fine-tunings of the search."
        )
    if settings.folds < FEWEST_FOLDS:
        raise SettingsError(
            f"--nested requires --folds {FEWEST_FOLDS} or more, but got --folds {settings.folds}: the search of each "
            "fold has one fold less."
        )
    sampler = with_sampler(settings).sampler
    if sampler not in SAMPLERS:
        raise SettingsError(
            f"--nested requires a sampler of Optuna ({', '.join(SAMPLERS)}), but the sampler of --engine "
            f"{settings.engine} is {sampler}."
        )


def plan_row(context: StudyContext) -> str:
    """Return the description of the computation for the plan; empty if it is not requested."""
    settings = context.settings
    if not settings.nested or context.regime == FINETUNE:
        return ""
    return (
        f"after the search, {settings.folds} searches of {plural(settings.trials, 'trial')}, each without another "
        "fold; they may need further features"
    )


def nested_score(
    context: StudyContext, space: Sequence[Parameter], n_trials: int, reporter: ProgressReporter
) -> NestedScore:
    """Search again without each fold, and score each fold by the model that its search proposes.

    The search of a fold has the sampler, the seed, the space and the rule of the study, and `n_trials` trials. Its
    folds are the other folds of the study, and the model is the mean of their heads. The nested search has no race, no
    budget and no second repeat of the folds.

    Args:
        context: Context of the study, in the frozen regime.
        space: Parameters of the study.
        n_trials: Number of trials of each search.
        reporter: Receives progress events.

    Raises:
        RunError: If no trial of a search is complete.
        BackboneError: If features are missing and the weights of a backbone are not available.
    """
    features = cached_features(context, reporter)
    n_folds = int(context.images.fold.max()) + 1
    n_conditions = 1 + len(features.shifted)
    probability = np.zeros((n_conditions, len(context.images)), np.float32)
    with reporter.step("searching without each fold") as progress:
        for fold in range(n_folds):

            def advance(done: int, first: int = fold * n_trials) -> None:
                progress(first + done, n_folds * n_trials)

            model = search_without(context, features, space, n_trials, fold, advance)
            inside = context.images.fold[0] == fold
            for condition, of_condition in enumerate((features, *features.shifted)):
                probability[condition, inside] = model(FeatureSubset(of_condition, inside))
    every = np.ones(len(context.images), bool)
    return NestedScore.of(context.images.take(every, slice(1)).predictions(probability), context.task, n_trials)


def search_without(
    context: StudyContext,
    features: FeatureCache,
    space: Sequence[Parameter],
    n_trials: int,
    fold: int,
    advance: Callable[[int], None],
) -> Callable[[FeatureCache], Float32Array]:
    """Search on the training part of a fold, and return the deployed model of the trial that the search proposes.

    Args:
        context: Context of the study, in the frozen regime.
        features: Features of the development images.
        space: Parameters of the study.
        n_trials: Number of trials.
        fold: Fold of the first repeat that is left out.
        advance: Called with the number of finished trials.

    Returns:
        Function that returns P(malignant) of the images of a feature cache, the mean over fold models and views.
    """
    part = context.images.without_fold(0, fold)
    objective = frozen_objective(context, part, FeatureSubset(features, context.images.fold[0] != fold))
    backbones = context.backbones
    engine = engine_in_memory(space, str(context.settings.sampler), context.settings.seed)
    predictions: dict[int, Predictions] = {}
    for done in range(1, n_trials + 1):
        trial = engine.ask()
        if context.settings.combine:  # joined as this search has decided, not as the study has
            backbones = with_joints_of(context, engine)
            objective.use(backbones)
        try:
            found = objective(trial.params)
        except RunError as error:
            engine.fail(trial.number, str(error))
        else:
            predictions[trial.number] = part.predictions(found.out_of_fold)
            engine.complete(trial.number, found.score, found.seconds, None, found.milliseconds)
        advance(done)
    chosen = proposed_of(rank(engine.trials(), predictions, context.task))
    if chosen is None:
        raise RunError(f"No trial of the search without fold {fold} is complete.")
    backbone = backbones[chosen.params["backbone"]]
    return partial(deployed_probability, objective(chosen.params), backbone, context.task.link)
