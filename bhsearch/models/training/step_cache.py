"""Compiled programs kept for the next trial of their spec, as many as memory allows."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator

import psutil

from bhsearch.models.training.train_step import CompiledTrainer, TrainerSpec

_MEMORY_SHARE = 0.25  # of the machine's memory that kept programs may take


class TrainerCache:
    """Programs by spec; the one not used for longest goes first.

    Args:
        most_bytes: What all of them may take together; a quarter of the machine's memory where None. The one in use
            always may.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most = int(psutil.virtual_memory().total * _MEMORY_SHARE) if most_bytes is None else most_bytes
        self._programs: OrderedDict[TrainerSpec, CompiledTrainer] = OrderedDict()
        self._costs: dict[TrainerSpec, int] = {}

    def __contains__(self, spec: TrainerSpec) -> bool:
        return spec in self._programs

    @contextlib.contextmanager
    def program(self, spec: TrainerSpec) -> Iterator[CompiledTrainer]:
        """A program for the block, made first where it is missing.

        What it costs is what the process grew by over its first use: no estimate knows what a compiler keeps.
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
        """Let one go, such as one that did not fit into memory."""
        self._programs.pop(spec, None)
        self._costs.pop(spec, None)

    def _shrink(self) -> None:
        while len(self._programs) > 1 and sum(self._costs.values()) > self._most:
            self.forget(next(iter(self._programs)))
