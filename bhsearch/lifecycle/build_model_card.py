"""Build the model card of a registered version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.data.audit import audit
from bhsearch.data.provenance import provenance
from bhsearch.evaluation.calibration import Calibration, logit
from bhsearch.evaluation.held_out_test import CALIBRATED, UNCALIBRATED, class_of, metric_title
from bhsearch.evaluation.subgroups import subgroup_results, worst_cases
from bhsearch.lifecycle.registration_summary import OTHER_TRIAL, PROPOSED_TRIAL
from bhsearch.reporting.figures.thumbnails import encode_image, overlay
from bhsearch.reporting.model_card import (
    LIMITS,
    NO_PICTURES,
    NO_ROBUSTNESS,
    NO_ROBUSTNESS_OF_VECTORS,
    USE,
    ModelCard,
    TestMetric,
    WorstImage,
)
from bhsearch.study.context import FINETUNE
from bhsearch.text import plural
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.lifecycle.fitted_model import FittedModel
    from bhsearch.lifecycle.restore import RestoredStudy
    from bhsearch.lifecycle.sealed_test import SealedTest
    from bhsearch.tracking.reader import StoredStudy, StoredTrial

_PICTURES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "calibration": "Calibration before and after",
    "confusion_matrix": "Confusion matrix",
    "right_and_wrong": "Clearest right and worst wrong images",
}
_COLUMNS = ("subtype", "magnification", "case")
_SYNTHETIC = "Not for tissue: its data were drawn by a program."


def build_model_card(
    fitted: FittedModel,
    test: SealedTest,
    tested: TestResult,
    gate: Sequence[str],
    openings: Sequence[str],
    pictures: Mapping[str, bytes],
) -> ModelCard:
    """Return the filled model card of a registered version.

    Args:
        fitted: The fitted model.
        test: The sealed test.
        tested: Result of the sealed test.
        gate: Two sentences: the decision of the promotion gate, and the alias of the version.
        openings: One line per access to the images of the held-out test set.
        pictures: SVG files by name, from `reporting.figures.held_out_test`.

    Raises:
        RunError: If a field of the card is missing.
    """
    from bhsearch.tracking import reader

    study, trial, opened = fitted.candidate.study, fitted.candidate.trial, fitted.candidate.restored
    corrected, point = fitted.corrected, fitted.point
    index, split = opened.index, opened.split
    values, ends = tested.values, tested.intervals
    origin = provenance(index)
    named = {column: subgroup_results(tested.predictions, tested.decisions, column, tested.task) for column in _COLUMNS}
    return ModelCard(
        title=f"{study.data}: trial {trial.number} of {study.name}",
        synthetic=index.synthetic,
        use=USE,
        source=origin.source,
        licence=origin.licence,
        model=_model(study, trial, opened),
        data=_data(study, opened),
        split=_split(opened),
        audit=[*audit(index).lines(), *split.leaks],
        corrected=corrected,
        leads="corrected" if tested.few_cases else "test",
        corrected_for=PROPOSED_TRIAL if trial == fitted.candidate.plan.proposed else OTHER_TRIAL,
        test={
            metric_title(name): TestMetric(
                values[name], *pair, _size(tested, class_of(name)), tested.why_no_interval(name)
            )
            for name, pair in ends.items()
        },
        remarks=[*filter(None, [tested.few_cases]), *tested.remarks],
        gate=gate,
        openings=openings,
        point=point,
        before={metric_title(name): values[f"{name}{UNCALIBRATED}"] for name in CALIBRATED},
        after={metric_title(name): values[name] for name in CALIBRATED},
        subtypes=named["subtype"],
        magnifications=named["magnification"],
        cases=named["case"],
        worst=_worst(fitted, test, tested) if fitted.vectors is None else NO_PICTURES,
        pictures={_PICTURES[name]: content for name, content in pictures.items()},
        robustness=reader.robustness_of(study).get(
            trial.number, NO_ROBUSTNESS if fitted.vectors is None else NO_ROBUSTNESS_OF_VECTORS
        ),
        limits=[
            *LIMITS,
            *filter(None, [keys.licence_limit(study.tags, trial.params["backbone"])]),
            *([_SYNTHETIC] if index.synthetic else []),
            *split.why_not_promotable.splitlines(),
        ],
    )


def _size(tested: TestResult, label: int | None) -> str:
    """Return the number of test cases and test images that a metric is computed on, as text.

    Args:
        tested: Result of the sealed test.
        label: Class that the metric is restricted to; None for all test images.
    """
    predictions = tested.predictions
    rows = predictions.label == label if label is not None else np.ones(len(predictions), dtype=bool)
    what = f"{tested.task.class_names[label]} " if label is not None else ""
    return f"{plural(len(np.unique(predictions.group[rows])), 'case')}, {plural(int(rows.sum()), f'{what}image')}"


def _worst(fitted: FittedModel, test: SealedTest, tested: TestResult) -> list[WorstImage]:
    from bhsearch.models.saliency import explain

    worst = worst_cases(tested.predictions, tested.decisions, tested.task)
    images = [test.image(item.row) for item in worst]
    threshold = uncalibrated(fitted.point.threshold, fitted.point.calibration)
    looked = explain(fitted.raw, images, fitted.candidate.restored.settings.resize, threshold)
    return [
        WorstImage(
            f"{item.caption}; {seen.method}", encode_image(seen.seen), encode_image(overlay(seen.seen, seen.heat))
        )
        for item, seen in zip(worst, looked, strict=True)
    ]


def _model(study: StoredStudy, trial: StoredTrial, opened: RestoredStudy) -> dict[str, str]:
    split, settings = opened.split, opened.settings
    members = "networks, one finetuned per fold," if settings.regime == FINETUNE else "fold heads"
    return {
        "network": f"ensemble of {split.n_folds * split.n_repeats} {members} on "
        f"{keys.backbone_title(study.tags, trial.params['backbone'])}",
        "input": _input(keys.vectors_of(study.tags, trial.params["backbone"]), opened),
        "output": "P(malignant), calibrated",
        **_precision(study, trial),
        "licence of the backbone": keys.licence_of(study.tags, trial.params["backbone"]),
        **{name.replace("_", " "): value for name, value in trial.params.items()},
    }


def _precision(study: StoredStudy, trial: StoredTrial) -> dict[str, str]:
    """Return a row on the precision of the features; empty where this study computed none."""
    if study.tags[keys.REGIME] == FINETUNE or keys.vectors_of(study.tags, trial.params["backbone"]) is not None:
        return {}
    precision = keys.feature_precision_of(study.tags, trial.params["backbone"])
    return {"precision": f"heads trained on features in {precision}; this model computes in f32"}


def _input(vectors: Mapping[str, Any] | None, opened: RestoredStudy) -> str:
    settings = opened.settings
    if vectors is None:
        return f"uint8 RGB of any size, resized to {settings.image_size} px ({settings.resize}) inside"
    encoder = vectors["encoder"] or "an encoder that the file does not name"
    return (
        f"vectors of {vectors['n_features']:,} features in float32, made by {encoder} (file {vectors['file']}, digest "
        f"{vectors['digest']}); images are not taken"
    )


def _data(study: StoredStudy, opened: RestoredStudy) -> dict[str, str]:
    index, split = opened.index, opened.split
    return {
        "name": index.name,
        "layout": index.layout,
        "images": _counted(index.labels, index.class_names),
        "cases": str(len(np.unique(split.groups))),
        "magnification": split.magnification,
        "fingerprint": study.tags[keys.DATA_FINGERPRINT],
    }


def _split(opened: RestoredStudy) -> dict[str, str]:
    split = opened.split
    return {
        "sealed": _part(opened, split.test),
        "development": _part(opened, split.development),
        "sealed by": "the data set's own part" if split.sealed_by == "part" else "a share of the cases",
        "folds": f"{split.n_folds} x {split.n_repeats}, by {split.group_by}",
        "fingerprint": split.fingerprint,
    }


def uncalibrated(threshold: float, calibration: Calibration) -> float:
    """Return the uncalibrated probability that the calibration maps to a threshold."""
    line = (float(logit(np.array(threshold))) - calibration.offset) / calibration.slope
    return float(1 / (1 + np.exp(-np.clip(line, -700, 700))))


def _part(opened: RestoredStudy, rows: np.ndarray) -> str:
    n_groups = len(np.unique(opened.split.groups[rows]))
    return f"{plural(n_groups, 'case')}, {_counted(opened.index.labels[rows], opened.index.class_names)}"


def _counted(labels: np.ndarray, class_names: Sequence[str]) -> str:
    counts = np.bincount(labels, minlength=len(class_names))
    by_class = ", ".join(f"{n:,} {name}" for n, name in zip(counts, class_names, strict=True))
    return f"{plural(int(counts.sum()), 'image')} ({by_class})"
