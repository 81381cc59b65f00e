"""Studies in Optuna: creating and finding them, running their trials, and adding backbones to them."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from typing import Any, cast

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial, TrialState, create_trial

from bhsearch.engines.base import Trial, TrialAlreadyEnded, result_attributes
from bhsearch.engines.optuna.allowance import Allowance
from bhsearch.engines.optuna.distributions import distribution
from bhsearch.engines.optuna.history import TrialHistory
from bhsearch.engines.optuna.importances import shares_of
from bhsearch.engines.optuna.observations import ObservedStudy
from bhsearch.engines.optuna.pruners import PRUNERS, pruner_inputs
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.engines.optuna.storages import attributes as attributes
from bhsearch.engines.optuna.storages.connection import discard_if_new, retry_while_unavailable
from bhsearch.engines.optuna.storages.heartbeats import heartbeats_of
from bhsearch.engines.optuna.untried import UntriedSampler
from bhsearch.errors import MissingError, StudyError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.costs import FeatureCosts
from bhsearch.objectives.joint import Joints, backbones_of, decide_joints, first_points
from bhsearch.objectives.space import Parameter, Params
from bhsearch.runtime.processes import this_process
from bhsearch.runtime.store_schema import SCHEMA, require_schema
from bhsearch.states import RUNNING

optuna.logging.set_verbosity(logging.ERROR)

_GROWING, _WHOLE = " (growing)", "bhsearch.whole"
_FACTS, _SETTINGS, _SCHEMA = "bhsearch.facts", "bhsearch.settings", "bhsearch.schema"
_COSTS, _JOINTS = "bhsearch.costs", "bhsearch.joints"


class OptunaEngine:
    """A study in Optuna's storage, opened for trials; see `Engine`.

    Args:
        study: Study returned by `open_study` or `find_study`.
        space: Parameters of the study.
        sampler: Name of a sampler in `SAMPLERS`.
        seed: Random seed of the study.
        pruner: Key of `PRUNERS`.
        steps_per_fold: Number of intermediate values reported per fold, including the one at the end of the fold.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Sequence[Parameter],
        sampler: str,
        seed: int,
        pruner: str = "none",
        steps_per_fold: int = 1,
    ) -> None:
        self._study, self._space = study, space
        self._distributions = {parameter.name: distribution(parameter) for parameter in space}
        self._sampler, self._seed = SAMPLERS.get(sampler), seed
        self._pruner, self._steps_per_fold = pruner, steps_per_fold
        study.pruner = PRUNERS[pruner](steps_per_fold)
        self._history = TrialHistory(space, self._distributions)
        self._joints: dict[str, list[str]] | None = None  # once they are decided
        self._heartbeats = heartbeats_of(study)
        self._agrees = False  # whether the distributions agree with those in the storage
        self._running: dict[int, optuna.Trial] = {}
        self._reported: set[int] = set()  # steps that the running trial has reported
        self._just_read: list[FrozenTrial] | None = None  # what `trials` has read, until the next call

    @retry_while_unavailable
    def ask(
        self, point: Params | None = None, notes: dict[str, Any] | None = None, seconds_left: float = math.inf
    ) -> Trial:
        """Start a trial; see `Engine.ask`.

        The sampler is seeded from the seed of the study and the number of trials so far, so that a resumed study
        samples the same points as an uninterrupted one. Trials for which `is_ignored_on_resume` is true are not
        counted. The trials are not read again right after `trials`, which a worker calls within the same lock.
        """
        trials, self._just_read = self._just_read, None
        if trials is None:
            trials = self._study.get_trials(deepcopy=False)
            self._history.update(trials)
        history, allows, joints = self._history, None, self._decided_joints()
        if math.isfinite(seconds_left):
            costs = FeatureCosts.of_record(self.costs())
            allows = Allowance(self._space, history.tried_params(), costs, seconds_left, joints)
        sampler, tried = self._next_sampler(history.n_done, history.n_running), history.tried()
        tried.close("backbone", [name for name in backbones_of(self._space)[1] if name not in joints])
        self._study.sampler = UntriedSampler(sampler, tried, allows)
        kept = {"owner": this_process(), **(notes or {})}
        trial = self._start(point, trials, kept)
        self._running, self._reported = {trial.number: trial}, set()
        self._heartbeats.begin(trial.number)
        return Trial(trial.number, RUNNING, trial.params, notes=kept)

    def _decided_joints(self) -> Joints:
        """Return the joint backbones; decide and store them if they are not and all starting points have ended."""
        if self._joints is None and backbones_of(self._space)[1]:
            self._joints = attributes.kept(self._study).get(_JOINTS)
            if self._joints is None:
                self._joints = decide_joints(self._space, self._history.ended())
                if self._joints is not None:
                    attributes.set_attribute(self._study, _JOINTS, self._joints)
        return self._joints or {}

    def _next_sampler(self, done: int, running: int) -> BaseSampler:
        """Return the sampler of the next trial.

        The seed also depends on the number of running trials, so that parallel workers sample different points.
        """
        digest = hashlib.sha256(f"{self._seed}/{running}/{done}".encode()).digest()
        return self._sampler(int.from_bytes(digest[:4], "big"), self._seed, done + running)

    def _first_point(self) -> Params | None:
        """Return the first starting point that was not tried, or None.

        See `objectives.joint.first_points` for their order. None is returned if all were tried. A sampler that does not
        learn from earlier trials has no starting points, unless they decide which backbones are joined.
        """
        if not self._sampler.learns and not backbones_of(self._space)[1]:
            return None
        points = first_points(self._space, self._joints or {})
        return next((point for point in points if not self._history.has_tried(point)), None)

    def _start(self, point: Params | None, trials: Sequence[FrozenTrial], notes: dict[str, Any]) -> optuna.Trial:
        """Start a trial as `optuna.Study.ask` does, but store notes and first heartbeat when the trial is created.

        A process that is killed right after this step thus leaves no trial without an owner.
        """
        study, storage = self._study, attributes.NewTrialStorage(self._study._storage, self._agrees)
        trial_id = None
        if point is None and self._history.has_waiting:  # a user has enqueued a trial
            trial_id = study._pop_waiting_trial_id()
        if trial_id is None:
            point = point or self._first_point()
            fixed = {"fixed_params": point} if point else {}
            shown, hidden = attributes.of_notes(notes)
            template = create_trial(state=TrialState.RUNNING, user_attrs=shown, system_attrs=fixed | hidden)
            trial_id = storage.create_new_trial(study._study_id, template)
        else:
            attributes.keep_notes(study._storage, trial_id, notes)
            self._heartbeats.beat(study._storage.get_trial_number_from_id(trial_id))
        observed = ObservedStudy(study, storage, trials, self._history.observations)
        trial = optuna.Trial(cast(optuna.Study, observed), trial_id)
        for name, values in self._distributions.items():
            trial._suggest(name, values)
        storage.flush()
        self._agrees = True
        trial.study, trial.storage = study, study._storage
        return trial

    @retry_while_unavailable
    def report(self, number: int, report: IntermediateValue) -> bool:
        """Report an intermediate value of the running trial, and return whether the trial should be pruned.

        A step that has already been reported is ignored; steps repeat if a trial is restarted after it ran out of
        memory.
        """
        self._just_read = None
        value = pruner_inputs(self._pruner, report, self._steps_per_fold)
        if value is None or value[0] in self._reported:
            return False
        self._reported.add(value[0])
        trial = self._running[number]
        trial.report(value[1], value[0])
        return trial.should_prune()

    @retry_while_unavailable
    def prune(self, number: int, seconds: float) -> None:
        """End a trial as pruned and keep its intermediate values."""
        self._end(number, TrialState.PRUNED, None, {"seconds": round(seconds, 4)})

    @retry_while_unavailable
    def complete(
        self,
        number: int,
        score: float,
        seconds: float,
        ends: tuple[float, float] | None = None,
        milliseconds: float | None = None,
    ) -> None:
        """End a trial as complete; see `Engine.complete`."""
        self._end(number, TrialState.COMPLETE, score, result_attributes(seconds, ends, milliseconds))

    @retry_while_unavailable
    def annotate(self, number: int, notes: dict[str, str]) -> None:
        """Add notes to a trial that has ended; see `Engine.annotate`."""
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        attributes.add_to_ended(storage, trial_id, notes)

    @retry_while_unavailable
    def fail(self, number: int, reason: str, dead: bool = False) -> None:
        """End a trial as failed; see `Engine.fail`."""
        self._end(number, TrialState.FAIL, None, {"reason": reason} | ({"dead": True} if dead else {}))

    def _end(self, number: int, state: TrialState, value: float | None, notes: dict[str, Any]) -> None:
        """End a trial; does nothing if the trial has ended with the same state and score.

        Raises:
            TrialAlreadyEnded: If the trial has ended with another state or score.
        """
        storage, self._just_read = self._study._storage, None
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        try:
            if number in self._running and (value is None or math.isfinite(value)):
                self._end_own(self._running[number], state, value, notes)
            else:
                attributes.keep_notes(storage, trial_id, notes)
                _tell_with_warning(self._study, number, value, state)  # `tell` would read the trial once more
        except (UpdateFinishedTrialError, ValueError):
            ended = storage.get_trial(trial_id)
            if not ended.state.is_finished():
                raise
            if ended.state != state or (state == TrialState.COMPLETE and ended.value != value):
                raise TrialAlreadyEnded from None

    def _end_own(self, own: optuna.Trial, state: TrialState, value: float | None, notes: dict[str, Any]) -> None:
        """End a trial of this engine as `optuna.Study.tell` does, but in one operation, and without reading it."""
        frozen = own._cached_frozen_trial
        values = None if value is None else [value]
        if state == TrialState.PRUNED and frozen.intermediate_values:
            last = frozen.intermediate_values[max(frozen.intermediate_values)]
            values = None if math.isnan(last) else [last]
        self._study.sampler.after_trial(self._study, frozen, state, values)
        attributes.end_trial(self._study._storage, own._trial_id, state, values, notes)

    @property
    def beat_seconds(self) -> float | None:
        """Seconds between two calls of `beat`; None for storages that other hosts cannot reach."""
        return self._heartbeats.seconds

    @retry_while_unavailable
    def beat(self, number: int) -> None:
        """Record a heartbeat of a running trial."""
        self._heartbeats.beat(number)

    @retry_while_unavailable
    def stale(self) -> set[int]:
        """Return the numbers of running trials whose heartbeat is overdue."""
        return self._heartbeats.stale()

    @retry_while_unavailable
    def trials(self) -> list[Trial]:
        """Return all trials, ordered by number."""
        self._just_read = self._study.get_trials(deepcopy=False)
        return self._history.update(self._just_read)

    @retry_while_unavailable
    def costs(self) -> dict[str, Any]:
        """Return the stored costs; see `Engine.costs`."""
        return dict(attributes.kept(self._study).get(_COSTS, {}))

    @retry_while_unavailable
    def save_costs(self, costs: dict[str, Any]) -> None:
        """Store costs with the study."""
        attributes.set_attribute(self._study, _COSTS, costs)

    @retry_while_unavailable
    def joints(self) -> Joints:
        """Return the stored joint backbones; see `Engine.joints`."""
        return dict(attributes.kept(self._study).get(_JOINTS, {}))

    def importances(self) -> dict[str, float]:
        """Return the fraction of the score's variance explained by each parameter (fANOVA), largest first.

        Empty if the complete trials have fewer than ten different scores.
        """
        return shares_of(self.trials(), self._space)

    @retry_while_unavailable
    def delete(self) -> None:
        """Delete the study, and the database file if this process created the file and it contains no other study."""
        storage = self._study._storage
        if self._study.study_name in optuna.get_all_study_names(storage):  # a previous attempt may have deleted it
            optuna.delete_study(study_name=self._study.study_name, storage=storage)
        discard_if_new(storage)


