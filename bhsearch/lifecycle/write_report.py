"""Write the report of a study, its reporting checklists and its figures to files, and log report and checklists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bhsearch.errors import PlaceError, SettingsError
from bhsearch.runtime.cache import explain_write_errors
from bhsearch.study.events import ProgressReporter

if TYPE_CHECKING:
    from bhsearch.reporting.report_data import StudyReport


@dataclass(frozen=True)
class WrittenReport:
    """A written report.

    Attributes:
        study: Name of the study.
        file: The HTML page.
        n_bytes: Size of the HTML page.
        n_figures: Number of figures written as SVG and PDF.
        checklist: The Markdown file with the reporting checklists.
        items: Number of items by status, one line per checklist.
    """

    study: str
    file: Path
    n_bytes: int
    n_figures: int
    checklist: Path
    items: Sequence[str]


def write_report(
    study: str | None,
    file: Path,
    figures: Path | None,
    reporter: ProgressReporter,
    learning_curve: bool = False,
    data: str | None = None,
) -> WrittenReport:
    """Write a study as one HTML page with its reporting checklists beside it, log both, and write the figures.

    Args:
        study: Name, uid or parent run of the study; None for the most recently started study.
        file: HTML file to write; its parent folder is created if missing. The checklists are written beside it, for
            `report.html` as `report_checklist.md`.
        figures: Folder for every figure as SVG and PDF with captions; None to write no figure.
        reporter: Receives progress events.
        learning_curve: Whether to compute the learning curve over cases of the proposed trial first.
        data: Current location of the data set for the learning curve, if it was moved.

    Raises:
        PlaceError: If a file cannot be written.
        DataError: If the data of the learning curve have changed since the study.
        StudyError: If the study does not exist, or if the store cannot be opened or refuses a request.
        RunError: If the store cannot be reached.
    """
    if file.is_dir():
        raise PlaceError(
            f"--output must be the path of a file, but {str(file)!r} is a folder. Give a file name, such as "
            f"{str(file / 'report.html')!r}."
        )
    if figures is not None and figures.exists() and not figures.is_dir():
        raise PlaceError(f"--figures must be a folder, but {str(figures)!r} is a file. Choose another name.")

    if data is not None and not learning_curve:
        raise SettingsError("--data is only used with --learning-curve. Add --learning-curve, or remove --data.")

    report, page, checklist, items = _build(study, reporter, learning_curve, data)
    content, beside = page.encode("utf-8"), file.with_name(f"{file.stem}_checklist.md")
    with explain_write_errors(f"the report {file}", ""):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        beside.write_text(checklist, encoding="utf-8")
    n_figures = 0
    if figures is not None:
        from bhsearch.reporting.report_figures import write_figures

        with reporter.step("drawing figures"), explain_write_errors(f"the figures in {figures}"):
            n_figures = len(write_figures(report, figures))
    return WrittenReport(report.study, file, len(content), n_figures, beside, items)


def _build(
    name: str | None, reporter: ProgressReporter, with_learning_curve: bool, data: str | None
) -> tuple[StudyReport, str, str, list[str]]:
    """Read a study from MLflow, build its report and checklists, and log both on the study's run.

    Args:
        name: See `write_report`.
        reporter: Receives progress events.
        with_learning_curve: Whether to compute and log the learning curve first.
        data: See `write_report`.

    Returns:
        The data of the report, the HTML page, the Markdown page of the checklists, and their numbers of items.
    """
    from bhsearch.lifecycle.build_report import gather
    from bhsearch.models.keras_settings import check_backend
    from bhsearch.reporting.checklists.page import checklist_page, checklists, counted
    from bhsearch.reporting.study_report import report_page
    from bhsearch.study.startup import open_mlflow
    from bhsearch.tracking.connection import require_store

    if with_learning_curve:
        check_backend()
    require_store()
    client = open_mlflow(reporter)
    from bhsearch.tracking import reader

    study = reader.find_study(client, name) if name is not None else reader.latest_study(client)
    if with_learning_curve:
        from bhsearch.lifecycle.learning_curve.stored import log_learning_curve
        from bhsearch.lifecycle.ranking import proposed_trial

        log_learning_curve(client, study, proposed_trial(study), reporter, data)
    report = gather(client, study, reporter)
    with reporter.step("making the report"):
        page, found = report_page(report), checklists(report)
        checklist = checklist_page(report, found)
        reader.log_report(client, study, page, checklist)
    return report, page, checklist, [counted(each) for each in found]
