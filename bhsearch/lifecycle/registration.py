"""Requests, plans and results of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bhsearch.errors import SettingsError

if TYPE_CHECKING:
    from bhsearch.evaluation.bbc_cv import CorrectedScore
    from bhsearch.evaluation.calibration import OperatingPoint
    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.evaluation.promotion import Decision
    from bhsearch.tracking.access_log import TestAccess
    from bhsearch.tracking.reader import StoredStudy, StoredTrial
    from bhsearch.tracking.registry import Version


@dataclass(frozen=True)
class RegistrationRequest:
    """A request to register a trial.

    Attributes:
        study: Name, uid or parent run; None for the only study of the store.
        trial: Number; None for the best.
        name: Name of the registered model; None for the name of the data set.
        alias: Alias of a version that passes the gate.
        force: Whether the version gets the alias even if the gate rejects it.
        reason: The user's reason for that.
        data: Where the data are now, if they were moved.
        export: `openvino` for that, beside the model; None for nothing.
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
            raise SettingsError('--force must be given with a reason, which is logged: --force --reason "...".')
        if self.reason is not None and not self.force:
            raise SettingsError("--reason must be given with --force, but --force is missing.")


@dataclass(frozen=True, eq=False)
class RegistrationPlan:
    """What a registration would do, known before the sealed test is opened.

    Attributes:
        study, trial: What would be registered.
        name: Name of the registered model.
        alias: Alias of a version that passes the gate.
        n_groups: Sealed groups of cases: in all, with benign, and with malignant images.
        n_images: Sealed images.
        openings: Every access to these images so far.
        champion: The version that has the alias; None if there is none.
        force: Whether the gate is overruled.
        earlier: Result of an earlier test of this trial, which would be returned; None if there is none.
    """

    study: StoredStudy
    trial: StoredTrial
    name: str
    alias: str
    n_groups: tuple[int, int, int]
    n_images: int
    openings: list[TestAccess]
    champion: Version | None
    force: bool
    earlier: EarlierResult | None = None


@dataclass(frozen=True, eq=False)
class EarlierResult:
    """Result of an earlier test of the same trial on the same sealed images, which were not opened again.

    Attributes:
        version: The registered version, as it is now.
        when: Time of the access, UTC, ISO 8601.
        rows: Heading and text, as they were first shown.
        notes: Sentences that must be read with the numbers.
        forced: Whether this command promoted it by force.
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
        study, trial: What was registered.
        is_best: Whether the trial has the study's best score.
        corrected: Score of the study's winner, corrected for the search.
        point: Calibration and threshold, fixed before the access.
        openings: Every access to these sealed images so far, this one last.
        tested: The test.
        verdict: Decision of the gate.
        promoted: `gate`, `force`, or empty.
        alias: Alias that it gets if it is promoted.
        version: The registered version.
        note: Text that belongs beside every number; may be empty.
    """

    study: StoredStudy
    trial: StoredTrial
    is_best: bool
    corrected: CorrectedScore
    point: OperatingPoint
    openings: list[TestAccess]
    tested: TestResult
    verdict: Decision
    promoted: str
    alias: str
    version: Version
    note: str
