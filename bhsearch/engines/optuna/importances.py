"""Importances of hyperparameters (fANOVA), and their uncertainty by the bootstrap over trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.states import COMPLETE

if TYPE_CHECKING:
    from bhsearch.engines.base import Trial
    from bhsearch.objectives.space import Parameter

FloatArray = npt.NDArray[np.float64]

N_RESAMPLES = 10
_LEAST = 10  # different scores from which importances are computed
_N_TREES, _MOST_DEPTH = 16, 16
_Z = 1.96  # half-width of a 95 % interval in standard deviations


def shares_of(trials: Sequence[Trial], space: Sequence[Parameter], least: int = _LEAST) -> dict[str, float]:
    """Return the fraction of the score's variance explained by each parameter (fANOVA), largest first.

    The values are those of Optuna's `FanovaImportanceEvaluator`. Optuna evaluates a forest in every combination of the
    columns of a parameter, of which a choice among n backbones has 2 to the power of n; here, the variance is a sum
    over pairs of leaves.

    Args:
        trials: Trials of the study; only complete ones are used.
        space: Parameters of the study.
        least: Minimum number of different scores.

    Returns:
        Importance by parameter name; the importances sum to 1. Empty if there are fewer than `least` different scores.

    Source:
        Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML 2014.
    """
    complete = _complete(trials, least)
    return _shares(*_encoded(complete, space), space) if complete else {}


def _encoded(trials: Sequence[Trial], space: Sequence[Parameter]) -> tuple[FloatArray, FloatArray]:
    """Return the parameters of trials as columns, one for each choice or range, and their scores.

    The columns are those of `_columns_of`. Shapes (n_trials, n_columns) and (n_trials,).
    """
    columns: list[Any] = []
    for row in _by_name(space):
        values = [trial.params[row.name] for trial in trials]
        columns += [[value == choice for value in values] for choice in row.choices] if row.choices else [values]
    return np.array(columns, np.float64).reshape(len(columns), -1).T, np.array([trial.value for trial in trials])


def _by_name(space: Sequence[Parameter]) -> list[Parameter]:
    """Return the parameters that vary, in the order of their names, which is that of Optuna."""
    varying = [row for row in space if len(row.choices) > 1 or (not row.choices and row.low < row.high)]
    return sorted(varying, key=lambda row: row.name)


def _shares(features: FloatArray, scores: FloatArray, space: Sequence[Parameter]) -> dict[str, float]:
    """Return the importances; empty if no tree of the forest varies."""
    from sklearn.ensemble import RandomForestRegressor  # imported late: the import takes a second

    varying = _by_name(space)
    ranges = [bounds for row in varying for bounds in ([(0.0, 1.0)] * len(row.choices) or [(row.low, row.high)])]
    ends = np.cumsum([len(row.choices) or 1 for row in varying])
    forest = RandomForestRegressor(n_estimators=_N_TREES, max_depth=_MOST_DEPTH, random_state=0).fit(features, scores)
    parts = [_parts_of_variance(tree.tree_, np.array(ranges), ends) for tree in forest.estimators_]
    known = [part for part in parts if part is not None]
    if not known:
        return {}
    means = np.mean(known, axis=0)
    shares = means / means.sum() if means.sum() > 0 else np.full(len(means), 1 / len(space))
    found = dict.fromkeys((row.name for row in space), 0.0 if means.sum() > 0 else 1 / len(space))
    found |= {row.name: float(share) for row, share in zip(varying, shares, strict=True)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _parts_of_variance(tree: Any, ranges: FloatArray, ends: npt.NDArray[np.int64]) -> FloatArray | None:
    """Return the fraction of the variance of a tree's predictions that each parameter explains alone.

    Args:
        tree: Tree of scikit-learn.
        ranges: Lower and upper end of each column. Shape (n_columns, 2).
        ends: Number of the column after those of each parameter. Shape (n_parameters,).

    Returns:
        Fractions; None if all predictions are equal. Shape (n_parameters,).
    """
    low, high = _boxes(tree, ranges)
    leaves = tree.children_left < 0
    low, high, value = low[leaves], high[leaves], tree.value[leaves, 0, 0]
    shares = high - low  # of the range of each column
    volume = shares.prod(axis=1)
    value = value - volume @ value
    variance = float(volume @ value**2)
    if variance <= 0:
        return None
    found = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        others = np.delete(shares, np.s_[start:end], axis=1).prod(axis=1)
        explained = _explained(low[:, start:end], high[:, start:end], value * others)
        found.append(max(explained, 0.0) / variance)
    return np.array(found)


def _boxes(tree: Any, ranges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the corners of the box of each node, in the unit cube. Two arrays of shape (n_nodes, n_columns)."""
    low, high = np.zeros((tree.node_count, len(ranges))), np.ones((tree.node_count, len(ranges)))
    width = ranges[:, 1] - ranges[:, 0]
    nodes = np.array([0])
    while len(nodes := nodes[tree.children_left[nodes] >= 0]):  # the nodes of one depth that are split
        left, right, column = tree.children_left[nodes], tree.children_right[nodes], tree.feature[nodes]
        for child in (left, right):
            low[child], high[child] = low[nodes], high[nodes]
        at = (tree.threshold[nodes] - ranges[column, 0]) / width[column]
        high[left, column] = low[right, column] = at
        nodes = np.concatenate([left, right])
    return low, high


