"""A registered version in words: rows for the terminal, a note in Markdown and tags for the registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bhsearch.evaluation.calibration import CALIBRATION_NOTE
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.selection import CORRECTED_NOTE

if TYPE_CHECKING:
    from bhsearch.search.registration import Registered

_SHOWN = ("balanced_accuracy", "sensitivity", "specificity", "average_precision", "recognition_rate")
BEST_TRIAL = "The correction is for the rule that chose this trial: the best score."
OTHER_TRIAL = "The correction is for the best-scoring rule, not for the choice of this trial."


def rows(result: Registered) -> list[tuple[str, str]]:
    """Heading and text, in the order to be read."""
    corrected, tested, line = result.corrected, result.tested, result.point.calibration
    best = "the best" if result.is_best else f"the best is {result.study.trials[0].number}"
    values = tested.values
    return [
        ("study", f"{result.study.name}, {len(result.study.trials)} finished trials"),
        ("trial", f"{result.trial.number} ({best}), {result.trial.params.get('backbone', '')}"),
        ("raw", f"AUC {result.trial.score:.3f}, out of fold"),
        ("corrected", f"AUC {corrected.score:.3f} [{corrected.low:.3f} {corrected.high:.3f}] for having searched"),
        ("calibration", f"slope {line.slope:.3f}, offset {line.offset:+.3f}; threshold {result.point.threshold:.3f}"),
        ("test", f"AUC {_with_ends(result, 'auc')} on {_size(result)}"),
        *(("", f"{name.replace('_', ' ')} {_with_ends(result, name)}") for name in _SHOWN),
        ("", f"ECE {values['ece_uncalibrated']:.3f} before calibration, {values['ece']:.3f} after"),
        ("", f"Brier score {values['brier_uncalibrated']:.3f} before, {values['brier']:.3f} after"),
        ("opened", opened(result)),
        ("gate", result.verdict.reason),
        ("version", f"{result.version.name} {result.version.number}: {_standing(result)}"),
    ]


def notes(result: Registered) -> list[str]:
    """Sentences that must be read with the numbers."""
    found = [CORRECTED_NOTE, *([] if result.is_best else [OTHER_TRIAL]), CALIBRATION_NOTE]
    if result.note:
        found.insert(0, f"{result.note}: the numbers say nothing about tissue.")
    return [*found, DISCLAIMER]


def opened(result: Registered) -> str:
    """How often these sealed images were opened, and when."""
    earlier = result.openings[:-1]
    if not earlier:
        return "for the first time"
    return f"{len(result.openings)} times: before this " + "; ".join(map(str, earlier))


def describe(result: Registered) -> str:
    """The note that MLflow shows beside version and run. Markdown."""
    head = [f"**{sentence}**  " for sentence in notes(result)[:1] if result.note]
    table = ["| | |", "| --- | --- |", *(f"| {heading} | {text.replace('|', '/')} |" for heading, text in rows(result))]
    return "\n".join([*head, "", *table, "", *(f"{sentence}  " for sentence in notes(result)[bool(result.note) :])])


def tags_of(result: Registered, sealed: str, why: str | None) -> dict[str, str]:
    """Tags of the registered version, the count of openings beside the numbers."""
    corrected, line = result.corrected, result.point.calibration
    ends = result.tested.intervals["auc"]
    tags = {
        "study": result.study.name,
        "trial": str(result.trial.number),
        "split_fingerprint": result.study.tags["bhsearch.split_fingerprint"],
        "data_fingerprint": result.study.tags["bhsearch.data_fingerprint"],
        "sealed": sealed,
        "openings": str(len(result.openings)),
        "auc_raw": f"{result.trial.score:.5f}",
        "auc_corrected": f"{corrected.score:.5f} [{corrected.low:.5f} {corrected.high:.5f}]",
        "test_auc": f"{result.tested.values['auc']:.5f} [{ends.low:.5f} {ends.high:.5f}]",
        "threshold": repr(result.point.threshold),
        "calibration": f"{line.slope!r} {line.offset!r}",
        "gate": "passed" if result.verdict.promote else "refused",
        "gate_reason": result.verdict.reason,
        "gate_numbers": json.dumps({key: round(value, 5) for key, value in result.verdict.numbers.items()}),
    }
    if result.promoted:
        tags["alias"] = result.alias
    if result.promoted == "force":
        tags["forced"] = str(why)
    if result.note:
        tags["note"] = result.note
    return {f"bhsearch.{key}": value for key, value in tags.items()}


def _standing(result: Registered) -> str:
    if result.promoted == "force":
        return (
            f"{result.alias}, by force, against the gate" if not result.verdict.promote else f"{result.alias}, by force"
        )
    return result.alias if result.promoted else "challenger"


def _with_ends(result: Registered, name: str) -> str:
    ends = result.tested.intervals[name]
    return f"{result.tested.values[name]:.3f} [{ends.low:.3f} {ends.high:.3f}]"


def _size(result: Registered) -> str:
    predictions = result.tested.predictions
    return f"{len(set(predictions.group.tolist()))} sealed cases, {len(predictions)} images"
