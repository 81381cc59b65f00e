"""Backbones as OpenVINO programs, made once and kept in the cache.

The conversion runs in a process of its own, where Keras runs on OpenVINO: there it takes a twentieth of a second, where
TensorFlow takes seconds, and it goes on while the search imports its framework. The numbers are the same.
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
    """Programs of some backbones at one image size, found in the cache or made in the background.

    Args:
        backbones: What to convert.
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
        """The program's file, or None where OpenVINO cannot take this backbone. Waits for the process."""
        if self._process is not None:
            self._process.wait()
            self._process = None
        return self._found(backbone)

    def _found(self, backbone: Backbone) -> Path | None:
        folder = cache.lookup("networks", _facts(backbone, self._size))
        return folder / _FILE if folder is not None else None


def _facts(backbone: Backbone, size: int) -> dict[str, Any]:
    versions = [metadata.version(package) for package in ("keras", "openvino")]
    facts = {"backbone": backbone.name, "weights": backbone.digest, "size": size, "versions": versions}
    return facts | {"numerics": keras_settings.pinned() | {"backend": "openvino", "onednn": keras_settings.onednn()}}


def convert(backbone: Backbone, size: int) -> None:
    """Put one program into the cache. For a process that runs Keras on OpenVINO."""

    def fill(folder: Path) -> None:
        backbone.build(size).export(str(folder / _FILE), format="openvino", verbose=False)
        _check(folder / _FILE, size)

    cache.get_or_create("networks", _facts(backbone, size), fill)


def _check(file: Path, size: int) -> None:
    """Refuse a program that is right for one image only.

    Keras writes the batch it traced with, of one image, into some operations: networks that gate their channels,
    such as EfficientNet, then fail on a larger batch.
    """
    import openvino

    program = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    together = program({0: images})[0]
    alone = np.concatenate([program({0: image[None]})[0] for image in images])
    if not np.allclose(together, alone, rtol=1e-3, atol=1e-3):
        raise ValueError("the program mixes the images of a batch")


def main(task: dict[str, Any]) -> None:
    """Convert all backbones of a task; those that cannot be are left to the search, which says why if it must."""
    backend.import_backend_for_inference()
    with backend.silence_stderr():
        for name, file, digest, kind in task["backbones"]:
            try:
                convert(Backbone(name, Path(file) if file else None, digest, kind), task["size"])
            except Exception:  # noqa: S112  # wrong weights, an operation OpenVINO lacks, a full disk: see above
                continue


if __name__ == "__main__":
    main(json.load(sys.stdin))
