"""The evaluation of a fitted model on the sealed test, and the decision of the promotion gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation import held_out_test
from bhsearch.evaluation.predictions import six_digits
from bhsearch.evaluation.promotion import Decision, TestScores, decide
from bhsearch.lifecycle.fitted_model import FittedModel
from bhsearch.lifecycle.sealed_test import SealedTest
from bhsearch.study.events import ProgressReporter

if TYPE_CHECKING:
    from bhsearch.evaluation.held_out_test import TestResult


@dataclass(frozen=True, eq=False)
class TestEvaluation:
    """Results of challenger and champion on the sealed test.

    Attributes:
        tested: Metrics, intervals and predictions of the fitted model.
        lineage: Cases and images that the fitted model was developed and tested on.
        challenger: Scores of the fitted model, as input of the promotion gate.
        champion: Scores of the champion on the same images; None if there is no champion.
    """

    __test__ = False

    tested: TestResult
    lineage: dict[str, dict[str, list[str]]]
    challenger: TestScores
    champion: TestScores | None


def evaluate(fitted: FittedModel, test: SealedTest, reporter: ProgressReporter) -> TestEvaluation:
    """Evaluate a fitted model, and the current champion if there is one, on the sealed test."""
    taken = fitted.vectors
    predictions = test.predictions(six_digits(test.probabilities(fitted.network, "testing", reporter, taken)))
    before = test.probabilities(fitted.raw, "testing without calibration", reporter, taken)
    tested = held_out_test.evaluate_test(
        predictions,
        before,
        fitted.point.threshold,
        fitted.candidate.study.task,
        extra=fitted.candidate.restored.settings.metrics,
        fixed_rates=fitted.point.fixed_rates,
    )
    lineage = test.lineage()

    def scores(probability: npt.NDArray[Any], developed: dict[str, list[str]], why_not: str) -> TestScores:
        return TestScores(
            probability=probability,
            label=predictions.label,
            group=predictions.group,
            case=np.array(lineage["test"]["case"], dtype=object),
            digest=np.array(lineage["test"]["pixels_digest"], dtype=object),
            development_cases=frozenset(developed["case"]),
            development_digests=frozenset(developed["pixels_digest"]),
            why_not_promotable=why_not,
        )

    why_not = fitted.candidate.restored.split.why_not_promotable
    challenger = scores(predictions.probability[0], lineage["development"], why_not)
    champion = None
    if fitted.champion is not None:
        champions = fitted.champion
        probability = test.probabilities(champions.network, "testing the champion", reporter, champions.vectors)
        champion = scores(probability, fitted.champion.lineage["development"], "")
    return TestEvaluation(tested, lineage, challenger, champion)


def decide_promotion(evaluation: TestEvaluation) -> Decision:
    """Return the decision of the promotion gate: whether the challenger replaces the champion."""
    return decide(evaluation.challenger, evaluation.champion, evaluation.tested.task)
