"""The comparison's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.benchmarks.engines.judging import (
    WITHIN,
    Best,
    at_seconds,
    band,
    cost_to_target,
    median_and_band,
    regrets,
)
from experiments.benchmarks.engines.points import levelled
from experiments.benchmarks.engines.pruners import pruned_share
from experiments.benchmarks.engines.replay import Trace
from experiments.benchmarks.engines.rules import shown
from experiments.benchmarks.engines.table import Table

LOOKS = (10, 25, 50, 100)  # trials after which a regret is shown
MOMENTS = (5, 10, 20, 40, 80, 160)  # simulated seconds after which a regret is shown


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


def costs_table(tables: Sequence[Table]) -> str:
    """Return the processor seconds of features and of heads, per table and backbone."""
    lines = [
        "| table | backbone | features of a view, mean | features of all views | linear heads without augmentation "
        "| all linear heads | all heads with a hidden layer |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for table in tables:
        for backbone, views in table.features.items():
            entries = [entry for entry in table.entries if entry.params["backbone"] == backbone]
            linear = [entry for entry in entries if not entry.params["hidden_units"]]
            plain = [entry for entry in linear if entry.params["policy"] == "none"]
            hidden = [entry for entry in entries if entry.params["hidden_units"]]
            seconds = [sum(entry.seconds + entry.step for entry in each) for each in (plain, linear, hidden)]
            cells = [f"{value:.1f}" for value in (np.mean(list(views.values())), sum(views.values()), *seconds)]
            lines.append(f"| {table.name} | {backbone} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kinds_table(tables: Sequence[Table]) -> str:
    """Return the best score of each kind of head and views, its score on the cases put aside, and its point."""
    lines = [
        "| table | heads | views | best score | its score on cases put aside "
        "| backbone, policy, views, hidden units, log10 penalty, tta |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for table in tables:
        for heads, is_linear in (("linear", True), ("hidden layer", False)):
            for views, is_plain in (("the image itself", True), ("augmented", False)):
                kind = [
                    entry
                    for entry in table.scored
                    if (entry.params["hidden_units"] == 0) == is_linear
                    and (entry.params["policy"] == "none") == is_plain
                ]
                best = max(kind, key=lambda entry: entry.score)
                point = ", ".join(str(value) for value in best.params.values())
                lines.append(f"| {table.name} | {heads} | {views} | {best.score:.4f} | {best.held_out:.4f} | {point} |")
    return "\n".join(lines)


def seconds_table(title: str, found: Mapping[str, Sequence[Trace]], best: Best) -> str:
    """Return the regret of each search at equal simulated seconds: `MOMENTS`, as far as all searches have them.

    Args:
        title: Title of the first column.
        found: Replays by search.
        best: Scores from which regret is measured.
    """
    lines = [
        f"| {title} | {' | '.join(f'regret after {seconds} s' for seconds in MOMENTS)} | seconds of all trials |",
        f"| --- |{' --- |' * (len(MOMENTS) + 1)}",
    ]
    for name, traces in found.items():
        score, _ = regrets(traces, best, max(len(trace.scores) for trace in traces))
        values = at_seconds(traces, score, np.array(MOMENTS, float))
        cells = ["no trial yet" if np.isnan(column).any() else _mean(column) for column in values.T]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.mean([trace.clock[-1] for trace in traces]):.0f} |")
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
        "| distinct trials | thinking, ms a trial |",
        f"| --- | --- |{' --- |' * (len(looks) + 6)}",
    ]
    for name, traces in found.items():
        score, held_out = regrets(traces, best, n_trials)
        length = max(len(trace.scores) for trace in traces)
        cells = [_mean(score[:, look - 1]) if look <= length else "" for look in looks]
        cost = cost_to_target(traces, best)
        distinct = np.mean([len({str(sorted(levelled(p).items())) for p in trace.points}) for trace in traces])
        thinking = 1000 * np.mean([trace.thinking / len(trace.scores) for trace in traces])
        lines.append(
            f"| {name} | {len(traces)} | {' | '.join(cells)} | {_mean(held_out[:, last - 1])} "
            f"| {shown(median_and_band(cost.trials))} | {shown(median_and_band(cost.seconds))} | {cost.share:.0%} "
            f"| {distinct:.0f} of {length} | {thinking:.1f} |"
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
