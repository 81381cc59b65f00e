"""Backbones converted to OpenVINO, once, and cached.

The conversion runs in a separate process with Keras on OpenVINO: it takes a twentieth of a second there, where
TensorFlow takes seconds, and runs while the search imports its framework. The outputs are the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.models import backend, keras_settings
from bhsearch.models.backbones.base import Backbone
from bhsearch.runtime import cache
from bhsearch.runtime.processes import python_command

_FILE = "network.xml"


class BackgroundConversion:
    """OpenVINO programs of backbones at one image size, from the cache or converted in the background.

    Args:
        backbones: Backbones to convert.
        size: Side of the images in pixels.
    """

    def __init__(self, backbones: Iterable[Backbone], size: int) -> None:
        self._size = size
        missing = [backbone for backbone in backbones if self._found(backbone) is None]
        self._process: subprocess.Popen[str] | None = None
        if missing:
            command = python_command("bhsearch.models.openvino")
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
            assert self._process.stdin is not None
            rows = [[b.name, str(b.file) if b.file else None, b.digest, b.kind] for b in missing]
            self._process.stdin.write(json.dumps({"size": size, "backbones": rows}))
            self._process.stdin.close()

    def program(self, backbone: Backbone) -> Path | None:
        """Return the file of a program, waiting for its conversion; None if OpenVINO cannot convert the backbone."""
        if self._process is not None:
            self._process.wait()
            self._process = None
        return self._found(backbone)

    def _found(self, backbone: Backbone) -> Path | None:
        folder = cache.lookup("networks", _cache_facts(backbone, self._size))
        return folder / _FILE if folder is not None else None


def _cache_facts(backbone: Backbone, size: int) -> dict[str, Any]:
    versions = [metadata.version(package) for package in ("keras", "openvino")]
    facts = {"backbone": backbone.name, "weights": backbone.digest, "size": size, "versions": versions}
    return facts | {"numerics": keras_settings.pinned() | {"backend": "openvino", "onednn": keras_settings.onednn()}}


def convert(backbone: Backbone, size: int) -> None:
    """Convert one backbone into the cache, in a process that runs Keras on OpenVINO."""

    def fill(folder: Path) -> None:
        backbone.build(size).export(str(folder / _FILE), format="openvino", verbose=False)
        _check(folder / _FILE, size)

    cache.get_or_create("networks", _cache_facts(backbone, size), fill)


def _check(file: Path, size: int) -> None:
    """Refuse a program that is only correct for batches of one image.

    Keras writes the batch size of its trace, 1, into some operations: networks with channel gates, such as
    EfficientNet, then fail for larger batches.

    Raises:
        ValueError: If the outputs depend on the other images of a batch.
    """
    import openvino

    program = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    together = program({0: images})[0]
    alone = np.concatenate([program({0: image[None]})[0] for image in images])
    if not np.allclose(together, alone, rtol=1e-3, atol=1e-3):
        raise ValueError("The program must treat the images of a batch independently, but does not.")


def main(task: dict[str, Any]) -> None:
    """Convert all backbones of a task, ignoring failures.

    The search builds a backbone without a program itself and reports the error, if there is one.
    """
    backend.import_backend_for_inference()
    with backend.silence_stderr():
        for name, file, digest, kind in task["backbones"]:
            try:
                convert(Backbone(name, Path(file) if file else None, digest, kind), task["size"])
            except Exception:  # noqa: S112  # wrong weights, an unsupported operation, a full disk: see above
                continue


if __name__ == "__main__":
    main(json.load(sys.stdin))
