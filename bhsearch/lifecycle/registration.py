"""What a user asks to be registered, what would come of it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bhsearch.errors import SettingsError

if TYPE_CHECKING:
    from bhsearch.evaluation.bbc_cv import CorrectedScore
    from bhsearch.evaluation.calibration import OperatingPoint
    from bhsearch.evaluation.promotion import Decision
    from bhsearch.evaluation.test_set import TestResult
    from bhsearch.tracking.reader import StoredStudy, StoredTrial
    from bhsearch.tracking.registry import Version
    from bhsearch.tracking.test_access import TestAccess


@dataclass(frozen=True)
class RegistrationRequest:
    """What a user asks to be registered.

    Attributes:
        study: Name, uid or parent run; None for the only study of the store.
        trial: Number; None for the best.
        name: Of the registered model; None for the name of the data set.
        alias: What a version gets that passes the gate.
        force: Whether it gets the alias whatever the gate says.
        reason: The user's reason for that.
        data: Where the data lie now, if not where they lay when the study was made.
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
    """What registering would do, known before anything is opened.

    Attributes:
        study, trial: What would be registered.
        name: Of the registered model.
        alias: What a version gets that passes the gate.
        n_groups: Sealed groups of cases: in all, with benign, and with malignant images.
        n_images: Sealed images.
        openings: Every opening of these images so far.
        champion: The version that has the alias; None if there is none.
        force: Whether the gate is overruled.
        earlier: What came of an earlier opening for this trial, which would be given again; None if there was none.
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
    """What came of an earlier opening for the same trial and the same sealed images; nothing was opened for it again.

    Attributes:
        version: The registered version, as it is now.
        when: The opening, UTC, ISO 8601.
        rows: Heading and text, as they were shown then.
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
    """What registering gave.

    Attributes:
        study, trial: What was registered.
        is_best: Whether the trial has the study's best score.
        corrected: Score of the study's winner, corrected for the search.
        point: Calibration and threshold, fixed before the opening.
        openings: Every opening of these sealed images so far, this one last.
        tested: The test.
        verdict: Of the gate.
        promoted: `gate`, `force`, or empty.
        alias: What it was to get.
        version: The registered version.
        note: What must stand beside every number; may be empty.
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
