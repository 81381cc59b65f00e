"""The process that brings finished trials from the outbox to MLflow, so that the search need not wait for it.

It begins with the first line on its standard input, and runs until that ends, which it does when the search says so or
dies; then it sends what is left and ends. What it has to say goes to standard output, a line each: `ready RUN_ID
EXPERIMENT_ID`, `sent NUMBER`, `failed SENTENCE`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from bhsearch.errors import BhsearchError
from bhsearch.states import COMPLETE
from bhsearch.tracking.outbox import Outbox
from bhsearch.tracking.rendering import Renderer

if TYPE_CHECKING:
    from bhsearch.tracking.runs import StudyRuns

_LOOK_SECONDS = 0.2
_AHEAD = 4  # trials rendered before they are logged


def drain(outbox: Outbox) -> None:
    """Send trials as they come, then the study's end, then delete the outbox.

    Raises:
        StudyError: If the store cannot be opened.
    """
    from bhsearch.networks import backend

    backend.start_without_training()
    with backend.quiet():
        from bhsearch.tracking.runs import StudyRuns
    from bhsearch.tracking.store import open_client

    client = open_client()
    if not sys.stdin.readline() and not outbox.waiting() and outbox.end() is None:
        return  # the search ended before its first trial: it shall have left no run
    with outbox.sending():
        _send(outbox, StudyRuns(client, outbox.study()))


def _send(outbox: Outbox, runs: StudyRuns) -> None:
    say(f"ready {runs.run_id} {runs.experiment_id}")
    renderer = Renderer(outbox)
    try:
        _send_trials(outbox, runs, renderer)
    finally:
        renderer.close()
    end = outbox.end()
    if end is not None:  # else the search died, and the next one may have put its study here already
        runs.log_end(end)
        outbox.close()


def _send_trials(outbox: Outbox, runs: StudyRuns, renderer: Renderer) -> None:
    """Send trials in order, while the next ones are rendered, until standard input has ended and none waits."""
    from bhsearch.networks import backend

    ended = _end_of_input()
    last = False
    while not last:
        last = ended.wait(_LOOK_SECONDS if not outbox.waiting() else 0.0)
        while waiting := outbox.waiting():
            ahead = [outbox.trial(number).record for number in waiting[:_AHEAD]]
            renderer.ask(record["number"] for record in ahead if record["state"] == COMPLETE)
            if ahead[0]["state"] == COMPLETE:
                renderer.wait(waiting[0])
            with backend.quiet():
                runs.log_trial(outbox.trial(waiting[0]))
            outbox.sent(waiting[0])
            say(f"sent {waiting[0]}")


def say(line: str) -> None:
    """Print a line to the search, which may be gone."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end_of_input() -> threading.Event:
    """Set when standard input ends."""
    ended = threading.Event()

    def read() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    return ended


def main(folder: str) -> int:
    """Drain one outbox. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the search; what it finished is still to be sent
    try:
        drain(Outbox(Path(folder)))
    except BhsearchError as error:
        say(f"failed {' '.join(str(error).split())}")
        return error.exit_code
    except Exception as error:  # whatever a store raises: the trials stay in the outbox, and the search says so
        say(f"failed {type(error).__name__}: {' '.join(str(error).split())[:500]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
