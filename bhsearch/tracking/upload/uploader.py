"""The uploader process, which sends finished trials from the outbox to MLflow, so that the search need not wait.

The uploader begins when the search writes a first line to the uploader's standard input. When the search closes this
input or dies, the uploader sends the remaining trials and exits. It also sends the trials in other outboxes of the same
study whose command has ended. If the store becomes unavailable, the uploader retries for as long as the search runs,
and for a limited time afterwards.

The uploader reports to the search with messages on standard output; see `runtime.messages`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bhsearch.errors import BhsearchError, RunError
from bhsearch.runtime.cache import interprocess_lock
from bhsearch.runtime.messages import Away, Back, Failed, Note, Ready, Sent, to_line
from bhsearch.tracking.upload.outbox import Outbox, all_outboxes

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from bhsearch.tracking.upload.writer import RunWriter

T = TypeVar("T")

PATIENT, ALL = "patient", "all"  # command-line options
_LOOK_SECONDS = 0.2


def upload(outbox: Outbox, patient: bool = False) -> None:
    """Send trials as they become ready for upload, then the summary of the session, and delete the outbox.

    Args:
        outbox: Outbox of the search.
        patient: Whether to wait if the store is unavailable at the start.

    Raises:
        StudyError: If the store cannot be opened.
        RunError: If the store stays unavailable.
    """
    _import()
    search = _SearchProcess()
    patience = RetryPolicy(search.ended)
    client = patience.call(_open) if patient else _open()
    if not search.says_go() and not outbox.waiting() and outbox.end() is None:
        return  # a search that ended before its first trial leaves no run
    with outbox.sending():
        runs = (patience if patient else _briefly()).call(lambda: _study_runs(client, outbox))
        for sentence in runs.notes:
            say(Note(sentence))
        say(Ready(runs.run_id, runs.experiment_id))
        _send_orphaned(client, outbox.others(), patience)
        _send(outbox, runs, patience)
    _send_orphaned(client, outbox.others(), patience)


def sync(folder: Path) -> None:
    """Send the trials in the outboxes of ended commands.

    Args:
        folder: Folder of all outboxes.

    Raises:
        StudyError: If the store cannot be opened.
        RunError: If the store becomes unavailable.
    """
    _import()
    _send_orphaned(_open(), all_outboxes(folder), _briefly())


def _briefly() -> RetryPolicy:
    """Return a retry policy with a time limit, for use while no search runs."""
    ended = threading.Event()
    ended.set()
    return RetryPolicy(ended)


def _import() -> None:
    """Import MLflow, before any thread is started, because the import forks."""
    from bhsearch.models import backend

    with backend.silence_stderr():
        import bhsearch.tracking.upload.writer  # noqa: F401


def _open() -> MlflowClient:
    from bhsearch.tracking.connection import open_client

    return open_client()


def _study_runs(client: MlflowClient, outbox: Outbox) -> RunWriter:
    from bhsearch.tracking.upload.writer import RunWriter

    with interprocess_lock(outbox.uid):  # of two processes that begin together, only one creates a run
        return RunWriter(client, outbox.study(), lambda sentence: say(Note(" ".join(sentence.split())[:500])))


def _send_orphaned(client: MlflowClient, boxes: Iterable[Outbox], patience: RetryPolicy) -> None:
    """Send the trials in outboxes whose command has ended, after waiting for the uploader of each outbox to end."""
    for box in boxes:
        if not box.orphaned or not box.folder.exists():
            continue
        with box.sending():
            if box.begun:
                runs = patience.call(lambda box=box: _study_runs(client, box))  # type: ignore[misc]
                _send(box, runs, patience)
            box.close()


def _send(outbox: Outbox, runs: RunWriter, patience: RetryPolicy) -> None:
    _send_trials(outbox, runs, patience)
    end = outbox.end()
    if end is not None:  # a search that died left no summary
        patience.call(lambda: runs.log_end(end))
        outbox.close()


def _send_trials(outbox: Outbox, runs: RunWriter, patience: RetryPolicy) -> None:
    """Send trials in order until the search has ended and all trials that are ready for upload are sent."""
    last = False
    while not last:
        last = outbox.orphaned or patience.ended.wait(_LOOK_SECONDS if not outbox.waiting() else 0.0)
        while waiting := outbox.waiting():
            run_id = patience.call(lambda number=waiting[0]: _log(outbox, runs, number))  # type: ignore[misc]
            outbox.sent(waiting[0])
            say(Sent(waiting[0], run_id))


def _log(outbox: Outbox, runs: RunWriter, number: int) -> str:
    from bhsearch.models import backend

    with backend.silence_stderr():
        return runs.log_trial(outbox.trial(number))


class RetryPolicy:
    """A policy that retries requests while the store is unavailable.

    Args:
        ended: Set when the search has ended; from then on, the time for retries is limited.
    """

    def __init__(self, ended: threading.Event) -> None:
        self.ended = ended

    def call(self, step: Callable[[], T]) -> T:
        """Run a step, retry while the store is unavailable, and return the result.

        Args:
            step: Function to call; repeating it must replace the incomplete output of a failed attempt.

        Raises:
            StudyError: If the store refuses a request.
            RunError: If the store stays unavailable after the search has ended.
        """
        from bhsearch.tracking.requests import is_away, patience_seconds, pause_after, reason_of, refusal, status_of

        attempt, deadline = 0, float("inf")
        while True:
            began = time.monotonic()
            try:
                result = step()
            except Exception as error:
                if not is_away(error):
                    if isinstance(error, BhsearchError) or status_of(error) is None:
                        raise
                    raise refusal(error) from error
                failure = error
            else:
                if attempt:
                    say(Back())
                return result
            if attempt == 0:
                say(Away(reason_of(failure)))
            if self.ended.is_set() and deadline == float("inf"):
                deadline = time.monotonic() + patience_seconds()
            pause = pause_after(failure, attempt, time.monotonic() - began)
            if time.monotonic() + (pause if self.ended.is_set() else 0.0) > deadline:
                raise RunError(f"MLflow is unavailable ({reason_of(failure)})")
            time.sleep(pause)
            attempt += 1


def say(sent: object) -> None:
    """Send a message to the search; no effect if the search has died."""
    try:
        print(to_line(sent), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _SearchProcess:
    """The search process, observed through standard input: the first byte means begin, the end of input means ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._answered = threading.Event()
        self._go = False
        threading.Thread(target=self._read, daemon=True).start()

    def says_go(self) -> bool:
        """Wait until the search begins or ends, and return whether it began."""
        self._answered.wait()
        return self._go

    def _read(self) -> None:
        # `sys.stdin` is not used, because this thread would hold its lock while an import in the main thread forks.
        self._go = bool(os.read(0, 1))
        self._answered.set()
        while os.read(0, 1024):
            pass
        self.ended.set()


def main(folder: str, *options: str) -> int:
    """Send the trials of one outbox, or of all outboxes of ended commands, and return the exit code.

    Args:
        folder: Folder of the outbox; with the option `all`, folder of all outboxes.
        *options: `patient` to wait for an unavailable store; `all` to send from all outboxes of ended commands.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # they end the search, but finished trials are still sent
        signal.signal(number, signal.SIG_IGN)
    try:
        if ALL in options:
            sync(Path(folder))
        else:
            upload(Outbox(Path(folder), make=False), PATIENT in options)
    except BhsearchError as error:
        say(Failed(" ".join(str(error).split())))
        return error.exit_code
    except Exception as error:  # any error of a store: the trials stay in the outbox, and the search reports it
        from bhsearch.tracking.store_uri import hidden

        say(Failed(f"{type(error).__name__}: {hidden(' '.join(str(error).split()))[:500]}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
