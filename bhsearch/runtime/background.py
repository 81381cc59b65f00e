"""Work that is repeated in a thread while other work runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(step: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call a function in a thread, first at once and then every `seconds`, until the block ends."""
    ended = threading.Event()

    def run() -> None:
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
