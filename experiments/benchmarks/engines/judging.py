"""What replayed studies are judged by: regret on the score and on the cases put aside, and cost to a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.engines.replay import Trace
from experiments.benchmarks.engines.table import Entry

Array = npt.NDArray[np.float64]
WITHIN = 0.005  # of the best score is the target
N_DRAWS = 2000  # of the bootstrap over seeds


@dataclass(frozen=True)
class Band:
    """Mean over seeds, and a 95 % bootstrap interval of it, along an axis. Each of shape (n,)."""

    mean: Array
    low: Array
    high: Array


def band(values: Array) -> Band:
    """Mean over seeds with its interval. `values`: shape (n_seeds, n)."""
    random = np.random.default_rng(0)
    n_seeds = len(values)
    weights = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), N_DRAWS) / n_seeds
    low, high = np.quantile(weights @ values, [0.025, 0.975], axis=0)
    return Band(values.mean(axis=0), low, high)


@dataclass(frozen=True)
class Best:
    """The best that there is in a table.

    Attributes:
        score: Best score.
        held_out: Best score on the cases put aside.
    """

    score: float
    held_out: float


def best_of(entries: Sequence[Entry]) -> Best:
    """Return the best scores of recorded trials."""
    return Best(max(entry.score for entry in entries), max(entry.held_out for entry in entries))


def regrets(traces: Sequence[Trace], best: Best, n_trials: int) -> tuple[Array, Array]:
    """By how much the best so far falls short: on the score, and what it gives on the cases put aside.

    A study that ended early stays where it was. Each of shape (n_seeds, n_trials).
    """
    score = np.stack([_stretched(best.score - trace.best(), n_trials) for trace in traces])
    held_out = np.stack([_stretched(best.held_out - trace.best_held_out(), n_trials) for trace in traces])
    return score, held_out


def _stretched(values: Array, length: int) -> Array:
    return np.concatenate([values[:length], np.repeat(values[-1:], max(length - len(values), 0))])


def at_seconds(traces: Sequence[Trace], regret: Array, seconds: Array) -> Array:
    """Regret at moments of the simulated clock; nan before a study's first trial. Shape (n_seeds, n_moments)."""
    found = np.full((len(traces), len(seconds)), np.nan)
    for row, trace in enumerate(traces):
        done = np.searchsorted(trace.clock, seconds, side="right")
        found[row] = np.where(done > 0, regret[row, np.clip(done - 1, 0, regret.shape[1] - 1)], np.nan)
    return found


@dataclass(frozen=True)
class Cost:
    """What coming within `WITHIN` of the best took, over seeds; inf for a study that did not come there.

    Attributes:
        trials: Shape (n_seeds,).
        seconds: On the simulated clock. Shape (n_seeds,).
    """

    trials: Array
    seconds: Array

    @property
    def share(self) -> float:
        """Of the seeds that came there."""
        return float(np.isfinite(self.trials).mean())


def cost_to_target(traces: Sequence[Trace], best: Best, within: float = WITHIN) -> Cost:
    """Trials and seconds until the best so far was near enough to the best."""
    trials, seconds = np.full(len(traces), np.inf), np.full(len(traces), np.inf)
    for row, trace in enumerate(traces):
        there = np.flatnonzero(trace.best() >= best.score - within)
        if len(there):
            trials[row], seconds[row] = there[0] + 1, trace.clock[there[0]]
    return Cost(trials, seconds)


def median_and_band(values: Array) -> tuple[float, float, float]:
    """Median over seeds and a 95 % bootstrap interval of it; inf where half of the seeds did not come there."""
    random = np.random.default_rng(0)
    drawn = np.sort(values[random.integers(0, len(values), (N_DRAWS, len(values)))], axis=1)
    medians = np.sort(drawn[:, len(values) // 2])  # the upper one of two: no mean with infinity
    middle = float(np.sort(values)[len(values) // 2])
    return middle, float(medians[int(0.025 * N_DRAWS)]), float(medians[int(0.975 * N_DRAWS)])
