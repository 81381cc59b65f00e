"""Write the report of a study, and its figures, to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bhsearch.errors import PlaceError
from bhsearch.runtime.cache import explain_write_errors
from bhsearch.study.events import ProgressReporter


@dataclass(frozen=True)
class WrittenReport:
    """A written report.

    Attributes:
        study: Name of the study.
        file: The HTML page.
        n_bytes: Size of the HTML page.
        n_figures: Number of figures written as SVG and PDF.
    """

    study: str
    file: Path
    n_bytes: int
    n_figures: int


def write_report(study: str | None, file: Path, figures: Path | None, reporter: ProgressReporter) -> WrittenReport:
    """Write a study as one HTML page, log the page to the study's run in MLflow, and write its figures.

    Args:
        study: Name, uid or parent run of the study; None for the most recently started study.
        file: HTML file to write; its parent folder is created if missing.
        figures: Folder for every figure as SVG and PDF with captions; None to write no figure.
        reporter: Receives progress events.

    Raises:
        PlaceError: If a file cannot be written.
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

    from bhsearch.lifecycle.build_report import build_report

    report, page = build_report(study, reporter)
    content = page.encode("utf-8")
    with explain_write_errors(f"the report {file}", ""):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    n_figures = 0
    if figures is not None:
        from bhsearch.reporting.report_figures import write_figures

        with reporter.step("drawing figures"), explain_write_errors(f"the figures in {figures}"):
            n_figures = len(write_figures(report, figures))
    return WrittenReport(report.study, file, len(content), n_figures)
