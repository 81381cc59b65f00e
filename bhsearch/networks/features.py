"""Frozen features: each backbone sees each view of each development image once, ever.

On a CPU the network runs through OpenVINO in float32, which gives the same features several times faster; where OpenVINO
cannot take it, and on a GPU, Keras runs it.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data import store
from bhsearch.data.pixels import PixelCache, Progress
from bhsearch.networks import backend
from bhsearch.networks.backbones import Backbone
from bhsearch.networks.views import IDENTITY, apply_view

Features = npt.NDArray[np.float32]
Forward = Callable[[npt.NDArray[np.float32]], Features]
EXECUTORS = ("auto", "openvino", "keras")
BATCH = 32
_FILE = "features.npy"
_NETWORKS = 8  # kept ready; more are built again when they are needed
_IN_MEMORY_BYTES = 512 << 20


class FeatureCache:
    """Features of the development images, computed on demand and kept.

    Args:
        pixels: The pixel cache of the development rows.
        executor: `openvino`, `keras`, or `auto` for the faster one on this machine.
        progress: Called with (backbone, view) before features are computed, not when they are found.
    """

    def __init__(
        self, pixels: PixelCache, executor: str = "auto", progress: Callable[[str, str], Progress] | None = None
    ) -> None:
        self._pixels = pixels
        self.executor = executor if executor != "auto" else ("keras" if backend.has_gpu() else "openvino")
        self._progress = progress
        self._forward: OrderedDict[Backbone, Forward] = OrderedDict()
        self._memory: OrderedDict[tuple[Backbone, str], Features] = OrderedDict()

    def get(self, backbone: Backbone, view: str) -> Features:
        """Features of one view, the tiles of an image averaged. Shape (n_images, n_features)."""
        key = (backbone, view)
        if key not in self._memory:
            self._memory[key] = np.load(self._folder(backbone, view) / _FILE)
            while len(self._memory) > 1 and sum(a.nbytes for a in self._memory.values()) > _IN_MEMORY_BYTES:
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def _folder(self, backbone: Backbone, view: str) -> Path:
        facts = {
            "backbone": backbone.name,
            "weights": backbone.digest,
            "pixels": self._pixels.key,
            "view": view,
            "executor": self.executor if self.executor == "openvino" else f"keras-{backend.name()}",
            "version": 1,
        }
        return store.cached("features", facts, lambda folder: self._compute(backbone, view, folder / _FILE))

    def _compute(self, backbone: Backbone, view: str, file: Path) -> None:
        forward = self._network(backbone)
        array = self._pixels.array
        n_images, n_tiles, size = array.shape[:3]
        report = self._progress(backbone.name, view) if self._progress else None
        step = max(1, BATCH // n_tiles) * 8
        parts = []
        for start in range(0, n_images, step):
            chunk = np.asarray(array[start : start + step], np.float32).reshape(-1, size, size, 3)
            seen = chunk if view == IDENTITY else np.concatenate([self._view(b, view) for b in _batches(chunk)])
            rows = forward(seen)
            parts.append(rows.reshape(-1, n_tiles, rows.shape[1]).mean(axis=1, dtype=np.float32))
            if report is not None:
                report(min(start + step, n_images), n_images)
        np.save(file, np.concatenate(parts))

    @staticmethod
    def _view(images: npt.NDArray[np.float32], view: str) -> npt.NDArray[np.float32]:
        return np.asarray(apply_view(images, view))

    def load(self, backbone: Backbone) -> None:
        """Build a backbone now, so that wrong weights are an error before the first trial.

        Raises:
            BackboneError: If the weights do not fit the architecture.
        """
        self._network(backbone)

    def _network(self, backbone: Backbone) -> Forward:
        if backbone not in self._forward:
            size = self._pixels.array.shape[2]
            with backend.quiet():
                self._forward[backbone] = make_forward(backbone.build(size), self.executor)
            while len(self._forward) > _NETWORKS:
                self._forward.popitem(last=False)
        self._forward.move_to_end(backbone)
        return self._forward[backbone]


def _batches(images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]


def make_forward(network: Any, executor: str) -> Forward:
    """A function from float32 images, (n, size, size, 3), to outputs, (n, k).

    Args:
        network: A Keras network of that signature.
        executor: `openvino` or `keras`.
    """
    if executor == "openvino":
        return _openvino_forward(network)

    def forward(images: npt.NDArray[np.float32]) -> Features:
        return np.asarray(network.predict(images, batch_size=BATCH, verbose=0))

    return forward


def _openvino_forward(network: Any) -> Forward:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.xml"
        network.export(str(file), format="openvino", verbose=False)
        hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        program = openvino.Core().compile_model(openvino.Core().read_model(file), "CPU", hints)

    def forward(images: npt.NDArray[np.float32]) -> Features:
        batches = _batches(images)
        outputs: list[Features | None] = [None] * len(batches)

        def keep(request: Any, number: int) -> None:
            outputs[number] = request.get_output_tensor(0).data.copy()

        queue = openvino.AsyncInferQueue(program)
        queue.set_callback(keep)
        for number, batch in enumerate(batches):
            queue.start_async({0: batch}, number)
        queue.wait_all()
        return np.concatenate([output for output in outputs if output is not None])

    return forward
