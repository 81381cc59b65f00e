"""The actor that runs one worker of a study on a node of a Ray cluster.

The class is imported on the node, where bhsearch must be installed. Its arguments and results have built-in types, so
that no object of this package is pickled.
"""

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
from typing import Any

import ray

import bhsearch
from bhsearch.errors import InputError
from bhsearch.runtime.processes import how_it_ended, python_command
from bhsearch.study.workers.launchers.ray.child import MODULE

# Exit codes of a worker that has nothing left to do: the study is finished, or its time is up.
DONE, TIME_IS_UP = 0, 130
_FAILED = 1
_SOON_SECONDS = 300.0  # a worker that was killed within this time may have made no progress
_MOST_FAILURES = 3  # number of failures in a row after which the actor starts no further worker
_LINGER_SECONDS = 60.0  # time for the command to read the exit code, before the actor frees its resources
_STEP = re.compile(r"trial +\d+ |.*[:,] [\d.]+ (s|min)$")  # lines that the command shows in its own words
_TRIALS = re.compile(r"opening MLflow|trial +\d+ ")  # first lines after the plan of the study


class WorkerActor:
    """Runs a worker as a child process, starts it again if it dies, and keeps what it says.

    The actor needs no connection to the command: it ends itself after the worker has finished.

    Args:
        arguments: Arguments of `bhsearch`.
        variables: Environment variables of the worker, in addition to those of the node. They may be secret.
        folder: Working directory of the worker.
        log: File to which the output of the worker is appended.
    """

    def __init__(self, arguments: list[str], variables: dict[str, str], folder: str, log: str) -> None:
        self._arguments, self._variables, self._folder, self._log = arguments, variables, folder, Path(log)
        self._lines: deque[str] = deque(maxlen=1000)
        self._code: int | None = None
        self._process: subprocess.Popen[str] | None = None
        self._is_stopping = False
        self._in_trials = False
        threading.Thread(target=self._supervise, daemon=True).start()

    def look(self) -> dict[str, Any]:
        """Return the state of the worker as a dict of built-in types.

        The keys are `code`, the exit code of the worker after the last one has ended, else None; `lines`, what the
        worker said since the last call; `node`, the name of the node; `python` and `bhsearch`, the versions there.
        """
        code = self._code  # before the lines, so that those of a worker that has ended are complete
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return {"code": code, "lines": lines, "node": platform.node(), **versions()}

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

    def _supervise(self) -> None:
        code = self._run_until_finished()
        self._code = code
        time.sleep(_LINGER_SECONDS)
        ray.kill(ray.get_runtime_context().current_actor)

    def _run_until_finished(self) -> int:
        """Run workers one after another, and return the exit code of the last one."""
        n_failures = 0
        while True:
            since = time.monotonic()
            code = self._run()
            if self._is_stopping or code in (DONE, TIME_IS_UP, InputError.exit_code):
                return code
            # An error of the worker itself always counts, because the next worker would repeat it.
            is_new = code != _FAILED and time.monotonic() - since > _SOON_SECONDS
            n_failures = 1 if is_new else n_failures + 1
            if n_failures >= _MOST_FAILURES:
                return code
            self._lines.append(f"ended with {how_it_ended(code)} and is started again; its log: {self._log}")

    def _run(self) -> int:
        """Run a worker to its end, and return its exit code."""
        variables = {**os.environ, **self._variables, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self._in_trials = False
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as log:
                self._process = subprocess.Popen(
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
                assert self._process.stdout is not None
                for line in self._process.stdout:
                    log.write(line)
                    log.flush()
                    self._keep(line.rstrip())
        except OSError as error:
            self._signal(signal.SIGKILL)
            self._lines.append(f"error: Cannot work in {self._folder} on the node {platform.node()}: {error}")
            return InputError.exit_code
        return self._process.wait()

    def _keep(self, line: str) -> None:
        """Keep a line for the user of the command: an error, or a note after the plan of the study."""
        if line.startswith("error:") or (self._in_trials and line and not _STEP.match(line)):
            self._lines.append(line)
        self._in_trials = self._in_trials or bool(_TRIALS.match(line))


def versions() -> dict[str, str]:
    """Return the versions of Python and of bhsearch in this process."""
    return {"python": platform.python_version(), "bhsearch": bhsearch.__version__}
