"""Which GPU a worker uses, and how many workers share one."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from bhsearch.config import AUTO_WORKERS, Settings
from bhsearch.errors import SettingsError

_MOST = 8  # workers per GPU that `auto` starts
_GAIN = 1.1  # least ratio of trials a minute for which `auto` adds another worker
_MEMORY_SHARE = 0.9  # of a GPU's memory that all its workers reserve together
_DEVICE_FILES = Path("/dev")
_DEVICE = re.compile(r"\d+|(GPU|MIG)-[\w/-]+", re.ASCII)  # what CUDA takes for a device
# JAX's names of the share of the memory that a process reserves, the usual one first. JAX refuses to have both.
_FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")


def visible_gpus(device_files: Path = _DEVICE_FILES) -> list[str]:
    """Return the GPUs that this process may use, each in the format of `CUDA_VISIBLE_DEVICES`.

    Args:
        device_files: Folder of the device files, which are counted if the variable is not set.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # Like CUDA, which ignores all that follows a name of no device, such as -1, or NoDevFiles, which SLURM writes.
        return list(takewhile(_DEVICE.fullmatch, map(str.strip, named.split(","))))
    # A container may have nvidia4 and nvidia5 only. CUDA counts the devices that it finds from 0.
    found = [file for file in device_files.glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name)]
    return [str(index) for index in range(len(found))]


def first_workers_per_gpu(settings: Settings) -> int:
    """Return the number of workers that each GPU has at the start of a search.

    Raises:
        SettingsError: If `--workers-per-gpu` is given without a GPU, or with `--workers`.
    """
    wanted = settings.workers_per_gpu
    if wanted == Settings.workers_per_gpu:
        return 1
    if settings.workers is not None:  # not in `Settings`: the run of a study has the number of its workers, too
        raise SettingsError(
            f"--workers and --workers-per-gpu cannot be used together, but got --workers {settings.workers} and "
            f"--workers-per-gpu {wanted}. Remove one of them."
        )
    if not visible_gpus():
        raise SettingsError(
            f"--workers-per-gpu {wanted} requires a GPU, but none is visible. Use --workers for several workers on the "
            "processor."
        )
    return 1 if wanted == AUTO_WORKERS else int(wanted)


def grows(settings: Settings) -> bool:
    """Return whether the pool adds workers while they pay."""
    return settings.workers_per_gpu == AUTO_WORKERS


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
        return variables | _unless_set({"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"})
    return {**variables, **memory_variables(1 / sharing)} if sharing > 1 else variables


def memory_variables(share: float) -> dict[str, str]:
    """Return the environment variables with which a worker leaves memory of its GPU to others.

    JAX otherwise reserves three quarters of the memory for one process, and TensorFlow nearly all of it. TensorFlow has
    no variable for a share: its workers take memory when they need it. Values that the user has set stay.

    Args:
        share: Share of the GPU that the worker has, below 1.
    """
    fraction = next((name for name in _FRACTIONS if name in os.environ), _FRACTIONS[0])
    return _unless_set({fraction: f"{_MEMORY_SHARE * share:.3f}", "TF_FORCE_GPU_ALLOW_GROWTH": "true"})


def _unless_set(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables with the values of this process where it has them."""
    return {name: os.environ.get(name, value) for name, value in variables.items()}


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
