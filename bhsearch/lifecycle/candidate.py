"""The candidate of a registration: the requested trial, with the restored data and split of its study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.errors import StudyError
from bhsearch.lifecycle.ranking import proposed_trial
from bhsearch.lifecycle.registration import EarlierResult, RegistrationPlan, RegistrationRequest
from bhsearch.lifecycle.registration_summary import earlier_of
from bhsearch.lifecycle.restore import RestoredStudy, digest_of_set, kept_sealed_images, restore_study
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.tracking.access_log import TestAccess
    from bhsearch.tracking.reader import StoredStudy, StoredTrial


@dataclass(frozen=True, eq=False)
class Selection:
    """The requested trial as stored in MLflow, found without reading an image.

    Attributes:
        study, trial: The requested trial, and the study that it belongs to.
        proposed: The trial that the study proposes.
        name: Name of the registered model.
        openings: Earlier accesses to the images of the held-out test set of the study.
        overlapping: Earlier accesses to other held-out test sets that share images with this one.
        earlier: Result of an earlier test of this trial; None if this trial has no earlier result.
    """

    study: StoredStudy
    trial: StoredTrial
    proposed: StoredTrial
    name: str
    openings: list[TestAccess]
    overlapping: list[TestAccess]
    earlier: EarlierResult | None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trial that can be registered, before its operating point is fixed.

    Attributes:
        plan: Plan of the registration.
        restored: Data, split and settings of the study.
    """

    plan: RegistrationPlan
    restored: RestoredStudy

    @property
    def study(self) -> StoredStudy:
        """The study as stored in MLflow."""
        return self.plan.study

    @property
    def trial(self) -> StoredTrial:
        """The trial as stored in MLflow."""
        return self.plan.trial


def select(client: Any, request: RegistrationRequest) -> Selection:
    """Return the study and the trial that a user requests, without reading an image.

    Raises:
        StudyError: If the study or the trial does not exist, or if `--force` is given for a study that must never be
            promoted.
        SettingsError: If MLflow does not accept the model name or the alias.
    """
    from bhsearch.tracking import access_log, reader, registry

    study = reader.find_study(client, request.study)
    proposed = trial_of(study, None)
    trial = proposed if request.trial is None else trial_of(study, request.trial)
    name = request.name or study.data
    registry.check_name(name, request.alias)
    split = reader.read_record(study, keys.SPLIT)
    if request.force and not split["promotable"]:
        raise StudyError(f"--force cannot promote a model of this study: {split['why_not_promotable']}")
    images = kept_sealed_images(study)
    digest = digest_of_set(images)
    found, others = access_log.accesses(client, digest), access_log.overlapping(client, digest, images)
    return Selection(study, trial, proposed, name, found, others, _earlier_result(client, study, trial, found))


def restore(client: Any, request: RegistrationRequest, selection: Selection, reporter: ProgressReporter) -> Candidate:
    """Open the data of the selected study, check that they are unchanged, and plan the registration.

    Raises:
        DataError: If images, labels or cases differ from those of the study.
    """
    from bhsearch.tracking import registry

    restored = restore_study(selection.study, reporter, request.data)
    split, labels = restored.split, restored.index.labels
    n_all, n_benign, n_malignant = (
        len(np.unique(split.groups[split.test & rows])) for rows in (labels >= 0, labels == 0, labels == 1)
    )
    plan = RegistrationPlan(
        study=selection.study,
        trial=selection.trial,
        proposed=selection.proposed,
        name=selection.name,
        alias=request.alias,
        n_groups=(n_all, n_benign, n_malignant),
        n_images=int(split.test.sum()),
        openings=selection.openings,
        overlapping=selection.overlapping,
        champion=registry.version_with_alias(client, selection.name, request.alias),
        force=request.force,
        earlier=selection.earlier,
    )
    return Candidate(plan, restored)


def trial_of(study: StoredStudy, number: int | None) -> StoredTrial:
    """Return a complete trial of a study by its number; None for the proposed trial.

    Raises:
        StudyError: If the study has no complete trial with this number.
    """
    found = proposed_trial(study) if number is None else next((t for t in study.trials if t.number == number), None)
    if found is not None:
        return found
    if not study.trials:
        raise StudyError(f"The study {study.name!r} has no complete trial. Continue it with `python -m bhsearch.run`.")
    known = ", ".join(str(trial.number) for trial in sorted(study.trials, key=lambda trial: trial.number))
    raise StudyError(f"--trial must be a complete trial of {study.name!r} ({known}), but got {number}.")


def _earlier_result(
    client: Any, study: StoredStudy, trial: StoredTrial, found: list[TestAccess]
) -> EarlierResult | None:
    """Return the result of the most recent access for a trial that has a result; None if no access has a result."""
    from bhsearch.tracking import registry

    for opening in reversed(found):
        if opening.uid == study.uid and opening.trial == str(trial.number):
            version = registry.version_of_run(client, opening.run_id)
            result = earlier_of(version, opening.when) if version is not None else None
            if result is not None:
                return result
    return None
