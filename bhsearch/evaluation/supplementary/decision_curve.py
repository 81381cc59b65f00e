"""Decision curve: net benefit of acting on predictions, at every threshold of the probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bhsearch.evaluation.bootstrap import with_observed
from bhsearch.evaluation.curves import malignant_share
from bhsearch.evaluation.predictions import FloatArray, IntArray, Predictions
from bhsearch.evaluation.reliable_intervals import single_case_class

THRESHOLDS = np.linspace(0.01, 0.99, 99)
DECISION_CURVE_NOTE = (
    "Net benefit of treating images above a threshold as malignant, in true positives per image; a threshold of 0.2 "
    "says that four false positives are as bad as one missed malignant image. A model is useful where its line is "
    "above both others. Dashed: treat all; dotted: treat none; band: 95 % over cases. It holds for the share of "
    "malignant images of these data, not of a screened population."
)


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit at each threshold of the probability.

    Attributes:
        thresholds: The thresholds, `THRESHOLDS`. Shape (99,).
        net_benefit: Net benefit of treating images as malignant whose probability reaches the threshold. Shape (99,).
        low, high: Pointwise 95 % interval from a bootstrap over cases; nan without bootstrap samples. Shape (99,).
        treat_all: Net benefit of treating every image as malignant; treating none has net benefit 0. Shape (99,).
        prevalence: Case-weighted share of malignant images, on which all net benefits depend.
    """

    thresholds: FloatArray
    net_benefit: FloatArray
    low: FloatArray
    high: FloatArray
    treat_all: FloatArray
    prevalence: float


def decision_curve(predictions: Predictions, draws: IntArray | None = None) -> DecisionCurve:
    """Compute the decision curve of calibrated predictions, with each case weighted equally.

    The net benefit at a threshold t is the share of true positives among all images, minus t/(1 - t) times the share of
    false positives: (1 - t)/t false positives weigh as much as one true positive. Values are averaged over repeats.

    Args:
        predictions: Calibrated predictions. The curve of uncalibrated predictions shows the wrong thresholds.
        draws: Counts from `group_draws`; None for a curve without intervals. Shape (n_draws, n_groups).

    Source:
        Vickers and Elkin, Medical Decision Making 2006.
    """
    draws = None if single_case_class(predictions) else draws
    counts, number = with_observed(predictions.group, draws)
    is_malignant = predictions.label == 1
    odds = THRESHOLDS / (1 - THRESHOLDS)
    curves = np.zeros((len(counts), len(THRESHOLDS)))
    for repeat in range(predictions.n_repeats):
        weight = predictions.weight[repeat] * counts[:, number]
        weight = weight / weight.sum(axis=1, keepdims=True)
        is_treated = (predictions.probability[repeat][:, None] >= THRESHOLDS).astype(np.float64)
        true_positives = (weight * is_malignant) @ is_treated
        false_positives = (weight * ~is_malignant) @ is_treated
        curves += (true_positives - false_positives * odds) / predictions.n_repeats
    low, high = (
        np.quantile(curves[1:], [0.025, 0.975], axis=0) if draws is not None else np.full((2, len(THRESHOLDS)), np.nan)
    )
    prevalence = malignant_share(predictions)
    return DecisionCurve(THRESHOLDS, curves[0], low, high, prevalence - (1 - prevalence) * odds, prevalence)
