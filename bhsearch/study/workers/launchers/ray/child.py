"""Run `bhsearch` as the child process of an actor, and end it if the actor ends first.

Without this, workers would go on with processors and GPUs that Ray has given to others.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

MODULE = "bhsearch.study.workers.launchers.ray.child"
_LOOK_SECONDS = 1.0
_STOP_SECONDS = 60.0  # time to fail the trial and to log what is finished


def main() -> None:
    """Run the command whose arguments follow the process id of the actor."""
    parent = int(sys.argv.pop(1))
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    runpy.run_module("bhsearch", run_name="__main__", alter_sys=True)


def _end_after(parent: int) -> None:
    """Wait until the parent process has ended, then end this process, and kill its session if that takes long."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
