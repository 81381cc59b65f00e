"""Progress messages of a trial about the features that it computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bhsearch.data.images.pixel_cache import Progress
from bhsearch.text import duration


class FeatureProgress:
    """Progress messages about the features that a trial computes, shared by the feature cache and the objective.

    Args:
        tell: Called with progress messages.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.views: Sequence[str] = ()  # views of the running trial that are not cached, in order of computation

    def __call__(self, backbone: str, view: str) -> Progress:
        """Return a progress callback for the images of one view.

        The messages say the images per second, and the time left for the views of the trial that are not computed yet.
        """
        place = self.views.index(view) + 1 if view in self.views else 0
        n_later = len(self.views) - place if place else 0
        first: tuple[int, float] | None = None  # images done before, and the time then

        def progress(done: int, total: int) -> None:
            nonlocal first
            now = time.perf_counter()
            first = first or (done, now)
            text = f"computing features of {backbone}: {done}/{total}"
            if place:
                text += f", view {place} of {len(self.views)}"
            if done > first[0] and now > first[1]:
                speed = (done - first[0]) / (now - first[1])
                left = total - done + n_later * total
                text += f", {speed:.3g} images/s, {duration(left / speed)} left"
            self.tell(text)

        return progress
