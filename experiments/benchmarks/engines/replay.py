"""A search replayed: an engine asks and is told, as in a study, and a table answers instead of a training.

The clock is simulated: processor seconds of the recorded trials, of features where a trial is the first to ask for
them, and of the engine's own thinking, which is measured. Processor seconds, since the machine did other work too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bhsearch.engines.base import Engine, SearchExhausted
from bhsearch.errors import DataError
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import Params
from experiments.benchmarks.engines.surrogate import Answer
from experiments.benchmarks.engines.table import Entry, Table

Array = npt.NDArray[np.float64]
Answers = Callable[[Params], Answer]


class Recorded:
    """Answers from recorded points, and from nothing else.

    Args:
        entries: Of the part of a space that was recorded in full.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._by_point = {_key(entry.params): entry for entry in entries}

    def __call__(self, params: Params) -> Answer:
        """The recorded trial of a point.

        Raises:
            DataError: If it was not recorded.
        """
        entry = self._by_point.get(_key(params))
        if entry is None:
            raise DataError(f"every point of a space recorded in full must be in the table, but {params} is not.")
        return Answer(entry.score, entry.held_out if entry.held_out is not None else np.nan, entry.seconds)


def _key(params: Params) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(params.items()))


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


def replay(
    engine: Engine,
    answers: Answers,
    n_trials: int,
    features: Mapping[str, Mapping[str, float]] | None = None,
    first: Sequence[Params] = (),
) -> Trace:
    """Run a study of an engine over recorded answers.

    Args:
        engine: A new study in it.
        answers: What a point gives.
        n_trials: Of the study, unless the engine has no more points.
        features: Seconds of features by backbone and view; free where None.
        first: Points that are run before the engine chooses.
    """
    clock = _Clock(features or {})
    scores, held_out, ends, points = [], [], [], []
    thinking = 0.0
    for number in range(n_trials):
        started = time.process_time()
        try:
            trial = engine.ask(first[number]) if number < len(first) else engine.ask()
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
        ends.append(clock.after(trial.params, answer.seconds + thought))
        scores.append(np.nan if answer.score is None else answer.score)
        held_out.append(answer.held_out)
        points.append(trial.params)
    return Trace(np.array(scores), np.array(held_out), np.array(ends), thinking, points)


class _Clock:
    """Simulated seconds since a study's start."""

    def __init__(self, features: Mapping[str, Mapping[str, float]]) -> None:
        self._features, self._there, self._now = features, set[tuple[str, str]](), 0.0

    def after(self, params: Params, seconds: float) -> float:
        """The time after a trial; the first to want a view of a backbone waits for its features."""
        self._now += seconds
        backbone = params["backbone"]
        for view in views_of(params["policy"], params["views"]) if backbone in self._features else ():
            if (backbone, view) not in self._there:
                self._there.add((backbone, view))
                self._now += self._features[backbone][view]
        return self._now


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


def recorded_in_full(found: Table, design: str) -> Recorded:
    """Answers from the points of one design of a table."""
    return Recorded([entry for entry in found.entries if entry.design == design])
