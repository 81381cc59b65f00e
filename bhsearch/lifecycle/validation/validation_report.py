"""The HTML page of a validation on an external cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.lifecycle.validation import summary
from bhsearch.reporting import document, html
from bhsearch.reporting.document import Bullets, Gallery, Image, Section, Table, Text
from bhsearch.reporting.figures import held_out_test as figures

if TYPE_CHECKING:
    from bhsearch.lifecycle.validation.request import ValidationResult

_TITLES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "calibration": "Calibration before and after",
    "confusion_matrix": "Confusion matrix",
}


def page(result: ValidationResult) -> str:
    """Return a validation as one HTML page. Figures are drawn only if the cohort has both classes."""
    index = result.cohort.index
    head = html.heading(
        f"{result.model} on {index.name}",
        f"Validation on an external cohort: {summary.size(result.tested)}.",
        f"Trial {result.origin.trial} of the study {result.origin.study}; threshold {result.threshold:.4g}.",
    )
    notices = html.notice([*result.differences.warnings, result.differences.unchecked, *result.notes])
    return html.document(f"{result.model} on {index.name}", head + notices + document.to_html(_sections(result)))


def _sections(result: ValidationResult) -> list[Section]:
    sections = [
        Section(
            "Metrics",
            [
                Table(["metric", "value [95 % interval]"], summary.metric_rows(result.tested), 1),
                Text(f"Intervals: 95 % {INTERVAL_NOTE}."),
            ],
        ),
        Section(
            "Accesses",
            [
                Text("Only the first evaluation of a study on a cohort is unbiased."),
                Bullets([str(access) for access in result.accesses]),
            ],
        ),
    ]
    if result.sites:
        sections.append(Section("Sites", [Table(["site", "result"], summary.site_rows(result))]))
    for column, groups in summary.subgroups(result).items():
        rows = [[str(g["name"]), str(g["kind"]), str(g["n_cases"]), str(g["n_images"]), _number(g)] for g in groups]
        head = [column, "class", "cases", "images", "share right"]
        sections.append(Section(f"By {column}", [Table(head, rows, 3)]))
    if len(np.unique(result.tested.predictions.label)) > 1:
        note = result.cohort.index.synthetic and "Synthetic data (phantom)"
        drawn = figures.pictures(result.tested, note or "", "external cohort")
        pictures = [Image(name, [content], _TITLES.get(name, name)) for name, content in drawn.items()]
        sections.append(Section("Figures", [Gallery(pictures)], wide=True))
    return sections


def _number(group: dict[str, Any]) -> str:
    return f"{group['accuracy']:.3f}"
