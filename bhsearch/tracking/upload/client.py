"""Start the uploader process, receive its messages, and wait for it to end. Does not import MLflow."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.errors import RunError, StudyError
from bhsearch.runtime.messages import Away, Back, Failed, Go, Note, Ready, Sent, from_line, to_line
from bhsearch.runtime.processes import python_command
from bhsearch.text import plural
from bhsearch.tracking.upload.outbox import Outbox, all_outboxes, outbox_root

_LOOK_SECONDS = 0.2


class UploaderProcess:
    """A running uploader process; see `tracking.upload.uploader`.

    Args:
        outbox: Outbox whose trials are sent; it must contain the record of its study.
        tell: Called with sentences for the user, for example when the store becomes unavailable.
        patient: Whether to wait if the store is unavailable at the start.
        sent: Called with trial number, experiment and run of each logged trial, from another thread.
    """

    def __init__(
        self,
        outbox: Outbox,
        tell: Callable[[str], None],
        patient: bool = False,
        sent: Callable[[int, str, str], None] = lambda *_: None,
    ) -> None:
        options = ["patient"] if patient else []
        self._process = subprocess.Popen(
            python_command("bhsearch.tracking.upload.uploader", str(outbox.folder.resolve()), *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._outbox, self._tell, self._patient, self._sent = outbox, tell, patient, sent
        self._answered = threading.Event()
        self._failure = ""
        self._away = False
        self.run_id = self.experiment_id = ""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait_until_ready(self) -> None:
        """Let the uploader begin, and wait until the run of the study is open.

        With `patient`, the method also returns as soon as the uploader reports an unavailable store, and the uploader
        keeps trying.

        Raises:
            StudyError: If the store cannot be used.
            RunError: If the store stays unavailable.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has ended, and its message gives the reason
            self._process.stdin.write(f"{to_line(Go())}\n")
            self._process.stdin.flush()
        self._answered.wait()
        if not self.run_id and not self._away:
            has_failed = bool(self._failure) and self._process.wait() == RunError.exit_code
            kind = RunError if has_failed else StudyError
            raise kind(self._failure or "The upload process ended before it was connected to MLflow.")

    @property
    def refused(self) -> bool:
        """Whether logging failed before the study had a run, so that the store has no trial of this session."""
        return bool(self._failure) and not self.run_id

    def finish(self, progress: Progress) -> None:
        """Let the uploader send the remaining trials, and wait until it ends.

        Args:
            progress: Called with (sent, to send).

        Raises:
            RunError: If a trial could not be sent; unsent trials stay in the outbox.
        """
        to_send = len(self._outbox.waiting())
        self._end_input()
        while self._listener.is_alive():
            self._listener.join(_LOOK_SECONDS)
            left = len(self._outbox.waiting()) if self._outbox.folder.exists() else 0
            progress(to_send - left, to_send)
        if self._process.wait() != 0:
            reason = self._failure or f"exit code {self._process.returncode}"
            raise RunError(
                f"Some results could not be sent to MLflow: {reason}. They are kept in {self._outbox.folder}; repeat "
                "the command or run `bhsearch sync` to send them."
            )

    def abandon(self) -> None:
        """End an uploader that has not begun, without killing it: it may be creating the tables of a new store."""
        self._end_input()
        self._listener.join()
        self._process.wait()

    def _end_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has ended without reading all input
            self._process.stdin.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._receive(from_line(line))
        self._answered.set()

    def _receive(self, message: Any) -> None:
        """Handle one message; other output comes from libraries and is ignored."""
        match message:
            case Ready(run_id, experiment_id):
                self.run_id, self.experiment_id = run_id, experiment_id
                self._answered.set()
            case Sent(number, run_id):
                self._sent(number, self.experiment_id, run_id)
            case Note(sentence):
                self._tell(sentence)
            case Failed(reason):
                self._failure = reason
            case Away(reason):
                self._away = self._patient
                if self._patient:
                    self._answered.set()
                self._tell(
                    f"MLflow is unavailable ({reason}). The search continues; finished trials are kept in the outbox."
                )
            case Back():
                self._tell("MLflow is available again.")


def sync(tell: Callable[[str], None]) -> None:
    """Send the trials in the outboxes of ended commands, and wait until they are sent.

    Args:
        tell: Called with sentences for the user.

    Raises:
        StudyError: If the store cannot be opened.
        RunError: If a trial could not be sent; unsent trials stay in their outboxes.
    """
    folder = outbox_root()
    boxes = [box for box in all_outboxes(folder) if box.waiting()]
    waiting = sum(len(box.waiting()) for box in boxes)
    busy = sum(not box.orphaned for box in boxes)
    if busy:
        tell(f"Skipping the outboxes of running commands, which send their trials themselves: {busy}")
    if busy == len(boxes):
        tell("There are no trials to send.")
        return
    command = python_command("bhsearch.tracking.upload.uploader", str(folder.resolve()), "all")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    messages = [from_line(line) for line in done.stdout.splitlines()]
    sent = sum(isinstance(message, Sent) for message in messages)
    for message in messages:
        if isinstance(message, Note):
            tell(message.sentence)
    if done.returncode != 0:
        failed = (message.reason for message in messages if isinstance(message, Failed))
        reason = next(failed, f"exit code {done.returncode}")
        kind = StudyError if done.returncode == StudyError.exit_code else RunError
        raise kind(
            f"{reason.rstrip('.')}. {sent} of {plural(waiting, 'trial')} {'was' if sent == 1 else 'were'} sent; the "
            f"others are kept in {folder}. Run `bhsearch sync` again to send them."
        )
    tell(f"{plural(sent, 'trial')} {'was' if sent == 1 else 'were'} sent to MLflow.")
