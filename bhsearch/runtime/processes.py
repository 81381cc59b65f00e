"""Processes of this package: how one is started, and told from others after its number was given to another one."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

# Without the working directory on the path (-P): a file called random.py there is nobody's business but its owner's.
# The package is the one of the parent, wherever that found it; the folder that holds it comes last on the path, since
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
    """The command that runs a module of this package as a program, in whatever folder and however it is installed."""
    folder = Path(__file__).resolve().parents[2]
    return [sys.executable, "-P", "-c", _START, str(folder), module, *arguments]


def this_process() -> dict[str, Any]:
    """Host, number and start time of this process, JSON-able; a process number alone may be used again."""
    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether a process that `this_process` named still runs; one on another host is taken to be alive."""
    if not is_here(process):
        return bool(process)
    try:
        found = psutil.Process(process["pid"])
        return bool(found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - process["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def is_here(process: dict[str, Any]) -> bool:
    """Whether a process that `this_process` named is, or was, one of this host."""
    return process.get("host") == platform.node()


def memory_mb() -> float:
    """What this process holds of the machine's memory, in megabytes."""
    return float(psutil.Process().memory_info().rss) / 1e6


def how_it_ended(code: int) -> str:
    """An exit code in words; a negative one is the number of a signal, as `subprocess` has it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
