"""Request and result of the validation of a model on an external cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bhsearch.config import Settings
from bhsearch.errors import PlaceError, SettingsError

if TYPE_CHECKING:
    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.lifecycle.validation.cohort import Cohort
    from bhsearch.lifecycle.validation.training_facts import Differences
    from bhsearch.tracking.validation_log import CohortAccess, ModelOrigin

REASON = "external validation"


@dataclass(frozen=True)
class ValidationRequest:
    """A request to validate a model on an external cohort.

    Attributes:
        model: Name, version, alias or URI of the model, or its folder; None for the only champion.
        settings: Settings that name the data of the cohort.
        reason: Reason of the validation, which is logged.
        output: JSON file to write; None to write no file.
        report: HTML file to write; None to write no file.

    Raises:
        SettingsError: If the reason is empty.
        PlaceError: If a file to write is a folder.
    """

    model: str | None
    settings: Settings
    reason: str = REASON
    output: Path | None = None
    report: Path | None = None

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise SettingsError(f"--reason must be a text, but got {self.reason!r}.")
        for name, file in (("--output", self.output), ("--report", self.report)):
            if file is not None and file.is_dir():
                raise PlaceError(f"{name} must be a file to write, but {str(file)!r} is a folder.")


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """Result of a validation.

    Attributes:
        model: URI of the model.
        threshold: Calibrated probability from which an image is labelled malignant.
        origin: Study, trial and version of the model.
        cohort: The external cohort.
        accesses: All accesses to images or cases of the cohort so far, by any model, with that of this validation as
            the last.
        tested: Metrics, intervals and predictions. Metrics that need both classes are nan with a single class.
        sites: The same for each site; empty unless the cohort names at least two sites.
        differences: How the cohort differs from the training images.
        notes: Sentences that must be read with the numbers.
        use: Restriction of use.
        run_id: MLflow run of the validation.
    """

    model: str
    threshold: float
    origin: ModelOrigin
    cohort: Cohort
    accesses: Sequence[CohortAccess]
    tested: TestResult
    sites: Mapping[str, TestResult]
    differences: Differences
    notes: Sequence[str]
    use: str
    run_id: str

    @property
    def values(self) -> dict[str, float]:
        """Metrics by name, with ends of intervals: `auc`, `auc_low`, `auc_high`, ..."""
        return self.tested.flat("")
