"""The costs of features that are stored with a study, and the minutes that its trials are expected to take."""

from __future__ import annotations

from collections.abc import Sequence

from bhsearch.engines.base import Engine, Trial
from bhsearch.models.frozen.precision import F32
from bhsearch.objectives.costs import FeatureCosts, expected_seconds
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.feature_precision import (
    PRECISION,
    before_precisions,
    choose_precisions,
    precision_row,
    precisions_of,
    require_precisions,
    stored_choices,
)
from bhsearch.study.objective_factory import Objective
from bhsearch.study.resume.metadata import StudyMetadata
from bhsearch.study.resume.open import study_lock
from bhsearch.text import plural

_SHOWN_SECONDS = 3.0  # which round to 0.1 minutes


def stored_costs(
    prepared: StudyContext, metadata: StudyMetadata, engine: Engine, objective: Objective, reporter: ProgressReporter
) -> FeatureCosts:
    """Return the costs that are stored with a study; measure and store those of backbones without any.

    All processes use the values that were stored first, and so does a resumed study. The precision of the features is
    chosen and stored in the same way, and the objective uses it from then on.

    Args:
        prepared: Context of the study.
        metadata: Metadata of the study.
        engine: Engine of the study.
        objective: Objective of the study, which measures.
        reporter: Receives progress events.

    Raises:
        SettingsError: If the study computes features in a precision that this processor does not support.
    """
    if not isinstance(objective, FrozenObjective):
        return FeatureCosts()
    features = objective.features
    with study_lock(prepared):
        held, stored = FeatureCosts.of_record(engine.costs()), stored_choices(engine)
    require_precisions(stored)
    features.precisions.update(precisions_of(stored))
    if metadata["backbones"].keys() <= held.seconds.keys():
        return held
    # Not within the lock: a comparison may take minutes, in which no other process could start a trial of the study.
    space = prepared.space(metadata["backbones"])
    measured = objective.costs(space)
    new = [name for name in metadata["backbones"] if name not in stored]
    if "feature_precision" in metadata:
        choices = choose_precisions(prepared, new, measured.seconds, features, reporter)
    else:
        choices = before_precisions(new)
    features.precisions.update(precisions_of(choices))
    if any(choices[name]["precision"] != F32 or choices[name]["comparison"] for name in new):
        measured = objective.costs(space)  # in the precision that was chosen, and with the features that are cached now
    with study_lock(prepared):
        choices |= stored_choices(engine)  # another process may have been first
        record = FeatureCosts.of_record(engine.costs()).with_backbones_of(measured).to_record()
        engine.save_costs({**record, PRECISION: choices})
    features.precisions.update(precisions_of(choices))
    return FeatureCosts.of_record(record)


def cost_rows(
    prepared: StudyContext, metadata: StudyMetadata, engine: Engine, trials: Sequence[Trial]
) -> list[tuple[str, str]]:
    """Return rows for the plan: the minutes that features are expected to take, and their precision, by backbone.

    Args:
        prepared: Context of the study.
        metadata: Metadata of the study.
        engine: Engine of the study, which stores the costs.
        trials: Trials of earlier commands.

    Returns:
        Pairs of heading and text; empty if the trials need no cached features.
    """
    costs = FeatureCosts.of_record(engine.costs())
    if not costs.seconds:
        return []
    space = prepared.space(metadata["backbones"])
    n_more = max(prepared.settings.trials - sum(trial.counts for trial in trials), 0)
    seconds = expected_seconds(costs, space, [trial.params for trial in trials], n_more)
    each = ", ".join(f"{name} {_minutes(seconds[name])} ({_a_view(costs, name)})" for name in seconds)
    rows = [("features", f"{_minutes(sum(seconds.values()))} min expected for {plural(n_more, 'trial')}: {each}")]
    rows += precision_row(stored_choices(engine))
    budget = prepared.settings.budget
    if budget is not None:
        is_small = sum(seconds.values()) > 60 * budget
        rows.append(("budget", f"{budget:g} min for all trials{'; new features are rationed' if is_small else ''}"))
    return rows


def _a_view(costs: FeatureCosts, backbone: str) -> str:
    text = f"{costs.seconds[backbone]:.3g} s a view"
    return f"{text}, {costs.shifted[backbone]:.3g} s under the shifts" if costs.shifted else text


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds == 0 or seconds >= _SHOWN_SECONDS else "<0.1"
