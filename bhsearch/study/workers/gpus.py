"""Which GPU a worker uses, and how many workers share one."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bhsearch.config import AUTO_WORKERS, Settings
from bhsearch.errors import SettingsError

_MOST = 8  # workers per GPU that `auto` starts
_GAIN = 1.1  # least ratio of trials a minute for which `auto` adds another worker
_MEMORY_SHARE = 0.9  # of a GPU's memory that all its workers reserve together


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, each in the format of `CUDA_VISIBLE_DEVICES`."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    found = (re.fullmatch(r"nvidia(\d+)", device.name) for device in Path("/dev").glob("nvidia*"))
    return sorted(match[1] for match in found if match)


def first_workers_per_gpu(settings: Settings) -> int:
    """Return the number of workers that each GPU has at the start of a search.

    Raises:
        SettingsError: If `--workers-per-gpu` is given without a GPU.
    """
    wanted = settings.workers_per_gpu
    if wanted == Settings.workers_per_gpu:
        return 1
    if not visible_gpus():
        raise SettingsError(
            f"--workers-per-gpu {wanted} requires a GPU, but none is visible. Use --workers for several workers on the "
            "processor."
        )
    return 1 if wanted == AUTO_WORKERS else int(wanted)


def grows(settings: Settings) -> bool:
    """Return whether the pool adds workers while they pay."""
    return settings.workers is None and settings.workers_per_gpu == AUTO_WORKERS


def gpu_variables(slot: int, gpus: Sequence[str], n_workers: int, *, grows: bool) -> Mapping[str, str]:
    """Return the environment variables that give a worker its GPU and its share of the memory.

    Args:
        slot: Index of the worker.
        gpus: GPUs in the format of `CUDA_VISIBLE_DEVICES`.
        n_workers: Number of workers of the pool.
        grows: Whether the pool may add workers, so that their number per GPU is unknown.
    """
    if not gpus:
        return {}
    variables = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {}
    sharing = math.ceil(n_workers / len(gpus))
    if grows:
        return variables | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return {**variables, **memory_variables(1 / sharing)} if sharing > 1 else variables


def memory_variables(share: float) -> dict[str, str]:
    """Return the environment variables with which a worker leaves memory of its GPU to others.

    JAX otherwise reserves three quarters of the memory for one process, and TensorFlow nearly all of it.

    Args:
        share: Share of the GPU that the worker has, below 1.
    """
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_MEMORY_SHARE * share:.3f}", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


class WorkerGrowth:
    """Decides when a pool adds workers: as long as the last addition gave at least 10 % more trials a minute.

    Each number of workers is measured over several finished trials of each worker. The first trials after an addition
    are left out, because new workers import their framework and compile.

    Args:
        n_gpus: Number of GPUs; each addition is one worker for each GPU.
    """

    def __init__(self, n_gpus: int) -> None:
        self._n_gpus, self.n_workers = n_gpus, n_gpus
        self._n_finished, self._since = 0, math.nan
        self._rate = 0.0
        self._ended = False

    def finished(self, now: float) -> int:
        """Take note of a finished trial, and return the number of workers to add.

        Args:
            now: Time in seconds, from any origin.
        """
        if self._ended:
            return 0
        self._n_finished += 1
        if self._n_finished == 2 * self.n_workers:
            self._since = now
        n_measured = self._n_finished - 2 * self.n_workers
        if n_measured < max(8, 3 * self.n_workers):
            return 0
        rate = n_measured / max(now - self._since, 1e-9)
        if rate < _GAIN * self._rate or self.n_workers >= _MOST * self._n_gpus:
            self._ended = True
            return 0
        self._rate, self._n_finished = rate, 0
        self.n_workers += self._n_gpus
        return self._n_gpus
