"""A surrogate for the recorded trials: score, score on the cases put aside, and seconds at any point of the space.

A Gaussian process for each of the three, with a length scale per parameter, over the recorded trials of a table. On
these tables it was less than half as far off in the median as forests or boosted trees. What is left is measured by
cross-validation, and where it counts most, near the top, on its own.

Scores are learnt by their rank among the recorded ones, so that no point promises more than was ever recorded: a search
must not be judged by how well it finds what the surrogate makes up.

    python -m experiments.benchmarks.engines.surrogate --table experiments/benchmarks/engines/table.json.gz
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold

from bhsearch.objectives.space import Parameter, Params, frozen_space
from experiments.benchmarks.engines import table
from experiments.benchmarks.engines.table import Entry, Table

Array = npt.NDArray[np.float64]
Scales = dict[str, list[float]]  # logarithms of a kernel's parameters, by what it is the kernel of
TARGETS = ("score", "held_out", "seconds")
TOP = 0.1  # share of the trials that count as near the top
_SHORTEST = 1e-3  # seconds
_FITTED_TO = 800  # trials that the length scales are fitted to; the process itself takes all of them
_N_PARTS = 10  # of the cross-validation


@dataclass(frozen=True)
class Answer:
    """What a replayed trial gives.

    Attributes:
        score: On the folds; None where it fails.
        held_out: On the cases put aside.
        seconds: Processor seconds, features not counted.
    """

    score: float | None
    held_out: float
    seconds: float


class Surrogate:
    """Fitted to a table.

    Args:
        space: Of the table.
        entries: Trials that did not fail.
        scales: Of the kernels, from `fitted_scales`.
    """

    def __init__(self, space: Sequence[Parameter], entries: Sequence[Entry], scales: Scales) -> None:
        self._space = tuple(space)
        points = self.encoded([entry.params for entry in entries])
        self._models = {}
        for name in TARGETS:
            kernel = _kernel(points.shape[1])
            kernel.theta = np.array(scales[name])
            model = GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True)
            measure = _measure(name, entries)
            self._models[name] = model.fit(points, measure.learnt(_values(name, entries))), measure

    def encoded(self, points: Sequence[Params]) -> Array:
        """Points as rows of numbers; see `encoded`."""
        return encoded(self._space, points)

    def predict(self, points: Sequence[Params]) -> Array:
        """Score, held-out score and seconds. Shape (n_points, 3)."""
        rows = self.encoded(points)
        return np.column_stack([measure.meant(model.predict(rows)) for model, measure in self._models.values()])

    def __call__(self, params: Params) -> Answer:
        """The answer at one point."""
        score, held_out, seconds = map(float, self.predict([params])[0])
        return Answer(score, held_out, seconds)


def encoded(space: Sequence[Parameter], points: Sequence[Params]) -> Array:
    """Points as rows of numbers from 0 to 1: names one by one, ranges as they are sampled; without what has no effect.

    Args:
        space: Its parameters.
        points: In it.

    Returns:
        Shape (n_points, n_columns).
    """
    return np.array([_row(space, _levelled(params)) for params in points])


def _row(space: Sequence[Parameter], params: Params) -> list[float]:
    row: list[float] = []
    for parameter in space:
        value = params[parameter.name]
        if parameter.choices and not all(isinstance(each, (int, float)) for each in parameter.choices):
            row += [float(value == choice) for choice in parameter.choices]
        elif parameter.choices:
            row.append(float(value) / max(1.0, *map(float, parameter.choices)))
        elif parameter.log:
            row.append(float(np.log(value / parameter.low) / np.log(parameter.high / parameter.low)))
        else:
            row.append((float(value) - parameter.low) / (parameter.high - parameter.low))
    return row


def _levelled(params: Params) -> Params:
    """With the policy `none` there is one view, whatever their number and whether they are averaged."""
    return params | {"views": 1, "tta": False} if params.get("policy") == "none" else params


class _Seconds:
    """Learnt as logarithms."""

    @staticmethod
    def learnt(values: Array) -> Array:
        return np.log(np.maximum(values, _SHORTEST))

    @staticmethod
    def meant(learnt: Array) -> Array:
        return np.exp(learnt)


class _Ranks:
    """Learnt as the normal deviates of their ranks.

    Args:
        values: All that were recorded.
    """

    def __init__(self, values: Array) -> None:
        self._values, ranks, counts = np.unique(values, return_inverse=True, return_counts=True)
        order = np.argsort(np.argsort(values, kind="stable"))
        deviates = norm.ppf((order + 0.5) / len(values))
        self._deviates = np.bincount(ranks, deviates) / counts  # one for all that are the same

    def learnt(self, values: Array) -> Array:
        return np.interp(values, self._values, self._deviates)

    def meant(self, learnt: Array) -> Array:
        return np.interp(learnt, self._deviates, self._values)


def _measure(name: str, entries: Sequence[Entry]) -> _Seconds | _Ranks:
    return _Seconds() if name == "seconds" else _Ranks(_values(name, entries))


def _values(name: str, entries: Sequence[Entry]) -> Array:
    return np.array([getattr(entry, name) for entry in entries], float)


def _kernel(n_columns: int) -> ConstantKernel:
    scales = Matern(np.full(n_columns, 2.0), (0.1, 100.0), nu=1.5)
    return ConstantKernel(1.0) * scales + WhiteKernel(0.05, (1e-3, 1.0))


def fitted_scales(space: Sequence[Parameter], entries: Sequence[Entry], most: int = _FITTED_TO) -> Scales:
    """Length scales by maximum likelihood, on some of the trials: it takes minutes, so that the table keeps them."""
    chosen = np.random.default_rng(0).permutation(len(entries))[:most]
    some = [entries[k] for k in sorted(chosen)]
    points = encoded(space, [entry.params for entry in some])
    found = {}
    for name in TARGETS:
        model = GaussianProcessRegressor(_kernel(points.shape[1]), normalize_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter without effect has a scale at its bound
            model.fit(points, _measure(name, entries).learnt(_values(name, some)))
        found[name] = [round(float(value), 4) for value in model.kernel_.theta]
    return found


@dataclass(frozen=True)
class Error:
    """How far a surrogate is off, on trials that it was not fitted to.

    Attributes:
        rmse: Root mean square error.
        spread: Standard deviation of what is predicted.
        median: Median of the absolute error.
        rank: Spearman's correlation of predicted and recorded.
        top_rmse: Error over the best tenth of the recorded trials.
        top_bias: Predicted less recorded, over them.
    """

    rmse: float
    spread: float
    median: float
    rank: float
    top_rmse: float
    top_bias: float


def cross_validated(space: Sequence[Parameter], entries: Sequence[Entry], scales: Scales) -> dict[str, Error]:
    """Errors of score, held-out score and log seconds; the length scales are those of all trials."""
    predicted = np.empty((len(entries), 3))
    for fitted, left_out in KFold(min(_N_PARTS, len(entries)), shuffle=True, random_state=0).split(entries):
        model = Surrogate(space, [entries[k] for k in fitted], scales)
        predicted[left_out] = model.predict([entries[k].params for k in left_out])
    recorded = np.array([[entry.score, entry.held_out, max(entry.seconds, _SHORTEST)] for entry in entries], float)
    predicted[:, 2], recorded[:, 2] = np.log(predicted[:, 2]), np.log(recorded[:, 2])
    names = ("score", "held-out score", "log seconds")
    return {name: _error(predicted[:, k], recorded[:, k]) for k, name in enumerate(names)}


def _error(predicted: Array, recorded: Array) -> Error:
    off = predicted - recorded
    top = recorded >= np.quantile(recorded, 1 - TOP)
    return Error(
        float(np.sqrt(np.mean(off**2))),
        float(recorded.std()),
        float(np.median(np.abs(off))),
        float(spearmanr(predicted, recorded).statistic),
        float(np.sqrt(np.mean(off[top] ** 2))),
        float(off[top].mean()),
    )


def space_of(found: Table) -> tuple[Parameter, ...]:
    """The frozen space that a table was recorded from."""
    return frozen_space(tuple(found.facts["backbones"]))


HEAD = (
    "| table | surrogate of | trials | spread | RMSE | median error | rank correlation | RMSE, best tenth "
    "| bias, best tenth |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def surrogate_of(found: Table) -> Surrogate:
    """The surrogate of a frozen table."""
    return Surrogate(space_of(found), found.scored, found.scales)


def rows(found: Table) -> str:
    """A table's rows of errors."""
    errors = cross_validated(space_of(found), found.scored, found.scales)
    return "\n".join(
        f"| {found.name} | {name} | {len(found.scored)} | {e.spread:.4f} | {e.rmse:.4f} | {e.median:.4f} "
        f"| {e.rank:.3f} | {e.top_rmse:.4f} | {e.top_bias:+.4f} |"
        for name, e in errors.items()
    )


def main(arguments: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--table", type=Path, default=table.FILE, help=f"the table ({table.FILE.name} beside this)")
    options = made.parse_args(arguments)
    print(HEAD)
    for found in table.read(options.table).values():
        if found.facts["regime"] == "frozen":
            print(rows(found), flush=True)


if __name__ == "__main__":
    main()
