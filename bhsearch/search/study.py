"""One study from start to end: the only place where data, networks, engine and tracking meet."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.config import Settings
from bhsearch.errors import BhsearchError, InputError, RunError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.search import engine, preparation
from bhsearch.search.engine import INTERRUPTED, Pruned, Report, Trial
from bhsearch.search.objective import Outcome
from bhsearch.search.optuna_engine import OptunaEngine, connect, facts_of, grow, open_study
from bhsearch.search.origin import origin_of
from bhsearch.search.preparation import FINETUNE, FROZEN, Preparation
from bhsearch.search.records import (
    complete_record,
    failed_record,
    now_ms,
    pruned_record,
    study_arrays,
    study_record,
)
from bhsearch.search.regimes import Objective, make_objective, steps_per_fold
from bhsearch.search.reporter import Reporter
from bhsearch.search.result import StudyResult, correct, rank
from bhsearch.search.summary import end_record
from bhsearch.states import FAILED, PRUNED, RUNNING
from bhsearch.tracking.outbox import Outbox
from bhsearch.tracking.process import DrainProcess
from bhsearch.tracking.store import check_store

OUTBOX = Path("outbox")


def optimize(settings: Settings, reporter: Reporter) -> StudyResult:
    """Run a study until it has the finished trials that were asked for.

    Args:
        settings: What to do.
        reporter: Hears of it.

    Returns:
        The study's result; partial if the study was interrupted or ran out of time.

    Raises:
        InputError: If anything the user gave is wrong; nothing was changed then.
        RunError: If too many trials failed in a row, or not everything could be logged.
    """
    if settings.tracking:
        check_store()
    if settings.regime == "auto" and preparation.gpu_here():
        return _frozen_then_finetune(settings, reporter)
    return _Session(preparation.prepare(settings, reporter), reporter).run()


def _frozen_then_finetune(settings: Settings, reporter: Reporter) -> StudyResult:
    """Two studies, the second started from the first."""
    n_finetune = settings.finetune_trials or settings.trials
    reporter.say(f"Two studies: {settings.trials} frozen trials, then {n_finetune} that finetune from what they found.")
    first = preparation.prepare(replace(settings, regime=FROZEN, study=_part(settings, FROZEN)), reporter)
    frozen = _Session(first, reporter).run()
    if frozen.interrupted:
        return frozen
    changes: dict[str, Any] = {"regime": FINETUNE, "study": _part(settings, FINETUNE), "trials": n_finetune}
    second = preparation.prepare(replace(settings, **changes, from_study=frozen.study), reporter)
    return replace(_Session(second, reporter).run(), before=frozen)


def _part(settings: Settings, regime: str) -> str | None:
    return f"{settings.study}-{regime}" if settings.study else None


class _Session:
    """One sitting at a study."""

    def __init__(self, prepared: Preparation, reporter: Reporter) -> None:
        self._prepared, self._settings, self._reporter = prepared, prepared.settings, reporter
        self._template = prepared.template()
        self._predictions: dict[int, Predictions] = {}
        self._facts, self._engine = self._open_engine()
        self._outbox: Outbox | None = None
        if self._settings.tracking:
            try:
                self._outbox = Outbox(OUTBOX / self._facts["uid"])
            except InputError:
                self._undo(None)
                raise
        self._examples: dict[str, Any] = {}  # what each policy of augmentation does
        self._interrupted = False
        self._n_before = 0  # trials of earlier sittings
        self._failure: BhsearchError | None = None

    def run(self) -> StudyResult:
        """Everything after the study is open."""
        self._settle()
        self._n_before = len(self._engine.trials())
        finished = self._finished()
        space = self._prepared.space(self._facts["backbones"])
        self._reporter.plan(preparation.make_plan(self._prepared, space, finished))
        wanted = self._settings.trials > finished
        process = self._start_logging() if wanted or self._has_mail() else None
        try:
            if wanted:
                self._search(process)
        except BhsearchError as error:
            if not self._engine.trials():
                self._undo(process)
                raise
            self._failure = error
        result = self._end(process)
        if self._failure is not None:
            raise self._failure
        self._raise_for_failures()
        return result

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open_engine(self) -> tuple[dict[str, Any], OptunaEngine]:
        """Open the study, refuse it if it does not fit, and let its backbones grow."""
        settings, prepared = self._settings, self._prepared
        now = prepared.facts()
        weights = {name: backbone.digest for name, backbone in prepared.backbones.items()}
        storage = connect(settings.storage)
        now["started_from"] = origin_of(prepared, storage)
        study = open_study(storage, prepared.study, now | {"uid": uuid.uuid4().hex[:12], "backbones": weights})
        held = facts_of(study)
        if held["started_from"].get("uid") == now["started_from"].get("uid"):
            now["started_from"] = held["started_from"]  # more trials there do not change what is trained here
        preparation.check_agreement(prepared.study, held, now, prepared.backbones)
        names = (*held["backbones"], *(name for name in weights if name not in held["backbones"]))
        if len(names) > len(held["backbones"]):
            held["backbones"] = {name: weights[name] for name in names}
            study = grow(study, held, names)
        space, steps = prepared.space(names), steps_per_fold(prepared.regime)
        return held, OptunaEngine(study, space, settings.sampler, settings.seed, prepared.pruner, steps)

    def _settle(self) -> None:
        """End what a process left behind that died between a trial's start and its end."""
        held = self._outbox.held() if self._outbox is not None else {}
        for trial in self._engine.trials():
            if trial.state != RUNNING:
                continue
            record = held.get(trial.number)
            if record is not None and record["state"] == FAILED:
                self._engine.fail(trial.number, record["reason"])
            elif record is not None and record["state"] == PRUNED:
                self._engine.prune(trial.number, record["seconds"])
            elif record is not None:
                self._engine.complete(trial.number, record["score"], record["seconds"])
            elif not engine.is_alive(trial.notes.get("owner", {})):
                self._fail(trial, INTERRUPTED, now_ms(), None)
        for number in held:
            assert self._outbox is not None
            with suppress(FileNotFoundError):
                self._outbox.release(number)

    def _has_mail(self) -> bool:
        return self._outbox is not None and bool(self._outbox.waiting())

    def _undo(self, process: DrainProcess | None) -> None:
        """Leave nothing of a study that was refused before its first trial."""
        if process is not None:
            process.abandon()
        if not self._engine.trials():
            self._engine.delete()
            if self._outbox is not None:
                self._outbox.close()

    def _finished(self) -> int:
        return sum(trial.counts for trial in self._engine.trials())

    # -- searching ----------------------------------------------------------------------------------------------------

    def _search(self, process: DrainProcess | None) -> None:
        """Run trials until there are enough, time is up, too many failed, or someone interrupts."""
        deadline = time.monotonic() + self._settings.timeout if self._settings.timeout else float("inf")
        try:
            heads = self._facts["started_from"].get("heads", {})
            objective = make_objective(self._prepared, self._template, heads, self._reporter)
            self._examples = objective.examples()
            if process is not None:
                process.wait_until_ready()
            with self._reporter.trials(self._finished(), self._settings.trials):
                while self._finished() < self._settings.trials and not self._gave_up():
                    if time.monotonic() > deadline:
                        self._interrupted = True
                        self._reporter.say(f"Time is up after {self._settings.timeout:g} s.")
                        return
                    self._one_trial(objective)
        except KeyboardInterrupt:
            self._interrupted = True
            self._reporter.say("Interrupted. What is finished is kept; the same command goes on.")

    def _one_trial(self, objective: Objective) -> None:
        trial = self._engine.ask()
        started = now_ms()

        def watch(report: Report) -> None:
            if self._engine.report(trial.number, report):
                raise Pruned

        try:
            outcome = objective(trial.params, watch)
        except KeyboardInterrupt:
            self._fail(trial, INTERRUPTED, started, None)
            raise
        except Pruned as pruned:
            self._prune(trial, pruned, started)
            return
        except InputError as error:  # the next trial would meet the same: a full disk, a weight file that is gone
            self._fail(trial, str(error), started, self._reporter)
            raise
        except Exception as error:  # a trial may fail in any way; the study goes on, and the reason is kept
            reason = str(error) if isinstance(error, BhsearchError) else f"{type(error).__name__}: {error}"
            self._fail(trial, reason, started, self._reporter)
            return
        self._complete(trial, outcome, started)

    def _complete(self, trial: Trial, outcome: Outcome, started: int) -> None:
        """Into the outbox first, then to the engine: whatever dies in between, the trial is not lost."""
        record, arrays = complete_record(trial.number, trial.params, started, outcome)
        with self._posted(trial.number, record, arrays):
            self._engine.complete(trial.number, outcome.score, outcome.seconds)
        self._predictions[trial.number] = replace(self._template, probability=outcome.probability)
        self._report(trial.number)

    def _prune(self, trial: Trial, pruned: Pruned, started: int) -> None:
        with self._posted(trial.number, pruned_record(trial.number, trial.params, started, pruned), {}):
            self._engine.prune(trial.number, pruned.seconds)
        self._report(trial.number)

    def _fail(self, trial: Trial, reason: str, started: int, reporter: Reporter | None) -> None:
        with self._posted(trial.number, failed_record(trial.number, trial.params, started, reason), {}):
            self._engine.fail(trial.number, reason)
        if reporter is not None:
            self._report(trial.number)

    @contextmanager
    def _posted(self, number: int, record: dict[str, Any], arrays: dict[str, Any]) -> Iterator[None]:
        """Around telling the engine: the outbox holds the trial before, and lets it be sent after."""
        if self._outbox is not None:
            self._outbox.put(number, record, arrays)
        yield
        if self._outbox is not None:
            self._outbox.release(number)

    def _report(self, number: int) -> None:
        trials = self._engine.trials()
        complete = [trial for trial in trials if trial.value is not None]
        best = max(complete, key=lambda trial: trial.value or 0.0) if complete else None
        self._reporter.trial(trials[number], best)

    def _gave_up(self) -> bool:
        return len(self._last_failures()) >= self._settings.max_failures

    def _last_failures(self) -> list[Trial]:
        """Trials of this sitting that failed on their own, without a finished one behind them."""
        failures: list[Trial] = []
        for trial in reversed(self._engine.trials()[self._n_before :]):
            if trial.state == FAILED and trial.notes.get("reason") != INTERRUPTED:
                failures.append(trial)
            elif trial.counts:
                break
        return failures

    # -- ending -------------------------------------------------------------------------------------------------------

    def _start_logging(self) -> DrainProcess | None:
        """Say what the trials are of, and start the process that logs them."""
        if self._outbox is None:
            return None
        record = study_record(self._prepared, self._facts, len(self._template))
        self._outbox.put_study(record, study_arrays(self._template))
        return DrainProcess(self._outbox)

    def _end(self, process: DrainProcess | None) -> StudyResult:
        """Rank what there is, hand the study's end to the process that logs, and wait for it."""
        records = self._engine.trials()
        self._load_missing_predictions(records)
        ranking = rank(records, self._predictions)
        prepared = self._prepared
        earlier, n_earlier = self._earlier()
        correction = correct(records, self._predictions, earlier, n_earlier)
        result = StudyResult(
            prepared.study, prepared.index.name, ranking, records, self._settings.trials, prepared.note,
            prepared.split.leaks, self._settings.tracking, self._interrupted, *correction,
        )  # fmt: skip
        if process is not None and self._outbox is not None:
            record = end_record(result, self._engine.importances(), list(self._examples))
            pictures = {"augmentation": np.stack([*self._examples.values()])} if self._examples else {}
            self._outbox.put_end(record, pictures)
            with self._reporter.step("Logging to MLflow") as progress:
                process.finish(progress)
        elif self._outbox is not None:
            self._outbox.close()
        return result

    def _load_missing_predictions(self, records: list[Trial]) -> None:
        """Get the predictions of earlier sittings from MLflow, where it has them."""
        missing = [trial for trial in records if trial.value is not None and trial.number not in self._predictions]
        if not missing or not self._settings.tracking:
            return
        self._predictions = self._stored(self._facts["uid"]) | self._predictions
        lost = [trial.number for trial in missing if trial.number not in self._predictions]
        if lost:
            self._reporter.say(
                f"{len(lost)} finished trials are not in this MLflow store; they count, but have no interval."
            )

    def _stored(self, uid: str) -> dict[int, Predictions]:
        """Predictions of a study's complete trials, from MLflow."""
        from bhsearch.networks import backend

        with backend.quiet():
            from bhsearch.tracking.runs import stored_predictions
        from bhsearch.tracking.store import open_client

        return stored_predictions(open_client(), self._prepared.index.name, uid)

    def _earlier(self) -> tuple[list[Predictions], int]:
        """Predictions of the study that this one was started from, and how many there should be at least.

        Its trials took part in the choice.
        """
        origin = self._facts["started_from"]
        if not origin:
            return [], 0
        found = self._stored(origin["uid"]) if self._settings.tracking else {}
        return list(found.values()), origin["complete"]

    def _raise_for_failures(self) -> None:
        failures = self._last_failures()
        if len(failures) >= self._settings.max_failures:
            reasons: dict[str, int] = {}
            for trial in failures:
                reason = trial.notes.get("reason", "unknown")
                reasons[reason] = reasons.get(reason, 0) + 1
            lines = "\n".join(f"  {count} x {reason}" for reason, count in reasons.items())
            raise RunError(
                f"{len(failures)} trials in a row failed (--max-failures {self._settings.max_failures}):\n{lines}"
            )
