"""Start processes of this package, and identify them even after their number was reused."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

# Without the working directory on the path (-P), where a file called random.py would shadow the standard library.
# The package is imported from the parent's location; the folder that contains it comes last on the path, since
# it may be a checkout with files of any name.
_START = """
import importlib.machinery, importlib.util, runpy, sys
folder, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path.append(folder)
spec = importlib.machinery.PathFinder.find_spec("bhsearch", [folder])
package = sys.modules["bhsearch"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package, for any working directory and kind of installation."""
    folder = Path(__file__).resolve().parents[2]
    return [sys.executable, "-P", "-c", _START, str(folder), module, *arguments]


def this_process() -> dict[str, Any]:
    """Return host, number and start time of this process, JSON-able; process numbers alone may be reused."""
    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_alive(process: dict[str, Any]) -> bool:
    """Return whether a process identified by `this_process` still runs; True for a process on another host."""
    if not is_here(process):
        return bool(process)
    try:
        found = psutil.Process(process["pid"])
        return bool(found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - process["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def is_here(process: dict[str, Any]) -> bool:
    """Return whether a process identified by `this_process` belongs to this host."""
    return process.get("host") == platform.node()


def memory_mb() -> float:
    """Return the resident memory of this process in megabytes."""
    return float(psutil.Process().memory_info().rss) / 1e6


def how_it_ended(code: int) -> str:
    """Describe an exit code; a negative one is the number of a signal, as in `subprocess`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
