"""Facts about a study as sentences for reporting checklists; a fact that the records do not hold is empty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bhsearch.data.audit import UNREADABLE
from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.evaluation.metrics import METRICS, metrics_of
from bhsearch.evaluation.mixed_score import definition
from bhsearch.evaluation.selection.proposal import MARGIN
from bhsearch.evaluation.supplementary.auc_precision import what_cases_show
from bhsearch.evaluation.supplementary.supplements import TITLES
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting import gate_status, report_numbers, robustness_table, study_report
from bhsearch.text import plural, value_text

if TYPE_CHECKING:
    from bhsearch.reporting.report_data import Measured, StudyReport, TrialRow

_TITLES = {**{name: metric.title for name, metric in METRICS.items()}, **TITLES}
_RULE = (
    f"Of the trials within {MARGIN:g} of the best score and tied with it, the cheapest at prediction time is selected"
)
_RATES = ("sensitivity", "specificity", "recognition_rate")


@dataclass(frozen=True, eq=False)
class StudyFacts:
    """Facts about a study, as sentences.

    Attributes:
        report: Data of the report of the study.
    """

    report: StudyReport

    # -- data ----------------------------------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """Data set, and how the held-out test was taken from it."""
        kind = "synthetic images, drawn by a program" if self.report.synthetic else "images"
        how = self._fact("sealed by")
        return _sentences(
            f"Data set {self.report.data} ({kind}){self._named('data fingerprint')}",
            f"The held-out test is {how} of the same data set" if how else "",
        )

    @property
    def inputs(self) -> str:
        """Size and resizing of the images, or the files of vectors and their encoders."""
        vectors = self._fact("vectors")
        if vectors:
            return _sentences(f"Vectors of the images, which an encoder computed elsewhere: {vectors}")
        size, resize = self._fact("image size"), self._fact("resize")
        return _sentences(f"RGB images with 8 bits, resized to {size} px ({resize})") if size else ""

    @property
    def preparation(self) -> str:
        """Size and resizing of the images, and the findings of the audit."""
        return joined(self.inputs, _sentences(f"Audit: {' '.join(self.report.audit)}") if self.report.audit else "")

    @property
    def missing(self) -> str:
        """Number of unreadable images."""
        if not self.report.audit:
            return ""
        found = next((line for line in self.report.audit if UNREADABLE in line), "")
        skipped = f"Skipped images: {found.rpartition(' ')[2]} that could not be read" if found else ""
        return _sentences(skipped or "No image was skipped as unreadable", "Nothing was imputed")

    @property
    def subset(self) -> str:
        """Magnification of the images that were used."""
        found = self._fact("magnification")
        if not found:
            return ""
        return "Images of all magnifications were used." if found == "all" else f"Only images at {found} were used."

    @property
    def outcome(self) -> str:
        """Classes of the task."""
        first, second = self.report.task.class_names
        return f"Class of an image: {first} (0) or {second} (1). Diagnostic, without a time horizon."

    @property
    def cases(self) -> str:
        """Numbers of cases and images by class, for development and held-out test."""
        n_all, n_benign, n_malignant = self.report.n_cases
        if not n_all:
            return ""
        predictions = self.report.proposed_predictions
        images = f", {plural(len(predictions), 'image')}" if predictions is not None else ""
        sealed = self.report.sealed
        return _sentences(
            f"Development: {plural(n_all, 'case')} ({n_benign} with benign, {n_malignant} with malignant images)"
            f"{images}",
            f"Held-out test: {plural(sealed.n_cases, 'case')} ({sealed.n_benign} with benign, {sealed.n_malignant} "
            f"with malignant images), {plural(sealed.n_images, 'image')}",
        )

    @property
    def precision(self) -> str:
        """What the number of held-out cases can show, and the learning curve over cases."""
        sealed, curve = self.report.sealed, self.report.learning_curve
        if not self.report.ranked:
            return ""
        shows = what_cases_show(sealed.n_benign, sealed.n_malignant, study_report.expected_auc(self.report))
        return _sentences(
            f"The held-out cases give, {shows}" if shows else "", curve.sentence() if curve is not None else ""
        )

    @property
    def partition(self) -> str:
        """Held-out test, folds and repeats."""
        folds, how = self._fact("folds"), self._fact("sealed by")
        if not folds:
            return ""
        return _sentences(
            f"Held-out test ({how or 'reserved first'}): {self._fact('sealed')}, not used by the search",
            f"Development: {self._fact('searched on')}, cross-validation with folds: {folds}"
            f"{self._named('split fingerprint')}",
        )

    @property
    def disjoint(self) -> str:
        """Unit that folds and held-out test keep together."""
        if not self.report.has_cases:
            return _sentences("The cases are unknown, so that images of one patient may be on both sides of a split")
        unit = self._fact("folds keep together")
        if not unit:
            return ""
        return _sentences(
            f"Folds keep together: {unit}. The held-out test keeps cases together",
            "Cases that share a pixel-identical image count as one",
            *self.report.invalid,
        )

    # -- model ---------------------------------------------------------------------------------------------------------

    @cached_property
    def trial(self) -> TrialRow | None:
        """The tested trial, or the proposed trial if none was tested; None if no trial is complete."""
        ranked = self.report.ranked
        tested = self.report.test.opening.trial if self.report.test is not None else ""
        return next(
            (row for row in ranked if f"trial {row.number}" == tested), self.report.proposed if ranked else None
        )

    @property
    def predictors(self) -> str:
        """Input of the model."""
        names = [values for name, values, _ in self.report.space if name == "backbone"]
        if not names:
            return ""
        what = "The vector" if self._fact("vectors") else "The pixels"
        return f"{what} of the image; no predictor was selected by hand. Encoders that were searched: {names[0]}."

    @property
    def model(self) -> str:
        """Kind of model, its size and its cost."""
        predictions = self.report.proposed_predictions
        if self.trial is None or predictions is None:
            return ""
        members = predictions.n_folds * predictions.n_repeats
        regime = self._fact("regime")
        kind = {"finetune": "networks, fine-tuned per fold"}.get(regime, "heads, trained per fold on frozen features")
        cost = [f"{self.trial.milliseconds:.2g} ms an image"] if math.isfinite(self.trial.milliseconds) else []
        cost += [f"{self.trial.megabytes:.2g} MB of weights"] if math.isfinite(self.trial.megabytes) else []
        encoder = self.trial.params.get("backbone", "one encoder")
        return _sentences(
            f"Trial {self.trial.number}: mean of {members} {kind}, on {encoder}",
            f"Input: {self.inputs}" if self.inputs else "",
            "Output: P(malignant)",
            ", ".join(cost),
        )

    @property
    def robustness(self) -> str:
        """Effect of shifts of the validation images on the tested trial, or on the best trial."""
        found = self.report.robustness.get(self.trial.number) if self.trial is not None else None
        if found is None or self.trial is None:
            return ""
        rows = robustness_table.shift_rows(found)
        each = "; ".join(
            f"{title}: AUC {auc}, balanced accuracy {accuracy}, {labels} of labels changed"
            for title, _, auc, accuracy, labels in rows
        )
        return _sentences(f"Change of trial {self.trial.number}, out of fold, on shifted validation images: {each}")

    @property
    def initialization(self) -> str:
        """Encoder and random seed."""
        seed = self._fact("seed")
        if self.trial is None or not seed:
            return ""
        fixed = "fine-tuned from its stored weights" if self._fact("regime") == "finetune" else "weights not changed"
        return f"Encoder {self.trial.params.get('backbone', '')}, {fixed}; random seed {seed}."

    @property
    def training(self) -> str:
        """Values of all parameters of the trial."""
        if self.trial is None:
            return ""
        values = (f"{name} {value_text(value, 3)}" for name, value in self.trial.params.items())
        return f"Trial {self.trial.number}: {', '.join(values)}."

    @property
    def search(self) -> str:
        """Engine, number of trials and parameters of the search."""
        if self.trial is None:
            return ""
        made = [self._fact("engine"), f"sampler {self._fact('sampler')}" if self._fact("sampler") else ""]
        names = ", ".join(name for name, _, _ in self.report.space)
        return _sentences(
            f"Search by {', '.join(part for part in made if part)}" if made[0] else "",
            f"{len(self.report.ranked)} complete of {plural(len(self.report.rows), 'trial')}",
            f"Searched parameters: {names}" if names else "",
        )

    @property
    def selection(self) -> str:
        """Rule by which a trial was selected, and the number of tied trials."""
        if self.trial is None:
            return ""
        chosen = self.report.proposed
        n_tied = sum(row.tied for row in self.report.ranked)
        return _sentences(
            definition(self.report.shift_weight) or "Score: mean AUC over validation folds",
            _RULE,
            *self.report.selection,
            f"{plural(n_tied, 'trial')} cannot be told from the best, itself included" if n_tied > 1 else "",
            f"Evaluated: trial {self.trial.number}" if self.trial.number != chosen.number else "",
        )

    @property
    def balance(self) -> str:
        """How the training weights the classes, which is the same in both regimes."""
        return "Both classes have the same total weight in the training of each fold." if self.trial is not None else ""

    @property
    def output(self) -> str:
        """Output of the model, and its threshold."""
        test = self.report.test
        threshold = ""
        if test is not None and math.isfinite(test.threshold):
            threshold = (
                f"Labelled malignant from a calibrated probability of {test.threshold:.3f}, the threshold with the "
                "highest balanced accuracy out of fold, fixed before the held-out test was opened"
            )
        return _sentences("P(malignant) of an image", threshold)

    # -- results -------------------------------------------------------------------------------------------------------

    @property
    def measures(self) -> str:
        """Metrics and plots of the report."""
        names = [metric.title for metric in metrics_of(self.report.task).values()]
        plots = "ROC curve, calibration curve"
        plots += ", decision curve, distribution of probabilities by class" if self.report.test is not None else ""
        curve = ", learning curve over cases" if self.report.learning_curve is not None else ""
        return _sentences(f"Measures: {', '.join([*names, *TITLES.values()])}", f"Plots: {plots}{curve}")

    @property
    def uncertainty(self) -> str:
        """Kinds of intervals and comparisons."""
        return _sentences(
            f"95 % bootstrap intervals {INTERVAL_NOTE}",
            "The score of the proposed trial is corrected for the search by BBC-CV"
            if self.report.corrected is not None
            else "",
            "Trials are compared by a paired bootstrap, simultaneously",
        )

    @property
    def performance(self) -> str:
        """Best score, corrected score and held-out test with intervals."""
        if not self.report.ranked:
            return ""
        shown = [
            f"{name}{'' if self.report.shift_weight else ': AUC'} {with_interval(found)}"
            for name, found, _, _ in study_report.estimates(self.report)
            if math.isfinite(found.value)
        ]
        others = self._numbers(name for name in _TITLES if name != "auc" and name not in _RATES)
        few = gate_status.few_cases(self.report) if self.report.test is not None else ""
        invalid = ["These numbers are invalid as a measure of performance", *self.report.invalid]
        return _sentences(*shown, *others, few, *(invalid if self.report.invalid else []))

    @property
    def accuracy(self) -> str:
        """Sensitivity, specificity and recognition rate with intervals."""
        return _sentences(*self._numbers(_RATES))

    @property
    def tested(self) -> str:
        """AUC on the held-out test, and the number of openings; empty if it was not opened for this study."""
        test = self.report.test
        if test is None:
            return ""
        times = plural(len(self.report.openings), "opening")
        return _sentences(
            f"Held-out test of {test.opening.trial}, {times} of these cases: AUC {with_interval(test.auc)}",
            f"Promotion gate: {test.opening.verdict}" if test.opening.verdict else "",
        )

    @property
    def failures(self) -> str:
        """Number of wrong images out of fold."""
        found = self.report.proposed_predictions
        if found is None:
            return ""
        wrong = int((cross_fitted_labels(found, self.report.task).predicted[0] != found.label).sum())
        where = f"Out of fold, {wrong:,} of {plural(len(found), 'image')} have the wrong label"
        return _sentences(f"{where} (cross-fitted threshold, first repeat)", "The report shows the worst of them")

    @property
    def software(self) -> str:
        """Versions of packages."""
        return ", ".join(f"{name} {version}" for name, version in self.report.versions.items())

    @property
    def code(self) -> str:
        """Version of bhsearch and the command of the study."""
        version, command = self.report.versions.get("bhsearch", ""), self.report.made.get("command", "")
        return _sentences(f"bhsearch {version}" if version else "", f"Command: {command}" if command else "")

    @property
    def warnings(self) -> str:
        """Warnings of the study, for the limitations."""
        return _sentences(*self.report.invalid, *self.report.warnings)

    @cached_property
    def _measured(self) -> Mapping[str, Measured]:
        """Metrics of the held-out test, or of the proposed trial out of fold if there is no test."""
        report = self.report
        if report.test is not None:
            found = {"auc": report.test.auc, **report.test.others}
            predictions = report.test.predictions
            return found if predictions is None else report_numbers.widened(found, predictions)
        own = report.proposed_predictions
        if own is None:
            return {}
        found = report_numbers.measured(own, cross_fitted_labels(own, report.task), report.task)
        return {**found, **report_numbers.supplementary(own)}

    def _numbers(self, names: Iterable[str]) -> list[str]:
        """Return metrics with their intervals as text, after the name of the predictions that they are computed on."""
        found = [(_TITLES[name], self._measured[name]) for name in names if name in self._measured]
        where = "Held-out test" if self.report.test is not None else "Out of fold"
        shown = "; ".join(f"{title} {with_interval(value)}" for title, value in found if math.isfinite(value.value))
        return [f"{where}: {shown}"] if shown else []

    def _fact(self, name: str) -> str:
        return self.report.facts.get(name, "")

    def _named(self, name: str) -> str:
        return f", {name} {self._fact(name)}" if self._fact(name) else ""


def with_interval(found: Measured) -> str:
    """Return a number with its 95 % interval as text, such as `0.710 [0.600 0.800]`."""
    ends = f" [{found.low:.3f} {found.high:.3f}]" if math.isfinite(found.low) else ""
    return f"{found.value:.3f}{ends}"


def joined(*parts: str) -> str:
    """Join non-empty facts with spaces."""
    return " ".join(part for part in parts if part)


def _sentences(*parts: str) -> str:
    """Join non-empty parts as sentences."""
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts if part)
