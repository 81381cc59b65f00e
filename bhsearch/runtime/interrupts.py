"""Defer Ctrl-C and SIGTERM to points where a study can be interrupted safely.

Without deferral, an exception during a write to the storage or the outbox would leave a trial in the state RUNNING.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """The state of interrupt requests in this process.

    Attributes:
        asked: Whether an interrupt has been requested.
    """

    def __init__(self) -> None:
        self.asked = False
        self._allowed = False  # whether the main thread runs a block of `allowed`

    def ask(self) -> None:
        """Request an interrupt; to be called by a signal handler in the main thread.

        Raises:
            KeyboardInterrupt: If the main thread runs a block of `allowed`.
        """
        self.asked = True
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Mark the block as code that may be interrupted.

        Raises:
            KeyboardInterrupt: On entry, if an interrupt was requested before; in the block, when one is requested.
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
    """Defer the first Ctrl-C or SIGTERM to a block of `Interrupts.allowed`; the second one is raised immediately.

    A signal without a Python handler is not deferred: its default action, such as ending the process, is unchanged.
    Outside the main thread, no signal is deferred.

    Yields:
        The interrupt requests, whose `allowed` marks code that may be interrupted.
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
