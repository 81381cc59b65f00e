"""What all parts of the GPU benchmark share: options, images of noise and the file of results."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.images.pixel_cache import PixelCache
from bhsearch.models import backend
from bhsearch.objectives.finetune import DevelopmentRows
from experiments.benchmarks.gpu import networks
from experiments.benchmarks.gpu.networks import RandomBackbone

N_CASES = 82


class Bench:
    """What all parts share: the options, the images of noise, and the file of results.

    Args:
        options: Parsed command-line options.
        part: Name of the part that runs.
    """

    def __init__(self, options: argparse.Namespace, part: str) -> None:
        self.options, self.part = options, part
        self.folder = Path(options.output)
        self._started = time.perf_counter()

    @cached_property
    def precision(self) -> str:
        """Keras's name of the precision to train with; asking starts the framework, which takes the device's memory."""
        backend.import_backend()
        return backend.precision(self.options.precision)

    def write(self, **facts: Any) -> None:
        """Append one result to the file of the part."""
        facts["at_seconds"] = round(time.perf_counter() - self._started, 1)
        with (self.folder / f"{self.part}.jsonl").open("a") as stream:
            stream.write(json.dumps(facts) + "\n")
        print(self.part, json.dumps(facts), flush=True)

    def run_within(
        self,
        part: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        limit: float | None = None,
    ) -> int:
        """Run a part in a process of its own and return its exit code.

        Args:
            part: Name of the part, a key of `parts.WITHIN`.
            options: Further options of the command.
            environment: Environment variables to set; None for none.
            limit: Time limit in seconds; None for no limit.

        Raises:
            subprocess.TimeoutExpired: If the part takes longer; it is stopped.
        """
        words = [sys.executable, "-m", "experiments.benchmarks.gpu", *sys.argv[1:], *options]
        words[words.index("--only") + 1] = part
        return subprocess.run(words, env=os.environ | (environment or {}), timeout=limit).returncode

    @cached_property
    def pixels(self) -> PixelCache:
        """Images of noise, drawn once for all parts."""
        return networks.noise(self.folder, self.options.n_images, self.options.image_size)

    def backbones(self, names: str) -> list[RandomBackbone]:
        """Architectures with random weights; `names` with commas between."""
        return [RandomBackbone(name, None, "random-0", "keras-applications") for name in names.split(",")]

    def rows(self, n_folds: int) -> DevelopmentRows:
        """As many cases as BreakHis has folders, two thirds of them malignant."""
        n_images = self.options.n_images
        case = np.arange(n_images) * N_CASES // n_images
        return DevelopmentRows((case % 3 > 0).astype(np.int8), (case // 3 % n_folds).astype(np.int8)[None], case)
