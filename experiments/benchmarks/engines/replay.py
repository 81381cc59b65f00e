"""Replays of searches: an engine proposes points as in a study, and a table answers instead of a training.

The clock is simulated. It adds the processor seconds of the recorded trials, those of the engine itself, which are
measured, and those of features and of steps of a path of linear heads for the first trial that needs them: a study
begins with an empty cache.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bhsearch.engines.base import Engine, SearchExhausted
from bhsearch.errors import DataError
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.costs import FeatureCosts, rationed_seconds
from bhsearch.objectives.space import LOG10_PENALTY, Parameter, Params
from experiments.benchmarks.engines.points import levelled
from experiments.benchmarks.engines.table import Entry, Table

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """Result of a replayed trial.

    Attributes:
        score: Score on the folds; None if the trial failed.
        held_out: AUC on the cases put aside.
        seconds: Processor seconds of the trial, without the shared parts.
        shared: Processor seconds of each part that later trials need not compute again, by a key of the part: features
            of a view, and steps of a path of linear heads.
    """

    score: float | None
    held_out: float
    seconds: float
    shared: Mapping[tuple[object, ...], float] = field(default_factory=dict)


Answers = Callable[[Params], Answer]


class Recorded:
    """Answers from the recorded trials of a frozen space.

    Args:
        table: Trials of all distinct points of the space.
    """

    def __init__(self, table: Table) -> None:
        self._features = table.features
        self._entries = {_key(levelled(entry.params)): entry for entry in table.entries}
        self._steps: dict[tuple[object, ...], float] = {}
        for entry in table.entries:
            if not entry.params["hidden_units"]:
                step = _step(entry.params, entry.params[LOG10_PENALTY.name])
                # The other trial with the same heads, which differs in `tta`, found the step solved.
                self._steps[step] = max(entry.step, self._steps.get(step, 0.0))

    def __call__(self, params: Params) -> Answer:
        """Return the recorded result of a point.

        Raises:
            DataError: If the point was not recorded.
        """
        entry = self._entries.get(_key(levelled(params)))
        if entry is None:
            raise DataError(f"The table must contain every point of its space, but {params} is missing.")
        backbone, views = params["backbone"], views_of(params["policy"], params["views"])
        shared: dict[tuple[object, ...], float] = {(backbone, view): self._features[backbone][view] for view in views}
        if not params["hidden_units"]:
            steps = [_step(params, each) for each in LOG10_PENALTY.values if each >= params[LOG10_PENALTY.name]]
            shared |= {step: self._steps[step] for step in steps}
        return Answer(entry.score, np.nan if entry.held_out is None else entry.held_out, entry.seconds, shared)


def _key(params: Params) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(params.items()))


def _step(params: Params, penalty: float) -> tuple[object, ...]:
    """Return the key of a step: backbone, views and penalty."""
    return params["backbone"], views_of(params["policy"], params["views"]), penalty


@dataclass(frozen=True)
class Trace:
    """One replayed study, trial by trial; a failed trial has nan.

    Attributes:
        scores: On the folds. Shape (n_trials,).
        held_out: On the cases put aside. Shape (n_trials,).
        clock: Simulated seconds at the end of each trial. Shape (n_trials,).
        thinking: Seconds of the engine itself, all together.
        points: Of each trial.
    """

    scores: Array
    held_out: Array
    clock: Array
    thinking: float
    points: list[Params] = field(default_factory=list)

    def best(self) -> Array:
        """Best score so far. Shape (n_trials,)."""
        return np.fmax.accumulate(np.where(np.isnan(self.scores), -np.inf, self.scores))

    def best_held_out(self) -> Array:
        """What the trial that is the best so far gives on the cases put aside. Shape (n_trials,)."""
        scores = np.where(np.isnan(self.scores), -np.inf, self.scores)
        is_new = scores > np.concatenate([[-np.inf], np.maximum.accumulate(scores)[:-1]])
        leader = np.maximum.accumulate(np.where(is_new, np.arange(len(scores)), 0))
        found: Array = self.held_out[leader]
        return found


@dataclass(frozen=True)
class Budget:
    """A budget of a replayed study.

    Attributes:
        seconds: Seconds on the simulated clock.
        costs: Costs of features that are known before the trials.
        space: Parameters of the study.
    """

    seconds: float
    costs: FeatureCosts
    space: Sequence[Parameter]

    def rationed(self, now: float, took: Array, points: Sequence[Params], n_trials: int) -> float:
        """Return the seconds that features of the next trial may take, as a worker of a study does."""
        shortest = float(min(took, default=0.0))
        left = self.seconds - now
        return rationed_seconds(left, self.costs, self.space, points, n_trials - len(points), shortest)


def replay(
    engine: Engine,
    answers: Answers,
    n_trials: int,
    first: Sequence[Params] = (),
    budget: Budget | None = None,
) -> Trace:
    """Run a study of an engine over recorded answers.

    Args:
        engine: A new study in it.
        answers: What a point gives.
        n_trials: Of the study, unless the engine has no more points.
        first: Points that are run before the engine chooses.
        budget: Budget of the study, which ends it as `--budget` does; None for no budget.
    """
    scores, held_out, ends, points = [], [], [], []
    thinking, now = 0.0, 0.0
    computed: set[tuple[object, ...]] = set()
    for number in range(n_trials):
        took = np.diff(ends, prepend=0.0)
        if budget is not None and len(took) and now + np.median(took) > budget.seconds:
            break
        seconds_left = math.inf if budget is None else budget.rationed(now, took, points, n_trials)
        started = time.process_time()
        try:
            point = first[number] if number < len(first) else None
            trial = engine.ask(point, seconds_left=seconds_left)
        except SearchExhausted:
            break
        thought = time.process_time() - started
        answer = answers(trial.params)
        started = time.process_time()
        if answer.score is None:
            engine.fail(trial.number, "recorded as failed")
        else:
            engine.complete(trial.number, answer.score, answer.seconds)
        thought += time.process_time() - started
        thinking += thought
        now += answer.seconds + thought + sum(answer.shared[part] for part in answer.shared.keys() - computed)
        computed |= answer.shared.keys()
        ends.append(now)
        scores.append(np.nan if answer.score is None else answer.score)
        held_out.append(answer.held_out)
        points.append(trial.params)
    return Trace(np.array(scores), np.array(held_out), np.array(ends), thinking, points)


def replay_pruned(engine: Engine, entries: Sequence[Entry]) -> Trace:
    """Run recorded finetune trials in an order, each until the engine's pruner ends it.

    A pruned trial costs the share of its seconds that it had run, and has no score. A trial that is done is not ended.
    """
    scores, held_out, ends, now, thinking = [], [], [], 0.0, 0.0
    for entry in entries:
        started = time.process_time()
        trial = engine.ask(entry.params)
        last = entry.reports[-1][0]
        ended = next(
            (
                step
                for step, mean, fold in entry.reports
                if engine.report(trial.number, IntermediateValue(step, mean, fold)) and step < last
            ),
            None,
        )
        share = 1.0 if ended is None else (ended + 1) / (last + 1)
        if ended is None and entry.score is not None:
            engine.complete(trial.number, entry.score, entry.seconds)
        else:
            engine.prune(trial.number, entry.seconds * share)
        thought = time.process_time() - started
        thinking += thought
        now += entry.seconds * share + thought
        ends.append(now)
        scores.append(np.nan if ended is not None or entry.score is None else entry.score)
        held_out.append(entry.held_out if entry.held_out is not None else np.nan)
    return Trace(np.array(scores), np.array(held_out), np.array(ends), thinking, [e.params for e in entries])
