"""Requests, plans and results of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bhsearch.errors import SettingsError

if TYPE_CHECKING:
    from bhsearch.evaluation.calibration import OperatingPoint
    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.evaluation.promotion import Decision
    from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
    from bhsearch.tracking.access_log import TestAccess
    from bhsearch.tracking.reader import StoredStudy, StoredTrial
    from bhsearch.tracking.registry import Version


@dataclass(frozen=True)
class RegistrationRequest:
    """A request to register a trial.

    Attributes:
        study: Name, uid or parent run of the study; None for the only study of the store.
        trial: Number of the trial; None for the trial that the study proposes.
        name: Name of the registered model; None for the name of the data set.
        alias: Alias that the version receives if it passes the promotion gate.
        force: Whether the new version receives the requested alias, such as `champion`, even if the gate rejects it.
        reason: The user's reason for `force`.
        data: Current location of the data set, if it was moved.
        export: `openvino` to export the model to that format as well; None for no export.
    """

    study: str | None = None
    trial: int | None = None
    name: str | None = None
    alias: str = "champion"
    force: bool = False
    reason: str | None = None
    data: str | None = None
    export: str | None = None

    def __post_init__(self) -> None:
        from bhsearch.models.openvino_export import check_export

        check_export(self.export)
        if self.force and not (self.reason or "").strip():
            raise SettingsError('--force requires a reason, which is logged: --force --reason "...".')
        if self.reason is not None and not self.force:
            raise SettingsError("--reason is only used with --force. Add --force, or remove --reason.")


@dataclass(frozen=True, eq=False)
class RegistrationPlan:
    """The plan of a registration, made before the sealed test is opened.

    Attributes:
        study, trial: Trial that would be registered, and its study.
        proposed: Trial that the study proposes.
        name: Name of the registered model.
        alias: Alias that the version receives if it passes the promotion gate.
        n_groups: Number of sealed groups of cases: all groups, groups with benign images, groups with malignant images.
        n_images: Number of images in the held-out test set.
        openings: All accesses to the images of the held-out test set so far.
        overlapping: Accesses to other held-out test sets that share images with this one.
        champion: Registered version that has the requested alias, such as `champion`, before the registration; None if
            none has it.
        force: Whether the user overrules the gate.
        earlier: Result of an earlier test of this trial, which would be returned instead of opening the test; None if
            the trial has no earlier result.
    """

    study: StoredStudy
    trial: StoredTrial
    proposed: StoredTrial
    name: str
    alias: str
    n_groups: tuple[int, int, int]
    n_images: int
    openings: list[TestAccess]
    overlapping: list[TestAccess]
    champion: Version | None
    force: bool
    earlier: EarlierResult | None = None


@dataclass(frozen=True, eq=False)
class EarlierResult:
    """Result of an earlier test of the same trial on the same held-out test images, which were not opened again.

    Attributes:
        version: Current state of the registered version.
        when: Time of the earlier access, UTC, ISO 8601.
        rows: Pairs of heading and text, as first shown.
        notes: Sentences that must be read with the numbers.
        forced: Whether the current command promoted the version by force.
    """

    version: Version
    when: str
    rows: list[tuple[str, str]]
    notes: list[str]
    forced: bool = False


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """Result of a registration.

    Attributes:
        study, trial: Registered trial, and its study.
        proposed: Trial that the study proposes.
        corrected: Score of the proposed trial, corrected for the search.
        point: Calibration and threshold, fixed before the access.
        openings: All accesses to the images of this held-out test set so far, including the access of this registration
            as the last.
        overlapping: Earlier accesses to other held-out test sets that share images with this one.
        tested: Result of the sealed test.
        verdict: Decision of the promotion gate.
        promoted: `gate` or `force` if the version was promoted; empty otherwise.
        alias: Alias that the version receives on promotion.
        version: The registered version.
        note: Text shown with every number, such as that the data are synthetic; may be empty.
    """

    study: StoredStudy
    trial: StoredTrial
    proposed: StoredTrial
    corrected: CorrectedScore
    point: OperatingPoint
    openings: list[TestAccess]
    overlapping: list[TestAccess]
    tested: TestResult
    verdict: Decision
    promoted: str
    alias: str
    version: Version
    note: str

    @property
    def is_proposed(self) -> bool:
        """Whether the registered trial is the one that the study proposes."""
        return self.trial == self.proposed
