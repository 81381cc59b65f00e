"""Ctrl-C and SIGTERM, raised where a study can bear it and else remembered.

An exception in the middle of a write to the storage or the outbox would leave a trial that seems to run.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether this process was asked to stop.

    Attributes:
        asked: Whether it was.
    """

    def __init__(self) -> None:
        self.asked = False
        self._allowed = False  # whether the main thread is where it may be interrupted

    def ask(self) -> None:
        """Ask it to stop; from a signal handler, which runs in the main thread.

        Raises:
            KeyboardInterrupt: If it may be interrupted where it is.
        """
        self.asked = True
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Around what may be interrupted; at once, if it was asked before."""
        self._allowed = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False


@contextmanager
def deferred() -> Iterator[Interrupts]:
    """Have a first Ctrl-C or SIGTERM raised only where it is allowed; a second one is raised wherever it comes.

    A signal that would end this process without a word still does, and outside the main thread nothing changes.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}

    def heard(number: int, frame: FrameType | None) -> None:
        again = interrupts.asked
        try:
            before[signal.Signals(number)](number, frame)
        except KeyboardInterrupt:
            if again:
                raise
            interrupts.ask()

    for number in before:
        signal.signal(number, heard)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
