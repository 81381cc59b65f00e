"""Coverage of the interval of the learning curve over cases, on simulated cases whose truth is known.

    python experiments/benchmarks/learning_curve.py --studies 150

Cases have one image with normally distributed features; the class shifts five of them. The heads are ridge regressions.
The true gain from twice the cases is the difference of the mean AUC of heads that are trained on 1.6 and on 0.8 times
the cases, which are the training sets of five folds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from bhsearch.data.nested_subsets import nested_subsets
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.supplementary.learning_curve import FLAT, GROWS, LearningCurve, learning_curve
from bhsearch.lifecycle.learning_curve.computed import N_FAMILIES, SHARES
from bhsearch.tasks import restore_task

N_FOLDS = 5
N_SHIFTED = 5  # features that differ between the classes
N_TRUTH = 400  # heads whose mean AUC is the truth
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """A kind of simulated study.

    Attributes:
        n_cases: Number of development cases, two fifths of them malignant.
        n_features: Number of features.
        distance: Distance of the class means in standard deviations.
        penalty: Penalty of the ridge regression.
    """

    n_cases: int
    n_features: int
    distance: float
    penalty: float


SETTINGS = (
    Setting(50, 20, 1.2, 50),
    Setting(100, 20, 1.2, 50),
    Setting(110, 100, 2.0, 200),
    Setting(300, 100, 2.0, 200),
    Setting(110, 5, 2.0, 20),
    Setting(110, 20, 0.0, 50),
    Setting(50, 20, 1.2, 1),
    Setting(110, 100, 2.0, 1),
)


def simulated(setting: Setting, n_cases: int, random: np.random.Generator) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Draw features, shape (n_cases, n_features), and classes."""
    label = (np.arange(n_cases) % 5 < 2).astype(np.int8)
    mean = np.zeros(setting.n_features)
    mean[:N_SHIFTED] = setting.distance / np.sqrt(N_SHIFTED)
    return random.normal(size=(n_cases, setting.n_features)) + np.outer(label, mean), label


def weights(setting: Setting, features: Floats, label: npt.NDArray[np.int8]) -> Floats:
    """Return the weights of a ridge regression of the class."""
    centred = features - features.mean(axis=0)
    matrix = centred.T @ centred + setting.penalty * np.eye(setting.n_features)
    return np.asarray(np.linalg.solve(matrix, centred.T @ (label - label.mean())))


def true_auc(setting: Setting, n_cases: int) -> float:
    """Return the mean AUC, on infinitely many cases, of heads that are trained on a number of cases."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(N_TRUTH):
        weight = weights(setting, *simulated(setting, n_cases, random))
        along = weight[:N_SHIFTED].sum() * setting.distance / np.sqrt(N_SHIFTED)
        found.append(norm.cdf(along / np.sqrt(2 * weight @ weight)))
    return float(np.mean(found))


def simulated_curve(setting: Setting, seed: Sequence[int]) -> LearningCurve:
    """Simulate the cases of one study, and compute its learning curve."""
    random = np.random.default_rng(seed)
    features, label = simulated(setting, setting.n_cases, random)
    group, text = np.arange(setting.n_cases), np.full(setting.n_cases, "", dtype=object)
    stratum, fold = label.astype(np.int64), np.zeros(setting.n_cases, np.int8)
    for value in (0, 1):
        members = random.permutation(np.flatnonzero(label == value))
        fold[members] = np.arange(len(members)) % N_FOLDS
    families, sizes = [], []
    for number in range(N_FAMILIES):
        masks = list(nested_subsets(group, stratum, label, fold, SHARES, number).values())
        masks.append(np.ones(setting.n_cases, dtype=bool))
        family = []
        for mask in masks:
            score = np.zeros(setting.n_cases)
            for k in range(N_FOLDS):
                weight = weights(setting, features[mask & (fold != k)], label[mask & (fold != k)])
                score[fold == k] = features[fold == k] @ weight
            probability = 1 / (1 + np.exp(-score[None]))
            family.append(Predictions(label, probability, fold[None], group, stratum, text, text, text, text))
        families.append(family)
        sizes.append([np.mean([(mask & (fold != k)).sum() for k in range(N_FOLDS)]) for mask in masks])
    return learning_curve(families, sizes, restore_task(None))


def main(arguments: Sequence[str] | None = None) -> dict[Setting, list[LearningCurve]]:
    """Print the table, and return the curves of each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=150, help="simulated studies of each kind (150)")
    chosen = parser.parse_args(arguments)
    print("| cases | features | penalty | AUC | true gain | mean estimate | gain covered | grows | flat | falls |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    found = {}
    for row, setting in enumerate(SETTINGS):
        auc, doubled = (true_auc(setting, round(factor * setting.n_cases)) for factor in (0.8, 1.6))
        curves = [simulated_curve(setting, (row, number)) for number in range(chosen.studies)]
        covered = sum(curve.gain_low <= doubled - auc <= curve.gain_high for curve in curves)
        verdicts = [curve.verdict for curve in curves]
        grows, flat = verdicts.count(GROWS), verdicts.count(FLAT)
        print(
            f"| {setting.n_cases} | {setting.n_features} | {setting.penalty:g} | {auc:.3f} | {doubled - auc:.4f} "
            f"| {np.mean([curve.gain for curve in curves]):.4f} | {covered} of {len(curves)} "
            f"| {grows} | {flat} | {len(curves) - grows - flat} |"
        )
        found[setting] = curves
    return found


if __name__ == "__main__":
    main()
