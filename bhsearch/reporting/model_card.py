"""The model card of a registered model, in Markdown and HTML. All fields of a card are required."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from bhsearch.data.layouts.breakhis import spelt_out
from bhsearch.errors import RunError
from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.evaluation.calibration import CALIBRATION_NOTE, THRESHOLD_RULE, OperatingPoint
from bhsearch.evaluation.mixed_score import definition
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.robustness import ROBUSTNESS_NOTE, Robustness
from bhsearch.evaluation.selection.bbc_cv import CORRECTED_NOTE, CorrectedScore
from bhsearch.evaluation.subgroups import BOTH, Subgroup
from bhsearch.evaluation.thresholds import rate_title
from bhsearch.reporting import document, html, robustness_table
from bhsearch.reporting.document import Block, Bullets, Gallery, Image, Section, Table, Text
from bhsearch.text import capitalised, plural

USE = (
    "Research on computer-aided histopathology: comparing methods on these data, and on others like them.",
    "Ranking haematoxylin-and-eosin fields of breast tissue by P(malignant), for review by a pathologist in a study.",
)
# Limits of every model; each card adds the limits that follow from its data.
LIMITS = (
    "Not for diagnosing or screening patients, and not for ruling cancer out.",
    "Not for other stains, magnifications, scanners or tissues than those of its data.",
    "Not for whole slides: it has seen fields that a pathologist chose.",
    "Its probability is no measure of how much an image differs from all that it was trained on.",
)
NO_PICTURES = "There are no images to show: the model takes vectors, which an encoder computed elsewhere."
NO_ROBUSTNESS_OF_VECTORS = "Not computed: shifts change images, and the model takes vectors."
NO_ROBUSTNESS = "Not computed for this trial; `bhsearch run --robustness` computes it for the best trials of a study."
SALIENCY_NOTE = "Heat shows which pixels move the probability, not why; it is no outline of a tumour."
SYNTHETIC_NOTE = "Synthetic data (phantom): the numbers say nothing about tissue."
_PICTURES = "card_pictures"


@dataclass(frozen=True)
class TestMetric:
    """A metric on the held-out test set, with its 95 % confidence interval from a bootstrap over cases.

    Attributes:
        value: Value of the metric.
        low, high: Ends of the interval; both nan if there is none.
        n: Sample size as text, such as `12 cases, 340 images`.
        why_no_interval: Reason why there is no interval; shown only if there is none.
    """

    __test__ = False  # keeps pytest from collecting this class

    value: float
    low: float
    high: float
    n: str
    why_no_interval: str = "too few cases"

    @property
    def interval(self) -> str:
        """The interval as text, such as `0.600 to 0.900`, or the reason why there is none."""
        if math.isnan(self.low) and math.isnan(self.high):
            return f"none: {self.why_no_interval}"
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True)
class WorstImage:
    """The worst image of one of the worst cases.

    Attributes:
        caption: Caption of the image.
        picture: The image as a PNG or JPEG file.
        heat: The image with a heat map overlaid by `thumbnails.overlay`, as a PNG or JPEG file.
    """

    caption: str
    picture: bytes
    heat: bytes


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The model card of a registered model. All fields are required, and an empty field raises an error.

    Attributes:
        title: Title of the card: data set, trial and study.
        synthetic: Whether the images are synthetic instead of photographs of tissue.
        use: Intended uses.
        model: Backbone, parameters and training, by name.
        source: Authors and origin of the data.
        licence: Licence of the data.
        data: Name, layout, images and cases of the data, by name.
        split: Sealed cases and folds, by name.
        audit: Lines of the leakage audit; "Nothing odd was found." if there are no findings.
        corrected: Best score, corrected for the search.
        leads: Result that comes first: `test`, or `corrected` if the test has fewer than `FEWEST_GROUPS` groups of a
            class.
        corrected_for: Sentence that says whether the correction applies to the registered trial.
        test: Metrics on the held-out test set with intervals, by full name.
        remarks: Sentences that explain the metrics of the test.
        gate: Decision of the gate and alias of the version, as sentences.
        openings: All accesses to this held-out test set so far, one line each.
        point: Calibration and threshold, fixed before the access.
        before: Errors of the deployed model on the test without calibration, by full name.
        after: Errors of the deployed model on the test with calibration, by full name.
        subtypes: Test results by subtype, from `subgroup_results`.
        magnifications: Test results by magnification.
        cases: Test results by case.
        worst: One image from each of the test cases with the lowest accuracy, worst case first, or the reason why there
            are no images.
        pictures: SVG files by title, such as `ROC curve`.
        robustness: Robustness of the trial under shifts of its validation images, or the reason why it is not known.
        limits: Excluded uses: `LIMITS`, and limits that follow from the data.

    Raises:
        RunError: If a field, or a value inside a field, is empty or not finite.
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
    leads: str
    corrected_for: str
    test: Mapping[str, TestMetric]
    remarks: Sequence[str]
    gate: Sequence[str]
    openings: Sequence[str]
    point: OperatingPoint
    before: Mapping[str, float]
    after: Mapping[str, float]
    subtypes: Sequence[Subgroup]
    magnifications: Sequence[Subgroup]
    cases: Sequence[Subgroup]
    worst: Sequence[WorstImage] | str
    pictures: Mapping[str, bytes]
    robustness: Robustness | str
    limits: Sequence[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            where = _first_hole(getattr(self, field.name), field.name)
            if where:
                raise RunError(f"Cannot write the model card: `{where}` is empty. The model was not registered.")
        if set(self.before) != set(self.after):
            raise RunError(
                f"`before` and `after` must have the same error names, but got {list(self.before)} and "
                f"{list(self.after)}."
            )

    def html(self) -> str:
        """Return the card as a self-contained HTML page."""
        body = [html.heading(self.title), html.alarm(self._alarms), document.to_html(self._sections)]
        return html.document(self.title, "\n".join(body))

    def markdown(self, folder: str = "") -> str:
        """Return the card as Markdown.

        Args:
            folder: Folder of the image files, relative to the card; empty to render captions without images.
        """
        head = [f"# {self.title}", "", *(line for text in self._alarms for line in (f"**{text}**", ""))]
        return "\n".join(head) + "\n" + document.to_markdown(self._sections, folder)

    def write(self, folder: Path) -> None:
        """Write `card.md`, `card.html`, and the image files of `card.md` into a folder.

        Args:
            folder: Existing folder; the image files are written to its new subfolder `card_pictures`.
        """
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
        test = Section("Sealed test", self._test())
        search = Section("After the search", [Text(self._search()), Text(self.corrected_for), Text(CORRECTED_NOTE)])
        first, later = (test, search) if self.leads == "test" else (search, test)
        return [
            first,
            Section("Gate", [Bullets(self.gate)]),
            Section("What it is for", [Bullets(self.use)]),
            Section("What it is not for", [Bullets(self.limits)]),
            later,
            Section("Threshold and calibration", self._fixed()),
            Section(robustness_table.TITLE, self._robustness()),
            Section("Pictures of the test", [Gallery(pictures)], wide=True),
            Section("Worst cases of the test", self._worst(), wide=True),
            Section("Subtypes", [_parts("subtype", self.subtypes)]),
            Section("Magnifications", [_parts("magnification", self.magnifications)]),
            Section("Cases", [_parts("case", self.cases)], wide=True),
            Section("Model", [_facts(self.model)]),
            Section("Data", [_facts({**self.data, "source": self.source, "licence": self.licence})]),
            Section("Split", [_facts(self.split)]),
            Section("Leakage audit", [Bullets(self.audit)]),
        ]

    def _test(self) -> list[Block]:
        rows = [(name, f"{m.value:.3f}", m.interval, m.n) for name, m in self.test.items()]
        times = f"{len(self.openings)} times" if len(self.openings) > 1 else "once"
        return [
            Table(("metric", "value", "95 % interval", "measured on"), rows, 3),
            *map(Text, self.remarks),
            Text(f"Intervals are {INTERVAL_NOTE}. These cases were opened {times}:"),
            Bullets(self.openings),
        ]

    def _search(self) -> str:
        found = self.corrected
        mixed = f" {definition(found.shift_weight)}" if found.shift_weight else ""
        return (
            f"{capitalised(found.title)} {found.score:.3f} [{found.low:.3f} {found.high:.3f}], corrected for having "
            f"searched: the trial selected from {found.n_trials} scored {found.raw:.3f} on "
            f"{plural(found.n_groups, 'development case')}.{mixed}"
        )

    def _worst(self) -> list[Block]:
        if isinstance(self.worst, str):
            return [Text(self.worst)]
        shown = [Image(f"worst_{k}", [item.picture, item.heat], item.caption) for k, item in enumerate(self.worst)]
        return [Text(SALIENCY_NOTE), Gallery(shown)]

    def _robustness(self) -> list[Block]:
        if isinstance(self.robustness, str):
            return [Text(self.robustness)]
        rows = robustness_table.shift_rows(self.robustness)
        return [Text(ROBUSTNESS_NOTE), Table(robustness_table.SHIFT_HEAD, rows, len(robustness_table.SHIFT_HEAD) - 1)]

    def _fixed(self) -> list[Block]:
        errors = [(name, f"{self.before[name]:.3f}", f"{self.after[name]:.3f}") for name in self.before]
        return [
            Text(f"Calibration of logits: {self.point}."),
            Text(THRESHOLD_RULE),
            *(
                Text(f"Threshold for {rate_title(rate)} on the out-of-fold predictions: {value:.3f}.")
                for rate, value in self.point.fixed_rates.items()
            ),
            Table(("error on the test", "before calibration", "after"), errors, 2),
            Text(CALIBRATION_NOTE),
        ]


def _parts(column: str, parts: Sequence[Subgroup]) -> Table:
    """Return a table with one row per subgroup.

    The column of cases is left out for subgroups by case, the column of AUC if no subgroup has an AUC.
    """
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
    """Return the location of the first empty or non-finite value in a field; an empty string if there is none.

    Numbers of subgroups and the calibration of operating points are not checked.

    Args:
        value: Value of the field.
        where: Location of `value`, such as `test['AUC'].low`.
    """
    if isinstance(value, Subgroup | OperatingPoint):
        return _first_hole(value.threshold, f"{where}.threshold") if isinstance(value, OperatingPoint) else ""
    if isinstance(value, TestMetric) and value.interval.startswith("none"):
        value = {"value": value.value, "n": value.n}
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
