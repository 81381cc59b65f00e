"""Cache of compiled trainers, limited by memory."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator

import psutil

from bhsearch.models.training.train_step import CompiledTrainer, TrainerSpec

_MEMORY_SHARE = 0.25  # of the machine's memory


class TrainerCache:
    """Compiled trainers by specification; the least recently used are removed first.

    Args:
        max_bytes: Maximum memory of all trainers, a quarter of the machine's memory by default. The trainer in use is
            never removed.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = int(psutil.virtual_memory().total * _MEMORY_SHARE) if max_bytes is None else max_bytes
        self._programs: OrderedDict[TrainerSpec, CompiledTrainer] = OrderedDict()
        self._costs: dict[TrainerSpec, int] = {}

    def __contains__(self, spec: TrainerSpec) -> bool:
        return spec in self._programs

    @contextlib.contextmanager
    def program(self, spec: TrainerSpec) -> Iterator[CompiledTrainer]:
        """Provide a trainer for a `with` block, compiled if it is missing.

        Its cost is the growth of the process's memory over its first use, since no estimate includes what a compiler
        keeps.
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
        """Remove a trainer, such as one that did not fit into memory."""
        self._programs.pop(spec, None)
        self._costs.pop(spec, None)

    def _shrink(self) -> None:
        while len(self._programs) > 1 and sum(self._costs.values()) > self._max_bytes:
            self.forget(next(iter(self._programs)))
