"""The model card of a registered model, in Markdown and HTML. All of its fields are required."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from bhsearch.data.layouts.breakhis import spelt_out
from bhsearch.errors import RunError
from bhsearch.evaluation.bbc_cv import CORRECTED_NOTE, CorrectedScore
from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.evaluation.calibration import CALIBRATION_NOTE, THRESHOLD_RULE, OperatingPoint
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.subgroups import BOTH, Subgroup
from bhsearch.reporting import document, html
from bhsearch.reporting.document import Block, Bullets, Gallery, Image, Section, Table, Text

USE = (
    "Research on computer-aided histopathology: comparing methods on these data, and on others like them.",
    "Ranking haematoxylin-and-eosin fields of breast tissue by P(malignant), for review by a pathologist in a study.",
)
# Limits of every model; a card adds those of its own data.
LIMITS = (
    "Not for diagnosing or screening patients, and not for ruling cancer out.",
    "Not for other stains, magnifications, scanners or tissues than those of its data.",
    "Not for whole slides: it has seen fields that a pathologist chose.",
    "Its probability is no measure of how much an image differs from all that it was trained on.",
)
SALIENCY_NOTE = "Heat shows which pixels move the probability, not why; it is no outline of a tumour."
SYNTHETIC_NOTE = "Synthetic data (phantom): the numbers say nothing about tissue."
_PICTURES = "card_pictures"


@dataclass(frozen=True)
class TestMetric:
    """A metric of the sealed test with its 95 % interval over cases.

    Attributes:
        value: Value.
        low, high: Ends of the interval.
        n: Sample size, such as `12 cases, 340 images`.
    """

    __test__ = False  # no test class for pytest to collect

    value: float
    low: float
    high: float
    n: str


@dataclass(frozen=True)
class WorstImage:
    """The worst image of one of the worst cases.

    Attributes:
        caption: As in `WorstCase.caption`.
        picture: PNG or JPEG file.
        heat: The same with its heat map over it, from `thumbnails.overlay`.
    """

    caption: str
    picture: bytes
    heat: bytes


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Model card of a registered model. All fields are required; an empty one is an error that names it.

    Attributes:
        title: Name and version.
        synthetic: Whether the images are drawn by a program.
        use: Intended uses.
        model: Backbone, parameters and training, by name.
        source: Authors and origin of the data.
        licence: Licence of the data.
        data: Name, layout, images and cases of the data, by name.
        split: Sealed cases and folds, by name.
        audit: Lines of the leakage audit; "Nothing odd was found." if there are no findings.
        corrected: The score of the search, corrected for having searched.
        corrected_for: Which trial the correction is for: the best-scoring rule, or that another one was chosen.
        test: Metrics of the sealed cases by their full names, with intervals.
        gate: Decision of the gate and alias of the version, as sentences.
        openings: Every opening of these sealed cases so far, one line each.
        point: Calibration and threshold, fixed before the opening.
        before: Calibration errors of the deployed model on the test without calibration, by full name.
        after: The same errors with calibration.
        subtypes: Results of the test by subtype, from `subgroup_results`.
        magnifications: The same by magnification.
        cases: The same by case.
        worst: Cases of the test on which it is most often wrong, worst first.
        pictures: PNG files by title, such as `ROC curve`.
        limits: Uses that are excluded: `LIMITS` and those that follow from the data.

    Raises:
        RunError: If a field, or something in it, is empty or not a number.
    """

    title: str
    synthetic: bool
    use: Sequence[str]
    model: Mapping[str, str]
    source: str
    licence: str
    data: Mapping[str, str]
    split: Mapping[str, str]
    audit: Sequence[str]
    corrected: CorrectedScore
    corrected_for: str
    test: Mapping[str, TestMetric]
    gate: Sequence[str]
    openings: Sequence[str]
    point: OperatingPoint
    before: Mapping[str, float]
    after: Mapping[str, float]
    subtypes: Sequence[Subgroup]
    magnifications: Sequence[Subgroup]
    cases: Sequence[Subgroup]
    worst: Sequence[WorstImage]
    pictures: Mapping[str, bytes]
    limits: Sequence[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            where = _first_hole(getattr(self, field.name), field.name)
            if where:
                raise RunError(
                    f"A model card must have every field, but `{where}` is empty. A model is not registered without it."
                )
        if set(self.before) != set(self.after):
            raise RunError(
                f"`before` and `after` must have the same errors, but got {list(self.before)} and {list(self.after)}."
            )

    def html(self) -> str:
        """Return the card as a self-contained HTML page."""
        body = [html.heading(self.title), html.alarm(self._alarms), document.to_html(self._sections)]
        return html.document(self.title, "\n".join(body))

    def markdown(self, folder: str = "") -> str:
        """Return the card as Markdown.

        Args:
            folder: Folder of its images, relative to the card; empty for captions without images.
        """
        head = [f"# {self.title}", "", *(line for text in self._alarms for line in (f"**{text}**", ""))]
        return "\n".join(head) + "\n" + document.to_markdown(self._sections, folder)

    def write(self, folder: Path) -> None:
        """Write `card.md`, `card.html`, and the images of `card.md` in `card_pictures`."""
        (folder / "card.md").write_text(self.markdown(_PICTURES), encoding="utf-8")
        (folder / "card.html").write_text(self.html(), encoding="utf-8")
        (folder / _PICTURES).mkdir()
        for name, content in document.picture_files(self._sections):
            (folder / _PICTURES / name).write_bytes(content)

    @property
    def _alarms(self) -> list[str]:
        return [DISCLAIMER, SYNTHETIC_NOTE] if self.synthetic else [DISCLAIMER]

    @property
    def _sections(self) -> list[Section]:
        pictures = [Image(f"picture_{k}", [file], name) for k, (name, file) in enumerate(self.pictures.items())]
        worst = [Image(f"worst_{k}", [item.picture, item.heat], item.caption) for k, item in enumerate(self.worst)]
        return [
            Section("Sealed test", self._test()),
            Section("Gate", [Bullets(self.gate)]),
            Section("What it is for", [Bullets(self.use)]),
            Section("What it is not for", [Bullets(self.limits)]),
            Section("After the search", [Text(self._search()), Text(self.corrected_for), Text(CORRECTED_NOTE)]),
            Section("Threshold and calibration", self._fixed()),
            Section("Pictures of the test", [Gallery(pictures)], wide=True),
            Section("Worst cases of the test", [Text(SALIENCY_NOTE), Gallery(worst)], wide=True),
            Section("Subtypes", [_parts("subtype", self.subtypes)]),
            Section("Magnifications", [_parts("magnification", self.magnifications)]),
            Section("Cases", [_parts("case", self.cases)], wide=True),
            Section("Model", [_facts(self.model)]),
            Section("Data", [_facts({**self.data, "source": self.source, "licence": self.licence})]),
            Section("Split", [_facts(self.split)]),
            Section("Leakage audit", [Bullets(self.audit)]),
        ]

    def _test(self) -> list[Block]:
        rows = [(name, f"{m.value:.3f}", f"{m.low:.3f} to {m.high:.3f}", m.n) for name, m in self.test.items()]
        times = f"{len(self.openings)} times" if len(self.openings) > 1 else "once"
        return [
            Table(("metric", "value", "95 % interval", "measured on"), rows, 3),
            Text(f"Intervals are {INTERVAL_NOTE}. These cases were opened {times}:"),
            Bullets(self.openings),
        ]

    def _search(self) -> str:
        found = self.corrected
        return (
            f"AUC {found.score:.3f} [{found.low:.3f} {found.high:.3f}], corrected for having searched: the best of "
            f"{found.n_trials} trials scored {found.raw:.3f} on {found.n_groups} development cases."
        )

    def _fixed(self) -> list[Block]:
        errors = [(name, f"{self.before[name]:.3f}", f"{self.after[name]:.3f}") for name in self.before]
        return [
            Text(f"Calibration of logits: {self.point}."),
            Text(THRESHOLD_RULE),
            Table(("error on the test", "before calibration", "after"), errors, 2),
            Text(CALIBRATION_NOTE),
        ]


def _parts(column: str, parts: Sequence[Subgroup]) -> Table:
    """Return a table with a row per subgroup, without columns that would be the same in all rows."""
    count, ranked = column != "case", any(part.auc is not None for part in parts)
    head = ["name", "images", *(["cases"] if count else []), "right", *(["AUC"] if ranked else [])]
    rows = [
        [
            f"{spelt_out(part.name) if column == 'subtype' else part.name} ({_kind(part)})",
            f"{part.n_images:,}",
            *([f"{part.n_cases:,}"] if count else []),
            f"{part.accuracy:.0%}",
            *([f"{part.auc:.3f}" if part.auc is not None else "one class"] if ranked else []),
        ]
        for part in parts
    ]
    return Table(head, rows, len(head) - 1)


def _kind(part: Subgroup) -> str:
    return "both classes" if part.kind == BOTH else part.kind


def _facts(rows: Mapping[str, str]) -> Table:
    return Table(("what", "value"), list(rows.items()))


def _first_hole(value: Any, where: str) -> str:
    """Return the place of the first empty value in a field, or an empty string.

    Subgroups and operating points may lack numbers.
    """
    if isinstance(value, Subgroup | OperatingPoint):
        return _first_hole(value.threshold, f"{where}.threshold") if isinstance(value, OperatingPoint) else ""
    if isinstance(value, bool):
        return ""
    if isinstance(value, int | float):
        return "" if math.isfinite(value) else where
    if is_dataclass(value):
        inside = [(getattr(value, field.name), f"{where}.{field.name}") for field in fields(value)]
    elif isinstance(value, Mapping):
        inside = [(item, f"{where}[{key!r}]") for key, item in value.items()]
    elif isinstance(value, str | bytes) or value is None:
        inside = [] if value is None or not value.strip() else [(True, where)]
    else:
        inside = [(item, f"{where}[{k}]") for k, item in enumerate(value)]
    return next(filter(None, (_first_hole(*pair) for pair in inside)), "") if inside else where
