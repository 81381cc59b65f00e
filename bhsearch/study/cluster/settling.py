"""Wait for the trials of workers that died on other machines, before a study is summarised."""

from __future__ import annotations

import time

from bhsearch.states import RUNNING
from bhsearch.study.session import StudySession

_BEATS = 5  # after so many missing heartbeats, every engine counts a trial as dead
_STEP_SECONDS = 1.0


def wait_for_dead_trials(session: StudySession) -> None:
    """End the trials of dead processes, and wait until no trial runs, but not for workers that still work.

    A worker that died on another machine is noticed only when its heartbeats are missing.

    Args:
        session: Session of a command that runs no trials, after the workers of the study have ended.
    """
    deadline = time.monotonic() + _BEATS * (session.engine.beat_seconds or 0.0)
    while _runs_trials(session) and time.monotonic() < deadline:
        time.sleep(_STEP_SECONDS)
        session.recover()


def _runs_trials(session: StudySession) -> bool:
    return any(trial.state == RUNNING and not trial.notes.get("waiting", False) for trial in session.stored_trials())
