"""Defer Ctrl-C and SIGTERM to points where a study can be interrupted.

An exception while the storage or the outbox is written would leave a trial in the state RUNNING.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Interrupt requests of this process.

    Attributes:
        asked: Whether an interrupt was requested.
    """

    def __init__(self) -> None:
        self.asked = False
        self._allowed = False  # whether the main thread may be interrupted now

    def ask(self) -> None:
        """Request an interrupt; called by a signal handler in the main thread.

        Raises:
            KeyboardInterrupt: If the main thread may be interrupted now.
        """
        self.asked = True
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Mark code that may be interrupted; an earlier request is raised on entry.

        Raises:
            KeyboardInterrupt: If an interrupt was requested before.
        """
        self._allowed = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False


@contextmanager
def deferred() -> Iterator[Interrupts]:
    """Defer a first Ctrl-C or SIGTERM until it is allowed; a second one is raised immediately.

    A signal whose default action ends the process still does. Outside the main thread, signals are not changed.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}

    def handle(number: int, frame: FrameType | None) -> None:
        is_second = interrupts.asked
        try:
            before[signal.Signals(number)](number, frame)
        except KeyboardInterrupt:
            if is_second:
                raise
            interrupts.ask()

    for number in before:
        signal.signal(number, handle)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
