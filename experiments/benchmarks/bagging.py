"""Bags of heads against single heads: which score ranks trials better, and which deployed model is better.

    python experiments/benchmarks/bagging.py --data ../shared/data/idc

Each split puts a third of the cases aside. On the other cases, random trials are trained twice. Today, a trial has one
head per fold; its score is that of these heads, and the deployed model is their mean. With bags, a trial has several
heads per fold, each trained without another part of the fold's training cases; the score of a fold is that of the mean
of its heads, and the deployed model is the mean of all heads. Both are compared with the AUC of their own deployed
model on the cases put aside.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ensembles import data_parser, development, mean_and_half_width, on_test, opened, put_aside, weights_of
from optuna.storages import InMemoryStorage
from scipy.stats import spearmanr

from bhsearch.data.dataset import Dataset
from bhsearch.data.stratify import assign_folds
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.errors import BhsearchError
from bhsearch.evaluation.calibration import fit_calibration, logit
from bhsearch.evaluation.metrics import weighted_auc
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache, FeatureSubset
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.scoring import ValidationFolds, sigmoid
from bhsearch.objectives.space import Params, frozen_space
from bhsearch.tasks.binary import BinaryTask

Floats = npt.NDArray[np.floating]
KINDS = ("linear", "hidden")


class Bags(ValidationFolds):
    """Training images of several heads per fold, each of which leaves out another part of the training groups.

    Args:
        template: Labels, folds and groups of the images, with one repeat.
        n_bags: Number of heads per fold, at least 2.
    """

    def __init__(self, template: Predictions, n_bags: int) -> None:
        super().__init__(template.fold)
        self._n_bags, training, rows = n_bags, self.training, self.padded
        groups, number = np.unique(template.group, return_inverse=True)
        first = np.unique(template.group, return_index=True)[1]
        masks = []
        for k, mask in enumerate(training):
            inside = np.unique(number[mask])
            part = np.full(len(groups), -1, np.int64)
            strata = template.stratum[first][inside]
            part[inside] = assign_folds([f"{k}/{group}" for group in groups[inside]], strata, n_bags, 1)[0]
            masks += [mask & (part[number] != bag) for bag in range(n_bags)]
        self.training = np.stack(masks)
        self.padded = np.repeat(rows, n_bags, axis=0)

    def scatter(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the logits of the mean probability of the heads of each fold. Shape (n_repeats, n_images)."""
        by_fold = sigmoid(logits).reshape(-1, self._n_bags, logits.shape[-1]).mean(axis=1)
        return super().scatter(logit(by_fold, 1e-7).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Trained:
    """Trials of one split that were trained in one way.

    Attributes:
        score: Out-of-fold AUC of each trial. Shape (n_trials,).
        auc: AUC of each deployed model on the cases put aside. Shape (n_trials,).
        slope: Calibration slope of each deployed model on these cases. Shape (n_trials,).
    """

    score: Floats
    auc: Floats
    slope: Floats


def points(backbones: Sequence[str], n_trials: int, seed: int, hidden: bool) -> list[Params]:
    """Return random parameters of trials with linear heads, or with a hidden layer."""
    storage = open_study(InMemoryStorage(), "bagging", {})
    engine, found = OptunaEngine(storage, frozen_space(tuple(backbones)), "random", seed), []
    while len(found) < n_trials:
        trial = engine.ask()
        engine.complete(trial.number, 0.5, 0.0)
        if (trial.params["hidden_units"] > 0) == hidden:
            found.append(trial.params)
    return found


def train(
    index: Dataset,
    features: FeatureCache,
    backbones: dict[str, Backbone],
    split: int,
    trials: Sequence[Params],
    options: argparse.Namespace,
    bagged: bool,
) -> Trained:
    """Train and score trials on the cases of a split that are not put aside, and score the deployed models."""
    test = put_aside(index, split)
    template = development(index.select(~test), options.folds)
    inside, outside = FeatureSubset(features, ~test), FeatureSubset(features, test)
    held_out = Bags(template, options.bags) if bagged else None
    facts = inside, backbones, template.label, template.fold, template.group, split
    objective = FrozenObjective(*facts, task=BinaryTask(), held_out=held_out)
    label, weight = index.labels[test], weights_of(index, test)
    rows = []
    for params in trials:
        result = objective(params)
        deployed = on_test(result, outside, backbones, params).mean(axis=0)
        slope = fit_calibration(deployed, label, weight).slope
        rows.append((result.score, float(weighted_auc(label, deployed, weight)), slope))
    return Trained(*np.array(rows).T)


@dataclass(frozen=True)
class Outcome:
    """Bags against single heads on one split; each number is of single heads and of bags.

    Attributes:
        rank: Spearman correlation over trials between the score and the AUC of the deployed model.
        auc: Mean AUC of the deployed models on the cases put aside.
        slope: Mean distance of the calibration slope of the deployed models from 1.
    """

    rank: tuple[float, float]
    auc: tuple[float, float]
    slope: tuple[float, float]


def outcome(single: Trained, bags: Trained) -> Outcome:
    """Compare the same trials, trained in both ways."""
    both = single, bags
    ranks, aucs, slopes = (
        [float(of(each)) for each in both]
        for of in (
            lambda each: spearmanr(each.score, each.auc).statistic,
            lambda each: each.auc.mean(),
            lambda each: np.abs(each.slope - 1).mean(),
        )
    )
    return Outcome((ranks[0], ranks[1]), (aucs[0], aucs[1]), (slopes[0], slopes[1]))


HEAD = (
    "| heads | Spearman, single | bags | difference | AUC, single | bags | difference | slope from 1, single | bags "
    "| difference |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """Return a row of the table."""
    cells = [name]
    for of in ("rank", "auc", "slope"):
        values = np.array([getattr(each, of) for each in outcomes])
        mean, half = mean_and_half_width(values[:, 1] - values[:, 0])
        cells += [f"{value:.3f}" for value in values.mean(axis=0)]
        cells.append(f"{mean:+.4f} [{mean - half:+.4f} {mean + half:+.4f}]")
    return f"| {' | '.join(cells)} |"


def outcomes(options: argparse.Namespace) -> Iterator[tuple[str, Outcome]]:
    """Compare both ways on each split, for linear heads and for heads with a hidden layer."""
    index, features, backbones = opened(options)
    for split in range(options.splits):
        for kind in KINDS:
            trials = points(tuple(backbones), options.trials, split, kind == "hidden")
            single, bags = (train(index, features, backbones, split, trials, options, way) for way in (False, True))
            yield kind, outcome(single, bags)


def parser() -> argparse.ArgumentParser:
    made = data_parser(__doc__)
    made.add_argument("--splits", type=int, default=10, help="(10)")
    made.add_argument("--bags", type=int, default=4, help="heads per fold (4)")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Outcome]]:
    """Print the table, and return the outcomes of each kind of head."""
    options = parser().parse_args(arguments)
    started = time.monotonic()
    found: dict[str, list[Outcome]] = {kind: [] for kind in KINDS}
    try:
        for kind, one in outcomes(options):
            found[kind].append(one)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(HEAD)
    for kind, each in found.items():
        print(row(kind, each))
    print(f"\n{options.splits} splits of {options.trials} trials of each kind in {time.monotonic() - started:.0f} s")
    return found


if __name__ == "__main__":
    main()