def engine_in_memory(space: Sequence[Parameter], sampler: str, seed: int) -> OptunaEngine:
    """Return an engine whose trials are kept in this process only."""
    study = open_study(optuna.storages.InMemoryStorage(), "in memory", {})
    return OptunaEngine(study, space, sampler, seed)


def open_study(storage: optuna.storages.BaseStorage, name: str, facts: dict[str, Any]) -> optuna.Study:
    """Open a study; create it with the metadata `facts` if it does not exist."""
    _finish_adding_backbones(storage, name)
    if name in optuna.get_all_study_names(storage):
        return optuna.load_study(study_name=name, storage=storage)
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    attributes.name_metric(study)
    attributes.set_attribute(study, _SCHEMA, SCHEMA)
    attributes.set_attribute(study, _FACTS, facts)
    return study


def find_study(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    """Return an existing study.

    Raises:
        MissingError: If the study does not exist; the message lists the existing studies.
    """
    names = optuna.get_all_study_names(storage)
    if name not in names:
        known = ", ".join(names) if names else "none"
        raise MissingError(f"There is no study {name!r} in the storage. Existing studies: {known}.")
    return optuna.load_study(study_name=name, storage=storage)


def save_settings(study: optuna.Study, settings: dict[str, Any]) -> None:
    """Store the settings of the last command that opened the study, for workers that join it."""
    if attributes.kept(study).get(_SETTINGS) != settings:
        attributes.set_attribute(study, _SETTINGS, settings)


def load_settings(study: optuna.Study) -> dict[str, Any]:
    """Return the most recently stored settings.

    Raises:
        StudyError: If another program created the study.
    """
    metadata_of(study)
    return dict(attributes.kept(study)[_SETTINGS])


def completed_trials(study: optuna.Study) -> list[tuple[float, Params]]:
    """Return the score and the parameters of every complete trial."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [(float(trial.value), dict(trial.params)) for trial in trials if trial.value is not None]


def metadata_of(study: optuna.Study) -> dict[str, Any]:
    """Return the metadata that the study was created with.

    Raises:
        StudyError: If another program created the study, or its schema is not the current one.
    """
    held = attributes.kept(study)
    if _FACTS not in held:
        raise StudyError(
            f"The study {study.study_name!r} was not created by bhsearch. Choose another name with --study."
        )
    require_schema(held.get(_SCHEMA), f"The study {study.study_name!r}")
    return dict(held[_FACTS])


def add_backbones(study: optuna.Study, facts: dict[str, Any], backbones: Sequence[str]) -> optuna.Study:
    """Add backbones to a study.

    Optuna does not allow the choices of a parameter to change. The trials are therefore copied to a new study, which
    gets the name of the old one when the copy is complete, so that a process killed at any moment loses no trial.

    Args:
        study: The study to extend.
        facts: New metadata of the study, which replaces the stored metadata.
        backbones: All choices of the parameter `backbone`, existing ones first.

    Returns:
        The new study, which has the name of the old one.

    Raises:
        StudyError: If a trial is running.
    """
    if any(trial.state == TrialState.RUNNING for trial in study.get_trials(deepcopy=False)):
        raise StudyError(
            f"Cannot add backbones to the study {study.study_name!r} while another command runs its trials. Wait until "
            "that command has ended, or leave out the new backbones."
        )
    storage, name = study._storage, study.study_name
    draft = optuna.create_study(storage=storage, study_name=name + _GROWING, direction="maximize")
    attributes.name_metric(draft)
    attributes.set_attribute(draft, _SCHEMA, SCHEMA)
    attributes.set_attribute(draft, _FACTS, facts)
    held = attributes.kept(study)
    attributes.set_attribute(draft, _COSTS, held.get(_COSTS, {}))
    if _JOINTS in held:
        attributes.set_attribute(draft, _JOINTS, held[_JOINTS])
    choices = CategoricalDistribution(tuple(backbones))
    draft.add_trials([_with_choices(trial, choices) for trial in study.get_trials()])
    attributes.set_attribute(draft, _WHOLE, True)
    _finish_adding_backbones(storage, name)
    return optuna.load_study(study_name=name, storage=storage)


def _finish_adding_backbones(storage: optuna.storages.BaseStorage, name: str) -> None:
    """Finish an interrupted `add_backbones`: a complete copy replaces the study, an incomplete copy is deleted."""
    names = optuna.get_all_study_names(storage)
    if name + _GROWING not in names:
        return
    draft = optuna.load_study(study_name=name + _GROWING, storage=storage)
    if attributes.kept(draft).get(_WHOLE):
        if name in names:
            optuna.delete_study(study_name=name, storage=storage)
        optuna.copy_study(
            from_study_name=draft.study_name, from_storage=storage, to_storage=storage, to_study_name=name
        )
    optuna.delete_study(study_name=draft.study_name, storage=storage)


def _with_choices(trial: FrozenTrial, choices: CategoricalDistribution) -> FrozenTrial:
    distributions = trial.distributions | ({"backbone": choices} if "backbone" in trial.distributions else {})
    grown = create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )
    grown.datetime_start, grown.datetime_complete = trial.datetime_start, trial.datetime_complete
    return grown
