"""Start processes that run modules of this package, and identify processes even if their process id is reused."""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

# The option -P keeps the working directory off `sys.path`, where a file such as random.py would shadow the standard
# library. The package is imported from the same location as in the parent process. The folder that contains the package
# is appended to `sys.path` as the last entry, because it may be a checkout with files of any name.
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
    """Return the command line that runs a module of this package, for any working directory and installation.

    Args:
        module: Full name of the module.
        *arguments: Command-line arguments of the module.
    """
    folder = Path(__file__).resolve().parents[2]
    return [sys.executable, "-P", "-c", _START, str(folder), module, *arguments]


def own_command() -> list[str]:
    """Return the command line of `bhsearch` with this Python, for scripts that people read.

    Unlike `python_command`, it requires that the package is installed, or on `PYTHONPATH`. The working directory is
    kept off `sys.path`, too.
    """
    return [sys.executable, "-P", "-m", "bhsearch"]


def this_process() -> dict[str, Any]:
    """Return host, process id and start time of this process as a JSON-compatible dict.

    The start time distinguishes processes with the same id, because operating systems reuse process ids.
    """
    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def process_name(process: dict[str, Any]) -> str:
    """Return a name for the files of a process, which no other process of any host has.

    Args:
        process: Host, process id and start time, from `this_process`.
    """
    host = re.sub(r"[^\w.-]+", "_", process["host"])
    return f"{host}-{process['pid']}-{process['started']:.2f}"


def is_alive(process: dict[str, Any]) -> bool:
    """Return whether a process is running.

    Args:
        process: Host, process id and start time, from `this_process`; empty if unknown.

    Returns:
        True for a process on another host, which cannot be checked; False for an unknown process.
    """
    if not is_here(process):
        return bool(process)
    try:
        found = psutil.Process(process["pid"])
        return bool(found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - process["started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def is_here(process: dict[str, Any]) -> bool:
    """Return whether a process belongs to this host; for the argument see `is_alive`."""
    return process.get("host") == platform.node()


def memory_mb() -> float:
    """Return the resident memory of this process in megabytes."""
    return float(psutil.Process().memory_info().rss) / 1e6


def how_it_ended(code: int) -> str:
    """Return a description of an exit code, such as `exit code 1` or `signal SIGKILL`.

    Args:
        code: Exit code as in `subprocess`, where a negative code is the number of a signal.
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
