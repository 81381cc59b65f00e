"""Run the command line of a worker on a node, start it again if it dies, and keep what it says."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from bhsearch.errors import InputError
from bhsearch.runtime.processes import how_it_ended, python_command
from bhsearch.study.workers.launchers.jobs import TIME_IS_UP
from bhsearch.study.workers.launchers.ray.child import MODULE

DONE = 0  # exit code of a worker whose study is finished
_FAILED = 1
_SOON_SECONDS = 300.0  # a worker that was killed within this time may have made no progress
_READ_SECONDS = 5.0
_MOST_FAILURES = 3  # number of failures in a row after which the actor starts no further worker
_STEP = re.compile(r"trial +\d+ |.*[:,] [\d.]+ (s|min)$")  # lines that the command shows in its own words
_TRIALS = re.compile(r"opening MLflow|trial +\d+ ")  # first lines after the plan of the study


class Supervisor:
    """Runs the command line of a worker as a child process, starts it again if it dies, and keeps what it says.

    Args:
        arguments: Arguments of `bhsearch`.
        variables: Environment variables of the worker, in addition to those of this process. They may be secret.
        folder: Working directory of the worker.
        log: File to which the output of the worker is appended.
    """

    def __init__(self, arguments: list[str], variables: dict[str, str], folder: str, log: Path) -> None:
        self._arguments, self._variables, self._folder, self._log = arguments, variables, folder, log
        self._lines: deque[str] = deque(maxlen=1000)
        self._process: subprocess.Popen[str] | None = None
        self._is_stopping = False
        self._in_trials = False

    def new_lines(self) -> list[str]:
        """Return what the worker said for the user since the last call."""
        return [self._lines.popleft() for _ in range(len(self._lines))]

    def run(self) -> int:
        """Run workers one after another, and return the exit code of the last one."""
        n_failures = 0
        while True:
            since = time.monotonic()
            code = self._run_once()
            if self._is_stopping or code in (DONE, TIME_IS_UP, InputError.exit_code):
                return code
            # An error of the worker itself always counts, because the next worker would repeat it.
            is_new = code != _FAILED and time.monotonic() - since > _SOON_SECONDS
            n_failures = 1 if is_new else n_failures + 1
            if n_failures >= _MOST_FAILURES:
                return code
            self._lines.append(f"ended with {how_it_ended(code)} and is started again; its log: {self._log}")

    def stop(self, seconds: float) -> None:
        """Let the worker fail its trial and end, and kill it with all its processes if that takes longer."""
        self._is_stopping = True
        self._signal(signal.SIGTERM)
        timer = threading.Timer(seconds, self._signal, (signal.SIGKILL,))
        timer.daemon = True
        timer.start()

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:  # the command ends its own processes
                process.send_signal(number)

    def _run_once(self) -> int:
        """Run a worker to its end, and return its exit code."""
        variables = {**os.environ, **self._variables, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self._in_trials = False
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as log:
                self._process = process = subprocess.Popen(
                    python_command(MODULE, str(os.getpid()), *self._arguments),
                    cwd=self._folder,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
                if self._is_stopping:  # asked for while the process was started
                    self._signal(signal.SIGTERM)
                reader = threading.Thread(target=self._read, args=(process, log), daemon=True)
                reader.start()
                code = process.wait()
                reader.join(_READ_SECONDS)  # processes that a killed worker has left may keep the pipe open
        except OSError as error:
            self._lines.append(f"error: Cannot work in {self._folder} on the node {platform.node()}: {error}")
            return InputError.exit_code
        return code

    def _read(self, process: subprocess.Popen[str], log: TextIO) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with suppress(OSError, ValueError):  # a full disk must not end the worker; the log may be closed
                    log.write(line)
                    log.flush()
                self._keep(line.rstrip())

    def _keep(self, line: str) -> None:
        """Keep a line for the user of the command: an error, or a note after the plan of the study."""
        if line.startswith("error:") or (self._in_trials and line and not _STEP.match(line)):
            self._lines.append(line)
        self._in_trials = self._in_trials or bool(_TRIALS.match(line))
