"""Work that is repeated in a thread while other work runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(step: Callable[[], None], seconds: float, at_once: bool = True) -> Iterator[None]:
    """Call a function in a thread every `seconds` until the block ends.

    Args:
        step: Function to call.
        seconds: Seconds between two calls.
        at_once: Whether to call the function at the beginning, too.
    """
    ended = threading.Event()

    def run() -> None:
        if at_once:
            step()
        while not ended.wait(seconds):
            step()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
