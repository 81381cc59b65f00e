"""The comparison's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmarks.engines.judging import WITHIN, Best, band, cost_to_target, median_and_band, regrets
from experiments.benchmarks.engines.pruners import pruned_share
from experiments.benchmarks.engines.replay import Trace
from experiments.benchmarks.engines.rules import shown
from experiments.benchmarks.engines.table import Table

LOOKS = (25, 50, 100, 200)  # trials after which a regret is shown


def recorded_table(tables: Mapping[str, Table]) -> str:
    """What was recorded."""
    lines = [
        "| table | searched | put aside | trials | failed | scores, median and best "
        "| seconds a trial, median and most |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, table in tables.items():
        scores = [entry.score for entry in table.scored]
        seconds = [entry.seconds for entry in table.entries]
        lines.append(
            f"| {name} | {table.facts['searched']} | {table.facts['held_out']} | {len(table.entries)} "
            f"| {len(table.entries) - len(scores)} | {np.median(scores):.3f}, {max(scores):.3f} "
            f"| {np.median(seconds):.2f}, {max(seconds):.1f} |"
        )
    return "\n".join(lines)


def contenders_table(title: str, found: Mapping[str, Sequence[Trace]], best: Best, n_trials: int) -> str:
    """One row per search: regrets, and the cost to the target.

    Args:
        title: Of the first column.
        found: Replays by search.
        best: What regret is measured from.
        n_trials: Of the longest replays.
    """
    looks = [look for look in LOOKS if look <= n_trials]
    last = [look for look in looks if look <= min(100, n_trials)][-1]
    lines = [
        f"| {title} | studies | {' | '.join(f'regret after {look}' for look in looks)} "
        f"| on cases put aside after {last} | trials to within {WITHIN} | seconds to within {WITHIN} | came there "
        "| thinking, ms a trial |",
        f"| --- | --- |{' --- |' * (len(looks) + 5)}",
    ]
    for name, traces in found.items():
        score, held_out = regrets(traces, best, n_trials)
        length = max(len(trace.scores) for trace in traces)
        cells = [_mean(score[:, look - 1]) if look <= length else "" for look in looks]
        cost = cost_to_target(traces, best)
        thinking = 1000 * np.mean([trace.thinking / len(trace.scores) for trace in traces])
        lines.append(
            f"| {name} | {len(traces)} | {' | '.join(cells)} | {_mean(held_out[:, last - 1])} "
            f"| {shown(median_and_band(cost.trials))} | {shown(median_and_band(cost.seconds))} | {cost.share:.0%} "
            f"| {thinking:.1f} |"
        )
    return "\n".join(lines)


def _mean(values: np.ndarray) -> str:
    found = band(values[:, None])
    return f"{found.mean[0]:.4f} ({found.low[0]:.4f} to {found.high[0]:.4f})"


def pruners_table(title: str, found: Mapping[str, Sequence[Trace]], best: Best) -> str:
    """One row per pruner."""
    n_trials = len(next(iter(found.values()))[0].scores)
    lines = [
        f"| {title} | pruned | seconds of all | regret after 25 | after {n_trials} "
        f"| on cases put aside after {n_trials} | trials to within {WITHIN} | seconds to within {WITHIN} "
        "| came there |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, traces in found.items():
        score, held_out = regrets(traces, best, n_trials)
        cost = cost_to_target(traces, best)
        lines.append(
            f"| {name} | {pruned_share(traces):.0%} | {np.mean([trace.clock[-1] for trace in traces]):.0f} "
            f"| {_mean(score[:, min(24, n_trials - 1)])} | {_mean(score[:, -1])} | {_mean(held_out[:, -1])} "
            f"| {shown(median_and_band(cost.trials))} | {shown(median_and_band(cost.seconds))} | {cost.share:.0%} |"
        )
    return "\n".join(lines)
