"""Warm start, the stop when it is enough, and the estimate of what more trials would bring: what they do to replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bhsearch.study.stopping import expected_gain, trials_since_improvement
from experiments.benchmarks.engines.contenders import SHIPPED, Make, best_points
from experiments.benchmarks.engines.judging import Best, at_seconds, band, cost_to_target, median_and_band, regrets
from experiments.benchmarks.engines.replay import Trace
from experiments.benchmarks.engines.runs import Arena, Runs

PATIENCES = (10, 15, 20, 30)
N_WARM = (0, 1, 5)
BUDGETS = {"idc-frozen": (40, 80, 120), "breakhis-frozen": (10, 20)}  # simulated seconds
LOOKS, WARM_WITHIN = (5, 10, 25, 50, 100), 0.01  # trials after which regret is shown; of the best, a target
EARLIER = 50  # trials of the study that a warm start takes its points from
ASKED_AT, MORE = (25, 50, 100), 50  # where the estimate is asked, and for how many more trials


def stops_at(scores: Sequence[float], patience: int) -> int:
    """Trials after which a study stops whose last `patience` finished trials brought nothing."""
    return next(
        (number for number, since in enumerate(trials_since_improvement(scores), start=1) if since >= patience),
        len(scores),
    )


def stop_table(found: dict[str, list[Trace]], best: dict[str, Best]) -> str:
    """Cost and loss of the stop rule, per arena, against going on to the end of the replays."""
    lines = [
        "| arena | stop after | trials done, mean (least to most) | seconds saved | loss of score "
        "| loss on cases put aside |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, traces in found.items():
        n_trials = len(traces[0].scores)
        score, held_out = regrets(traces, best[name], n_trials)
        for patience in PATIENCES:
            ends = np.array([stops_at(trace.scores.tolist(), patience) for trace in traces])
            rows = np.arange(len(traces))
            saved = np.mean(
                [1 - trace.clock[end - 1] / trace.clock[-1] for trace, end in zip(traces, ends, strict=True)]
            )
            losses = [values[rows, ends - 1] - values[:, -1] for values in (score, held_out)]
            lines.append(
                f"| {name} | {patience} | {ends.mean():.0f} ({ends.min()} to {ends.max()}) of {n_trials} | {saved:.0%} "
                f"| {losses[0].mean():.4f} | {losses[1].mean():+.4f} |"
            )
    return "\n".join(lines)


@dataclass(frozen=True)
class Calibration:
    """Predicted and realised gains of one moment of some studies, means over them."""

    predicted: float
    realised: float
    rank: float


def calibrated(traces: Sequence[Trace], at: int, more: int) -> Calibration:
    """What `expected_gain` said after some trials, and what as many more as it was asked for then brought."""
    predicted = np.array([expected_gain(trace.scores[:at].tolist(), more) for trace in traces])
    realised = np.array([trace.best()[at + more - 1] - trace.best()[at - 1] for trace in traces])
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, realised)]
    varied = predicted.std() > 0 and realised.std() > 0
    return Calibration(
        float(predicted.mean()), float(realised.mean()), float(np.corrcoef(*ranks)[0, 1]) if varied else float("nan")
    )


def prospects_table(found: dict[str, dict[str, list[Trace]]]) -> str:
    """Predicted against realised gains, per arena and contender."""
    lines = [
        "| arena | search | after | more | predicted gain | realised gain | rank correlation over seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arena, by_contender in found.items():
        for name, traces in by_contender.items():
            for at in ASKED_AT:
                if at + MORE <= min(len(trace.scores) for trace in traces):
                    c = calibrated(traces, at, MORE)
                    lines.append(
                        f"| {arena} | {name} | {at} | {MORE} | {c.predicted:.4f} | {c.realised:.4f} | {c.rank:+.2f} |"
                    )
    return "\n".join(lines)


def warm_points(traces: Sequence[Trace], number: int) -> list[list]:
    """The best points of each earlier study, the best first."""
    return [
        best_points(list(zip(trace.scores[:EARLIER].tolist(), trace.points[:EARLIER], strict=True)), number)
        for trace in traces
    ]


def warm_table(
    runs: Runs, arenas: Sequence[Arena], best: dict[str, Best], make: Make, seeds: Sequence[int], n_trials: int
) -> str:
    """A search that begins with the best points of an earlier one on other data, against one that does not."""
    looks = [look for look in LOOKS if look <= n_trials]
    lines = [
        f"| search on | warm from | points | {' | '.join(f'regret after {look}' for look in looks)} "
        f"| trials to within {WARM_WITHIN} |",
        f"| --- | --- | --- |{' --- |' * (len(looks) + 1)}",
    ]
    cold = {arena.name: runs.traces(arena, SHIPPED, make, seeds, n_trials) for arena in arenas}
    for arena in arenas:
        for other in (each for each in arenas if each is not arena):
            for number in N_WARM:
                name = f"{SHIPPED}, warm {number} from {other.name}"
                # Seed k is warmed by another seed's study, so that no chance is shared.
                earlier = cold[other.name][1:] + cold[other.name][:1]
                traces = (
                    runs.traces(arena, name, make, seeds, n_trials, warm_points(earlier, number))
                    if number
                    else cold[arena.name]
                )
                score, _ = regrets(traces, best[arena.name], n_trials)
                means = " | ".join(f"{score[:, at - 1].mean():.4f}" for at in looks)
                cost = median_and_band(cost_to_target(traces, best[arena.name], WARM_WITHIN).trials)
                lines.append(f"| {arena.name} | {other.name} | {number} | {means} | {shown(cost)} |")
    return "\n".join(lines)


def budget_table(
    runs: Runs, arenas: Sequence[Arena], best: dict[str, Best], make: Make, seeds: Sequence[int], n_trials: int
) -> str:
    """A study that plans for a budget, against one that is stopped when as many seconds are over."""
    lines = [
        "| arena | budget, s | trials if stopped | if planned | regret if stopped | if planned | gain of planning |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arena in arenas:
        plain = runs.traces(arena, SHIPPED, make, seeds, n_trials)
        regret, _ = regrets(plain, best[arena.name], n_trials)
        for seconds in BUDGETS[arena.name]:
            stopped = at_seconds(plain, regret, np.array([seconds], float))[:, 0]
            if np.isnan(stopped).any():
                continue
            n_stopped = np.mean([np.searchsorted(trace.clock, seconds, side="right") for trace in plain])
            name = f"{SHIPPED}, budget {seconds} s"
            traces = runs.traces(arena, name, make, seeds, n_trials, budget_seconds=seconds)
            planned = regrets(traces, best[arena.name], n_trials)[0][:, -1]
            n_planned = np.mean([len(trace.scores) for trace in traces])
            gain = band((stopped - planned)[:, None])
            lines.append(
                f"| {arena.name} | {seconds} | {n_stopped:.0f} | {n_planned:.0f} | {stopped.mean():.4f} "
                f"| {planned.mean():.4f} | {gain.mean[0]:+.4f} ({gain.low[0]:+.4f} to {gain.high[0]:+.4f}) |"
            )
    return "\n".join(lines)


def shown(cost: tuple[float, float, float]) -> str:
    """A median with its interval, in words that a table can hold."""
    words = ["never" if np.isinf(value) else f"{value:.0f}" for value in cost]
    return f"{words[0]} ({words[1]} to {words[2]})"