def _explained(low: FloatArray, high: FloatArray, weight: FloatArray) -> float:
    """Return the variance of the mean prediction as a function of one parameter; the mean of all predictions is 0.

    Args:
        low: Lower ends of each leaf in the columns of the parameter. Shape (n_leaves, n_columns).
        high: Upper ends. Shape (n_leaves, n_columns).
        weight: Prediction of each leaf times its volume in the other columns. Shape (n_leaves,).
    """
    if low.shape[1] == 1:
        edges, place = np.unique(np.concatenate([low[:, 0], high[:, 0]]), return_inverse=True)
        steps = np.bincount(place, np.concatenate([weight, -weight]), minlength=len(edges))
        return float(np.diff(edges) @ np.cumsum(steps)[:-1] ** 2)
    boxes, place = np.unique(np.concatenate([low, high], axis=1), axis=0, return_inverse=True)
    total = np.bincount(place.ravel(), weight)
    low, high = np.split(boxes, 2, axis=1)
    overlap = np.ones((len(boxes), len(boxes)))
    for column in range(low.shape[1]):
        ends = np.minimum.outer(high[:, column], high[:, column]) - np.maximum.outer(low[:, column], low[:, column])
        overlap *= np.maximum(ends, 0.0)
    return float(total @ overlap @ total)


def _complete(trials: Sequence[Trial], least: int) -> list[Trial]:
    """Return the complete trials; none if they have fewer than `least` different scores."""
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.value is not None]
    return complete if len({trial.value for trial in complete}) >= least else []


def importance_spread(
    trials: Sequence[Trial], space: Sequence[Parameter], progress: Progress | None = None, seed: int = 0
) -> dict[str, float]:
    """Return the half-width of the 95 % bootstrap interval of each importance, here called its spread.

    Trials are resampled with replacement, and the importances of every resample are computed with `shares_of`. An
    importance that is not larger than its spread cannot be distinguished from 0.

    Args:
        trials: Trials of the study; only complete ones are used.
        space: Parameters of the study.
        progress: Called with the number of finished resamples and the number of all resamples.
        seed: Random seed of the resampling.

    Returns:
        Spread by parameter name, at least 0, in the unit of the importance. Empty if `shares_of` returns an empty dict.
    """
    complete = _complete(trials, _LEAST)
    if not complete:
        return {}
    random = np.random.default_rng(seed)
    found: list[dict[str, float]] = []
    features, scores = _encoded(complete, space)
    for done in range(1, N_RESAMPLES + 1):
        drawn = random.integers(len(complete), size=len(complete))
        shares = _shares(features[drawn], scores[drawn], space)
        if shares:  # empty if all drawn trials have the same score
            found.append(shares)
        if progress is not None:
            progress(done, N_RESAMPLES)
    names = sorted({name for shares in found for name in shares})
    return {name: _Z * float(np.std([shares.get(name, 0.0) for shares in found], ddof=1)) for name in names}
