"""Reports of studies that nobody made: every part of one can be changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.robustness import Robustness, ShiftEffect
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
from bhsearch.evaluation.supplementary.learning_curve import LearningCurve
from bhsearch.reporting.figures.thumbnails import encode_image
from bhsearch.reporting.report_data import (
    ExampleImage,
    Measured,
    SealedCases,
    StudyReport,
    TestAccess,
    TestSummary,
    TrialRow,
)
from bhsearch.states import COMPLETE, FAILED
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

MOST_IMAGES = 15  # of a case: with many more, intervals by bootstrap take most of the time
VOID = {"meta", "link", "img", "br"}
BACKBONES = ("staintex-s", "staintex-l", "mobilenet-0.25", "a network of the user's own with a very long name")


def row(number: int, value: float | None, **changes: Any) -> TrialRow:
    params = {"backbone": BACKBONES[number % 4], "rate": 10.0 ** -(number % 5), "tta": number % 2 == 0, "views": 2}
    values: dict[str, Any] = {
        "number": number,
        "state": COMPLETE if value is not None else FAILED,
        "score": value,
        "low": value - 0.1 if value is not None else math.nan,
        "high": value + 0.1 if value is not None else math.nan,
        "tied": value is not None and value > 0.6,
        "params": params,
        "milliseconds": 0.5 + number,
        "megabytes": 0.05 * (number + 1),
        "reason": "" if value is not None else "diverged <script>",
    }
    return TrialRow(**{**values, **changes})


REASON = "The 95 % interval of the AUC is above 0.5: 0.710 [0.600 0.800] on 16 groups of cases."


def opening(**changes: Any) -> TestAccess:
    values: dict[str, Any] = {
        "when": "2026-03-01T10:00:00.000+00:00",
        "study": "tissue <study>",
        "trial": "trial 3",
        "auc": Measured(0.71, 0.6, 0.8),
        "verdict": "passed",
        "reason": REASON,
        "alias": "champion",
    }
    return TestAccess(**{**values, **changes})


def registered(*, low: float = 0.6, compared: tuple[int, int] | None = (7, 9), **changes: Any) -> dict[str, Any]:
    """What a report knows of a registered study, as arguments of `make_report`."""
    auc = Measured(0.71, low, 0.8)
    opened = opening(auc=auc, **changes)
    others = {"brier": Measured(0.123, 0.1, 0.15), "ece": Measured(0.05, 0.02, 0.09)}
    sealed_images = simulate(n_cases=16, n_folds=1, seed=4, largest=MOST_IMAGES)
    test = TestSummary(opened, auc, auc, others, compared, 0.42, sealed_images)
    return {"test": test, "openings": [opened]}


SIZES = [22.4, 31.2, 44.8, 63.2, 89.6]
GRID = [22.4, 44.8, 89.6, 130.0, 179.2]
CURVE = LearningCurve(
    sizes=SIZES,
    scores=[0.7, 0.72, 0.75, 0.77, 0.78],
    low=[0.6, 0.62, 0.65, 0.67, 0.68],
    high=[0.8, 0.82, 0.85, 0.87, 0.88],
    n_subsets=10,
    n_cases=112,
    grid=GRID,
    fitted=[0.7, 0.75, 0.78, 0.79, 0.797],
    fitted_low=[0.6, 0.65, 0.68, 0.69, 0.7],
    fitted_high=[0.8, 0.85, 0.88, 0.89, 0.9],
    gain=0.017,
    gain_low=0.004,
    gain_high=0.03,
)
ROBUST = Robustness(
    auc=0.8,
    balanced_accuracy=0.75,
    shifts={
        "brightness": ShiftEffect(0.7654, -0.0346, -0.0812, 0.231),
        "blur": ShiftEffect(0.81, 0.01, 0.0, 0.019),
    },
    is_default=True,
)
REFUSED = "The 95 % interval of the AUC must be above 0.5: 0.710 [0.400 0.800] on 16 groups of cases."
TOO_FEW = "Too few cases to decide: 5 groups with benign and 5 with malignant test images are needed."


def make_report(**changes: Any) -> StudyReport:
    best = simulate(largest=MOST_IMAGES)
    picture = encode_image(np.full((8, 8, 3), 120, np.uint8), lossless=False)
    values: dict[str, Any] = {
        "study": "tissue <study>",
        "data": "tissue",
        "task": BINARY,
        "synthetic": False,
        "has_cases": True,
        "invalid": [],
        "warnings": ["5 of 5 folds hold few cases."],
        "n_cases": (26, 10, 16),
        "sealed": SealedCases(16, 7, 9, 40),
        "rows": [row(0, 0.55), row(1, score(best, BINARY)), row(2, None), row(3, 0.62), row(4, 0.5)],
        "proposed_predictions": best,
        "corrected": CorrectedScore(score(best, BINARY), 0.64, 0.52, 0.81, 0.55, 4, 26),
        "uncorrected": "",
        "openings": [],
        "test": None,
        "images": [
            ExampleImage(picture, "benign, P 0.9\ncase 3", False),
            ExampleImage(picture, "malignant, P 0.9\ncase 4", True),
        ],
        "kept_images": b"",
        "importances": {"backbone": 0.7, "rate": 0.296, "tta": 0.004},
        "spread": {"backbone": 0.2, "rate": 0.296, "tta": 0.1},
        "log": ["rate"],
        "space": [("backbone", "staintex-s, staintex-l", "network")],
        "facts": {"folder": "path/to/data"},
        "audit": ["Nothing odd was found."],
        "made": {
            "begun": "2026-03-01 09:00 UTC",
            "command": "python -m bhsearch.run --data x",
            "machine": "a computer",
        },
        "versions": {"keras": "3.0"},
    }
    made = {**values, **changes}
    return StudyReport(**{**made, "rows": proposing(made["rows"])})


def proposing(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return rows of which one is proposed: the given one, else the one with the best score."""
    scored = [each for each in rows if each.score is not None]
    if not scored or any(each.proposed for each in scored):
        return list(rows)
    best = max(scored, key=lambda each: (each.score, -each.number))
    return [replace(each, proposed=each is best) for each in rows]


class Reader(HTMLParser):
    """Checks that every element is closed in its turn, and keeps what is seen.

    Attributes:
        found: Name and attributes of every element.
        text: Everything that is said, without styles.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed inside another"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]
