"""Which trial to propose: the best score, the cheapest tied trial, or the winner of a race on further divisions.

    python experiments/benchmarks/racing.py --studies 150
    python experiments/benchmarks/racing.py --features features.npz --studies 24

A study has 50 trials: ridge regressions on the features of several encoders, or on random hidden units of these, with
several penalties. Each rule selects a trial by its out-of-fold AUC on 75 cases. The truth is the AUC of the deployed
model, the mean of the heads of the first division, on cases that were put aside: 2,000 simulated ones, or a third of
the cases of a file with the arrays `label`, `group` and one array of features per encoder, named `<encoder>|identity`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from bhsearch.data.stratify import assign_folds
from bhsearch.evaluation.bootstrap import bootstrap_auc, group_draws
from bhsearch.evaluation.metrics import score, weighted_auc
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.proposal import proposed, spread_of_differences
from bhsearch.study.outcome.selection import N_RACED
from bhsearch.tasks.binary import BinaryTask

TASK = BinaryTask()
N_FOLDS, N_DIVISIONS, N_TRIALS, N_DRAWS = 5, 6, 50, 300
N_CASES, N_OUTSIDE, N_HIDDEN, N_SEEDS = 75, 2000, 32, 3
PENALTIES = 10.0 ** np.arange(-3.0, 2.0, 0.5)
NOISE = (1.0, 1.05, 1.1, 1.2, 1.3, 1.5)  # of the simulated encoders, the dearest first
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cases:
    """Images with their features.

    Attributes:
        label: 0 or 1. Shape (n_images,).
        group: Group of each image, from 0. Shape (n_images,).
        features: Features by encoder, the cheapest encoder first. Shape (n_images, n_features) each.
    """

    label: Ints
    group: Ints
    features: dict[str, Floats]

    def select(self, rows: npt.NDArray[np.bool_]) -> Cases:
        """Return the images of a mask, with their groups numbered from 0."""
        group = np.unique(self.group[rows], return_inverse=True)[1]
        return Cases(self.label[rows], group, {name: found[rows] for name, found in self.features.items()})

    @property
    def stratum(self) -> Ints:
        """Stratum of each group: its classes. Shape (n_groups,)."""
        has = [np.bincount(self.group, self.label == value) > 0 for value in (0, 1)]
        return np.asarray(has[0] + 2 * has[1], dtype=np.int64)


def simulated(seed: int) -> tuple[Cases, Cases]:
    """Return simulated cases for the search, and the cases put aside; every case has one image."""
    rng = np.random.default_rng(seed)
    n = N_CASES + N_OUTSIDE
    label = np.concatenate([np.arange(N_CASES) % 2, np.arange(N_OUTSIDE) % 2])
    signal = rng.normal(size=(n, 6)) + 0.75 * label[:, None]
    features = {}
    for number, noise in reversed(list(enumerate(NOISE))):
        mixed = signal @ rng.normal(size=(6, 30)) / np.sqrt(6)
        features[f"encoder {number}"] = mixed + noise * rng.normal(size=mixed.shape)
    cases, inside = Cases(label, np.arange(n), features), np.arange(n) < N_CASES
    return cases.select(inside), cases.select(~inside)


def from_file(file: Path, seed: int) -> tuple[Cases, Cases]:
    """Return the cases of a file without a random third, and this third."""
    with np.load(file) as kept:
        names = [name for name in kept.files if name.endswith("|identity")]
        group = np.unique(kept["group"], return_inverse=True)[1]
        ordered = sorted(names, key=lambda name: kept[name].shape[1])  # larger encoders have more features here
        found = {name: kept[name].astype(np.float64) for name in ordered}
        cases = Cases(kept["label"].astype(np.int64), group, found)
    rng, aside = np.random.default_rng(seed), np.zeros(group.max() + 1, dtype=bool)
    for value in np.unique(cases.stratum):
        members = rng.permutation(np.flatnonzero(cases.stratum == value))
        aside[members[: round(len(members) / 3)]] = True
    return cases.select(~aside[group]), cases.select(aside[group])


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials of a study.

    Attributes:
        predictions: Out-of-fold predictions on all divisions.
        truth: AUC of the deployed model on the cases put aside. Shape (n_trials,).
        cost: Cost of the encoder. Shape (n_trials,).
    """

    predictions: list[Predictions]
    truth: Floats
    cost: Floats


