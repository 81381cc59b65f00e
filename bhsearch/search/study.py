"""One study from start to end: the only place where data, networks, engine and tracking meet."""

from __future__ import annotations

import getpass
import os
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bhsearch.config import Settings
from bhsearch.data.pixels import pixel_cache, pixel_file
from bhsearch.errors import BhsearchError, InputError, RunError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.search import engine, preparation
from bhsearch.search.engine import Trial
from bhsearch.search.objective import FrozenObjective, Outcome
from bhsearch.search.optuna_engine import INTERRUPTED, OptunaEngine, connect, facts_of, grow, open_study
from bhsearch.search.preparation import Preparation
from bhsearch.search.reporter import Reporter
from bhsearch.search.result import StudyResult, rank
from bhsearch.search.space import Params, frozen_space
from bhsearch.search.summary import end_record
from bhsearch.states import COMPLETE, FAILED, RUNNING
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
    prepared = preparation.prepare(settings, reporter)
    return _Session(prepared, reporter).run()


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
        self._interrupted = False
        self._n_before = 0  # trials of earlier sittings
        self._failure: BhsearchError | None = None

    def run(self) -> StudyResult:
        """Everything after the study is open."""
        self._settle()
        self._n_before = len(self._engine.trials())
        finished = self._finished()
        space = frozen_space(tuple(self._facts["backbones"]))
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
        study = open_study(storage, prepared.study, now | {"uid": uuid.uuid4().hex[:12], "backbones": weights})
        held = facts_of(study)
        preparation.check_agreement(prepared.study, held, now, prepared.backbones)
        names = (*held["backbones"], *(name for name in weights if name not in held["backbones"]))
        if len(names) > len(held["backbones"]):
            held["backbones"] = {name: weights[name] for name in names}
            study = grow(study, held, names)
        return held, OptunaEngine(study, frozen_space(names), settings.sampler, settings.seed)

    def _settle(self) -> None:
        """End what a process left behind that died between a trial's start and its end."""
        held = self._outbox.held() if self._outbox is not None else {}
        for trial in self._engine.trials():
            if trial.state != RUNNING:
                continue
            record = held.get(trial.number)
            if record is not None and record["state"] == FAILED:
                self._engine.fail(trial.number, record["reason"])
            elif record is not None:
                self._engine.complete(trial.number, record["score"], record["seconds"])
            elif not engine.is_alive(trial.notes.get("owner", {})):
                self._fail(trial, INTERRUPTED, _now_ms(), None)
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
            objective = self._objective()
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

    def _objective(self) -> FrozenObjective:
        """Start the networks' framework and fill the pixel cache."""
        from bhsearch.networks import backend
        from bhsearch.networks.conversion import Conversion
        from bhsearch.networks.features import FeatureCache
        from bhsearch.networks.resize import make_resize

        prepared, settings = self._prepared, self._settings
        backbones = prepared.found.backbones
        conversion = Conversion(backbones, settings.image_size) if settings.executor != "keras" else None
        # While the other process converts. Batches of heads are small: a second thread mostly waits, and half of the
        # processors are better left to the processes that convert and log.
        backend.start(threads=max(1, (os.cpu_count() or 1) // 2))
        resize = make_resize(settings.resize, settings.image_size)
        with self._reporter.step("Resizing images") as progress:
            pixels = pixel_cache(prepared.development, resize, progress)
        features = FeatureCache(pixels, settings.executor, conversion)
        with self._reporter.step("Building backbones") as progress:
            for done, backbone in enumerate(backbones, start=1):
                features.load(backbone)
                progress(done, len(backbones))
        template = self._template
        return FrozenObjective(
            features, prepared.backbones, template.label, template.fold, template.group, settings.seed
        )

    def _one_trial(self, objective: FrozenObjective) -> None:
        trial = self._engine.ask()
        started = _now_ms()
        try:
            outcome = objective(trial.params)
        except KeyboardInterrupt:
            self._fail(trial, INTERRUPTED, started, None)
            raise
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
        heads = outcome.heads
        record = {
            **_record(trial.number, COMPLETE, trial.params, started),
            "score": outcome.score,
            "seconds": outcome.seconds,
            "curves": outcome.curves,
            "views": list(outcome.views),
            "linear": heads.linear,
        }
        arrays = {
            "probability": outcome.probability,
            "kernel": heads.kernel,
            "bias": heads.bias,
            "top": heads.top,
            "top_bias": heads.top_bias,
        }
        if self._outbox is not None:
            self._outbox.put(trial.number, record, arrays)
        self._engine.complete(trial.number, outcome.score, outcome.seconds)
        if self._outbox is not None:
            self._outbox.release(trial.number)
        self._predictions[trial.number] = replace(self._template, probability=outcome.probability)
        self._report(trial.number)

    def _fail(self, trial: Trial, reason: str, started: int, reporter: Reporter | None) -> None:
        if self._outbox is not None:
            record = _record(trial.number, FAILED, trial.params, started) | {"reason": reason}
            self._outbox.put(trial.number, record, {})
        self._engine.fail(trial.number, reason)
        if self._outbox is not None:
            self._outbox.release(trial.number)
        if reporter is not None:
            self._report(trial.number)

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
        template = self._template
        arrays = {name: getattr(template, name) for name in ("label", "fold", "group", "stratum")}
        arrays |= {name: getattr(template, name).astype(str) for name in ("path", "case", "subtype", "magnification")}
        self._outbox.put_study(self._study_record(), arrays)
        return DrainProcess(self._outbox)

    def _study_record(self) -> dict[str, Any]:
        from bhsearch.networks.resize import make_resize

        prepared, facts, template = self._prepared, self._facts, self._template
        resize = make_resize(self._settings.resize, self._settings.image_size)
        settings = asdict(self._settings) | {"storage": preparation.without_password(self._settings.storage)}
        versions = preparation.versions()
        tags = {f"bhsearch.{key}": str(facts[key]) for key in ("data_fingerprint", "split_fingerprint", "group_by")}
        tags |= {"bhsearch.promotable": str(prepared.split.promotable), "bhsearch.regime": prepared.regime}
        tags["bhsearch.synthetic"] = str(prepared.index.synthetic)
        return {
            "uid": facts["uid"],
            "user": getpass.getuser(),
            "study": prepared.study,
            "experiment": prepared.index.name,
            "data": prepared.index.name,
            "root": str(prepared.index.root),
            "digest": prepared.index.fingerprint,
            "note": ". ".join([text for text in (prepared.note, *prepared.split.leaks) if text]),
            "settings": settings,
            "tags": tags,
            "files": {
                "split.json": prepared.split.to_dict(),
                "audit.json": preparation.audit_record(prepared.index),
                "space.json": [asdict(row) for row in frozen_space(tuple(facts["backbones"]))],
                "versions.json": versions,
            },
            "backbones": {
                name: {"name": name, "file": str(b.file) if b.file else "", "digest": b.digest}
                for name, b in prepared.backbones.items()
            },
            "pixels": {"file": str(pixel_file(prepared.development, resize)), "shape": [len(template), *resize.shape]},
            "requirements": [
                f"{name}=={versions[name]}" for name in ("keras", "tensorflow", "numpy") if name in versions
            ],
        }

    def _end(self, process: DrainProcess | None) -> StudyResult:
        """Rank what there is, hand the study's end to the process that logs, and wait for it."""
        records = self._engine.trials()
        self._load_missing_predictions(records)
        ranking = rank(records, self._predictions)
        prepared = self._prepared
        result = StudyResult(
            prepared.study, prepared.index.name, ranking, records, self._settings.trials, prepared.note,
            prepared.split.leaks, self._settings.tracking, self._interrupted,
        )  # fmt: skip
        if process is not None and self._outbox is not None:
            self._outbox.put_end(end_record(result, self._engine.importances()))
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
        from bhsearch.networks import backend

        with backend.quiet():
            from bhsearch.tracking.runs import stored_predictions
        from bhsearch.tracking.store import open_client

        kept = stored_predictions(open_client(), self._prepared.index.name, self._facts["uid"])
        self._predictions = kept | self._predictions
        lost = [trial.number for trial in missing if trial.number not in self._predictions]
        if lost:
            self._reporter.say(
                f"{len(lost)} finished trials are not in this MLflow store; they count, but have no interval."
            )

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


def _record(number: int, state: str, params: Params, started: int) -> dict[str, Any]:
    return {"number": number, "state": state, "params": dict(params), "started_ms": started, "ended_ms": _now_ms()}


def _now_ms() -> int:
    return int(time.time() * 1000)
