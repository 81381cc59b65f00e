"""Greedy ensemble selection: members are added one by one, with replacement."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.metrics import MetricFunction, epoch_scores
from bhsearch.evaluation.predictions import FloatArray, LabelArray

N_STEPS = 25


def greedy_weights(
    probability: FloatArray,
    label: LabelArray,
    fold: npt.NDArray[np.int8],
    weight: FloatArray,
    function: MetricFunction,
    n_steps: int = N_STEPS,
) -> FloatArray:
    """Select members whose mean probability has the best score.

    Each step adds the member that gives the best score of the mean, which may be a member that was added before. The
    weights are those of the step with the best score; the smallest ensemble, if several are equally good.

    Args:
        probability: P(malignant) of each member. Shape (n_members, n_images).
        label: 0 or 1. Shape (n_images,).
        fold: Fold of each image. The score is the mean over folds. Shape (n_images,).
        weight: Weight of each image. Shape (n_images,).
        function: Weighted metric; see `metrics.score_function`.
        n_steps: Maximum number of selections, at least 1.

    Returns:
        Share of each member in the selections; the sum is 1. Shape (n_members,).

    Source:
        Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models", ICML 2004.
    """
    count, total = np.zeros(len(probability)), np.zeros(probability.shape[1])
    best, weights = -np.inf, count
    for step in range(1, n_steps + 1):
        candidates = ((total + probability) / step)[:, None, :]
        scores = epoch_scores(candidates, label, fold[None], weight[None], function)
        chosen = int(np.argmax(scores))
        count = count + (np.arange(len(count)) == chosen)
        total = total + probability[chosen]
        if scores[chosen] > best + 1e-9:
            best, weights = float(scores[chosen]), count / step
    return np.asarray(weights)
