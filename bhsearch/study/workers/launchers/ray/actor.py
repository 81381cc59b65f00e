"""The actor that runs one worker of a study on a node of a Ray cluster.

The class is imported on the node, where bhsearch must be installed. Its arguments and results have built-in types, so
that no object of this package is pickled.
"""

from __future__ import annotations

import platform
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import ray

from bhsearch.study.workers.launchers.ray.supervisor import Supervisor

_LINGER_SECONDS = 60.0  # time for the command to read the exit code, before the actor frees its resources


class WorkerActor:
    """Runs a worker until it has finished, and then ends itself, so that it needs no connection to the command.

    The arguments are those of `Supervisor`.
    """

    def __init__(self, arguments: list[str], variables: dict[str, str], folder: str, log: str) -> None:
        self._worker = Supervisor(arguments, variables, folder, Path(log))
        self._code: int | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def look(self) -> dict[str, Any]:
        """Return the state of the worker as a dict of built-in types.

        The keys are `code`, the exit code of the worker after the last one has ended, else None; `lines`, what the
        worker said since the last call; `node`, the name of the node; `python` and `bhsearch`, the versions there.
        """
        code = self._code  # before the lines, so that those of a worker that has ended are complete
        return {"code": code, "lines": self._worker.new_lines(), "node": platform.node(), **versions()}

    def stop(self, seconds: float) -> None:
        """Let the worker fail its trial and end, and kill it with all its processes if that takes longer."""
        self._worker.stop(seconds)

    def _run(self) -> None:
        self._code = self._worker.run()
        time.sleep(_LINGER_SECONDS)
        ray.kill(ray.get_runtime_context().current_actor)


def versions() -> dict[str, str]:
    """Return the versions of Python and of bhsearch in this process."""
    return {"python": platform.python_version(), "bhsearch": import_module("bhsearch").__version__}
