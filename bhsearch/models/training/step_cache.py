"""Cache of compiled trainers, limited by memory."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator

import psutil

from bhsearch.models.training.train_step import CompiledTrainer, TrainerSpec

_MEMORY_SHARE = 0.25  # default limit as a share of the machine's memory


class TrainerCache:
    """Cache of compiled trainers by specification. Least recently used trainers are evicted first.

    Args:
        max_bytes: Maximum memory of all trainers; a quarter of the machine's memory by default. The most recently used
            trainer is never evicted.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = int(psutil.virtual_memory().total * _MEMORY_SHARE) if max_bytes is None else max_bytes
        self._programs: OrderedDict[TrainerSpec, CompiledTrainer] = OrderedDict()
        self._costs: dict[TrainerSpec, int] = {}

    def __contains__(self, spec: TrainerSpec) -> bool:
        return spec in self._programs

    @contextlib.contextmanager
    def program(self, spec: TrainerSpec) -> Iterator[CompiledTrainer]:
        """Provide the trainer of a specification for a `with` block; a missing trainer is created.

        The memory of a trainer is measured as the growth of the process's memory during the first `with` block, since
        the memory that a compiler keeps cannot be estimated.
        """
        process = psutil.Process()
        is_new, before = spec not in self._programs, process.memory_info().rss
        if is_new:
            self._programs[spec] = CompiledTrainer(spec)
        self._programs.move_to_end(spec)
        try:
            yield self._programs[spec]
        finally:
            if is_new:
                self._costs[spec] = max(process.memory_info().rss - before, 0)
            self._shrink()

    def forget(self, spec: TrainerSpec) -> None:
        """Remove a trainer from the cache, for example after it ran out of memory."""
        self._programs.pop(spec, None)
        self._costs.pop(spec, None)

    def _shrink(self) -> None:
        while len(self._programs) > 1 and sum(self._costs.values()) > self._max_bytes:
            self.forget(next(iter(self._programs)))