def study(cases: Cases, outside: Cases, seed: int) -> Trials:
    """Run a random search and return its trials."""
    rng = np.random.default_rng(seed)
    keys = [f"{seed} {number}" for number in range(cases.group.max() + 1)]
    fold = assign_folds(keys, cases.stratum, N_FOLDS, N_DIVISIONS)[:, cases.group]
    weight = 1.0 / np.bincount(outside.group)[outside.group]
    points = [(name, kind) for name in cases.features for kind in range(1 + N_SEEDS)]
    chosen = rng.choice(len(points) * len(PENALTIES), N_TRIALS, replace=False)
    found, truth, cost = [], [], []
    for place, (name, kind) in enumerate(points):
        mine = [int(number) % len(PENALTIES) for number in chosen if number // len(PENALTIES) == place]
        if not mine:
            continue
        inside, beyond = hidden(cases.features[name], outside.features[name], kind, seed)
        for probability, deployed in heads(inside, beyond, cases, fold, PENALTIES[mine]):
            found.append(joined(cases, fold, probability))
            truth.append(float(weighted_auc(outside.label, deployed, weight)))
            cost.append(1.0 + list(cases.features).index(name))
    return Trials(found, np.array(truth), np.array(cost))


def hidden(inside: Floats, beyond: Floats, kind: int, seed: int) -> tuple[Floats, Floats]:
    """Return the features themselves for kind 0, else random hidden units of them."""
    if not kind:
        return inside, beyond
    rng = np.random.default_rng([seed, kind])
    kernel, bias = rng.normal(size=(inside.shape[1], N_HIDDEN)), rng.normal(size=N_HIDDEN)
    mean, spread = inside.mean(axis=0), inside.std(axis=0) + 1e-9
    inside, beyond = ((each - mean) / spread / np.sqrt(inside.shape[1]) for each in (inside, beyond))
    return np.maximum(inside @ kernel + bias, 0), np.maximum(beyond @ kernel + bias, 0)


def heads(
    inside: Floats, beyond: Floats, cases: Cases, fold: npt.NDArray[np.int8], penalties: Floats
) -> Iterator[tuple[Floats, Floats]]:
    """Yield out-of-fold probabilities on all divisions and those of the deployed model, for each penalty."""
    by_case = 1.0 / np.bincount(cases.group)[cases.group]
    probability = np.zeros((len(penalties), *fold.shape))
    deployed = np.zeros((len(penalties), len(beyond)))
    for division in range(len(fold)):
        for k in range(N_FOLDS):
            rows = fold[division] == k
            weight = by_case * ~rows
            classes = [weight * (cases.label == value) for value in (0, 1)]
            weight = classes[0] / classes[0].sum() / 2 + classes[1] / classes[1].sum() / 2
            mean = weight @ inside
            spread = np.sqrt(weight @ (inside - mean) ** 2) + 1e-6
            scaled = (inside - mean) / spread
            values, vectors = np.linalg.eigh((scaled * weight[:, None]).T @ scaled)
            target = vectors.T @ (scaled.T @ (weight * (2.0 * cases.label - 1)))
            for number, penalty in enumerate(penalties):
                kernel = vectors @ (target / (values.clip(0) + penalty)) / spread
                probability[number, division, rows] = expit(3 * (inside[rows] - mean) @ kernel)
                if division == 0:
                    deployed[number] += expit(3 * (beyond - mean) @ kernel) / N_FOLDS
    yield from zip(probability, deployed, strict=True)


def joined(cases: Cases, fold: npt.NDArray[np.int8], probability: Floats) -> Predictions:
    """Return probabilities with the columns of their images."""
    n = len(cases.label)
    texts = np.full(n, "", dtype=object)
    return Predictions(
        label=cases.label.astype(np.int8),
        probability=probability.astype(np.float32),
        fold=fold,
        group=cases.group,
        stratum=cases.stratum[cases.group],
        path=np.array([str(number) for number in range(n)], dtype=object),
        case=cases.group.astype(str).astype(object),
        subtype=texts,
        magnification=texts,
    )


def on(predictions: Predictions, n_divisions: int) -> Predictions:
    """Return the predictions on the first divisions."""
    first = slice(n_divisions)
    return Predictions(
        **{**vars(predictions), **{name: getattr(predictions, name)[first] for name in ("fold", "probability")}}
    )


def choose(trials: Trials, members: Ints, n_divisions: int, ties: bool) -> int:
    """Return the number of the trial that is selected among members by their scores on the first divisions."""
    known = [on(trials.predictions[member], n_divisions) for member in members]
    scores = np.array([score(each, TASK) for each in known])
    if not ties:
        return int(members[scores.argmax()])
    draws = group_draws(known[0].group, known[0].stratum, N_DRAWS)
    spread = spread_of_differences(np.stack([bootstrap_auc(each, draws) for each in known]))
    return int(members[proposed(scores[:, None], spread, trials.cost[members])[:, 0].argmax()])


def rules(trials: Trials) -> dict[str, int]:
    """Return the number of the selected trial by rule."""
    everyone = np.arange(len(trials.predictions))
    scores = np.array([score(on(each, 1), TASK) for each in trials.predictions])
    five = np.argsort(-scores, kind="stable")[:N_RACED]
    found = {"best": choose(trials, everyone, 1, False), "proposed": choose(trials, everyone, 1, True)}
    for further in (1, 3, 5):
        found[f"race {further}"] = choose(trials, five, 1 + further, False)
        found[f"race {further}, proposed"] = choose(trials, five, 1 + further, True)
    found["repeats 6"] = choose(trials, everyone, N_DIVISIONS, False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=150, help="number of studies")
    parser.add_argument("--features", type=Path, help="file with features; without it, cases are simulated")
    parser.add_argument("--first", type=int, default=0, help="random seed of the first study")
    given = parser.parse_args()
    gains: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for seed in range(given.first, given.first + given.studies):
        parts = simulated(seed) if given.features is None else from_file(given.features, seed)
        trials = study(*parts, seed)
        found = rules(trials)
        for rule, number in found.items():
            gains.setdefault(rule, []).append(float(trials.truth[number] - trials.truth[found["best"]]))
            costs.setdefault(rule, []).append(float(trials.cost[number]))
    print(
        "| rule | AUC minus that of the best score | standard error | mean cost |",
        "| --- | --- | --- | --- |",
        sep="\n",
    )
    for rule, values in gains.items():
        error = np.std(values) / np.sqrt(len(values))
        print(f"| {rule} | {np.mean(values):+.4f} | {error:.4f} | {np.mean(costs[rule]):.1f} |")


if __name__ == "__main__":
    main()
