"""Race the best trials of a frozen study: score them again on further divisions of the same cases into folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bhsearch.config import Settings, model_limit
from bhsearch.data.splits import make_split
from bhsearch.engines.base import Trial
from bhsearch.errors import DataError, SettingsError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.development_rows import DevelopmentImages
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features, frozen_objective
from bhsearch.study.outcome.selection import N_RACED, contenders

MOST_DIVISIONS = 20


def check_race(settings: Settings) -> None:
    """Check that a race is possible with some settings.

    Raises:
        SettingsError: If `--race-divisions` is out of range, or contradicts another option.
    """
    n = settings.race_divisions
    if not 0 <= n <= MOST_DIVISIONS:
        raise SettingsError(f"--race-divisions must be from 0 to {MOST_DIVISIONS}, but got {n}.")
    if not n:
        return
    if settings.regime == FINETUNE:
        raise SettingsError(
            f"--race-divisions requires --regime frozen or auto, but got --regime {settings.regime}: every division "
            "would be a fine-tuning of the networks of all folds. Use --repeats to divide the cases several times."
        )
    if settings.repeats > 1:
        raise SettingsError(
            f"--race-divisions requires --repeats 1, but got --repeats {settings.repeats}, which already scores every "
            "trial on several divisions. Remove one of the two options."
        )
    kept = model_limit(settings.keep_models)
    if kept and kept < N_RACED:
        raise SettingsError(
            f"--race-divisions requires --keep-models all, none, or best:{N_RACED} or more, but got "
            f"{settings.keep_models}: each of the {N_RACED} best trials may be proposed."
        )


def race_images(prepared: StudyContext) -> DevelopmentImages:
    """Return the development images with the division of the study and the further divisions of the race.

    The divisions follow from the cases alone, like that of the study, and depend on no seed.

    Raises:
        SettingsError: If there are too few cases for so many divisions.
    """
    settings, split = prepared.settings, prepared.split
    try:
        divided = make_split(
            prepared.index,
            test_fraction=settings.test_fraction,
            n_folds=settings.folds,
            n_repeats=1 + settings.race_divisions,
            group_by=settings.group_by,
            magnification=settings.magnification,
            ignore_predefined_split=settings.ignore_predefined_split,
        )
    except (DataError, SettingsError) as error:
        raise SettingsError(
            f"--race-divisions {settings.race_divisions} is too large for these cases. As repeats of the folds: {error}"
        ) from error
    return replace(prepared.images, fold=divided.folds[:, split.development])


def race(prepared: StudyContext, trials: Sequence[Trial], reporter: ProgressReporter) -> dict[int, Predictions]:
    """Train the heads of the best trials on all divisions of the race.

    The features are in the cache, so that a division costs only the training of heads. The score of a trial on the
    first division is its score in the search.

    Args:
        prepared: Context of the study.
        trials: All trials of the study.
        reporter: Receives progress events.

    Returns:
        Out-of-fold predictions on all divisions, by number of the trial; empty without `--race-divisions`, or if fewer
        than two trials are complete.
    """
    raced = contenders(trials)
    if not prepared.settings.race_divisions or len(raced) < 2:
        return {}
    images = race_images(prepared)
    objective = frozen_objective(prepared, images, cached_features(prepared, reporter))
    found = {}
    with reporter.step("racing the best trials") as progress:
        for done, trial in enumerate(raced, start=1):
            found[trial.number] = images.predictions(objective(trial.params).out_of_fold)
            progress(done, len(raced))
    return found
