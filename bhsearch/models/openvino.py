"""Conversion of backbones to OpenVINO models, which are cached.

The conversion runs in a separate process in which Keras uses the OpenVINO backend, while the main process imports its
own backend. It takes a twentieth of a second, instead of seconds with TensorFlow, and gives the same outputs.
Conversions between image layouts are removed; see `openvino_layout`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.models import backend, keras_settings
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.openvino_layout import sink_transposes
from bhsearch.models.openvino_program import openvino_forward, reference_images, write_reference
from bhsearch.runtime import cache
from bhsearch.runtime.processes import python_command

_FILE = "network.xml"


class BackgroundConversion:
    """Background process that converts backbones for one image size to OpenVINO models.

    Only backbones without a cached OpenVINO model are converted.

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
        """Wait for the conversion, and return the file of a backbone's OpenVINO model.

        Returns:
            The file; None if the backbone could not be converted.
        """
        if self._process is not None:
            self._process.wait()
            self._process = None
        return self._found(backbone)

    def _found(self, backbone: Backbone) -> Path | None:
        folder = cache.lookup("networks", _cache_facts(backbone, self._size))
        return folder / _FILE if folder is not None else None


def _cache_facts(backbone: Backbone, size: int) -> dict[str, Any]:
    versions = [metadata.version(package) for package in ("keras", "openvino")]
    facts = {"backbone": backbone.name, "weights": backbone.digest, "size": size, "versions": versions, "version": 3}
    return facts | {"numerics": keras_settings.pinned() | {"backend": "openvino", "onednn": keras_settings.onednn()}}


def convert(backbone: Backbone, size: int) -> None:
    """Convert one backbone to an OpenVINO model in the cache. Keras must use the OpenVINO backend."""

    def fill(folder: Path) -> None:
        import openvino

        if not backbone.is_keras:  # its batches are checked when it is found
            openvino.serialize(backbone.program(size), folder / _FILE)
            write_reference(folder / _FILE, _alone(folder / _FILE, size))
            return
        with tempfile.TemporaryDirectory() as draft:
            exported = Path(draft) / _FILE
            backbone.build(size).export(str(exported), format="openvino", verbose=False)
            model = openvino.Core().read_model(exported)
            sink_transposes(model)
            openvino.serialize(model, folder / _FILE)
            alone = _alone(exported, size)
            _check(folder / _FILE, alone, size)
            write_reference(folder / _FILE, alone)

    cache.get_or_create("networks", _cache_facts(backbone, size), fill)


def _alone(file: Path, size: int) -> Float32Array:
    """Return the outputs of an OpenVINO model for the reference images, one image at a time."""
    import openvino

    program = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([program({0: image[None]})[0] for image in reference_images(size)])


def _check(file: Path, alone: Float32Array, size: int) -> None:
    """Check that an OpenVINO model is correct for batches of several images.

    Keras traces a network with one image and fixes this batch size in some operations. OpenVINO models of networks with
    channel gates, such as EfficientNet, are then wrong or fail for larger batches.

    Args:
        file: File of the model as it will be used.
        alone: Outputs of the model as exported by Keras, for each of the reference images alone.
        size: Side of the images in pixels.

    Raises:
        ValueError: If the outputs for an image depend on the other images of the batch, or differ from those of the
            exported model for one image.
    """
    together = openvino_forward(file)([reference_images(size)])
    if not np.allclose(together, alone, rtol=1e-3, atol=1e-3):
        raise ValueError(f"The OpenVINO model {file} gives wrong outputs for batches of several images.")


def main(task: dict[str, Any]) -> None:
    """Convert all backbones of a task, and ignore failures.

    If an OpenVINO model is missing, the main process builds the backbone itself and reports the error.

    Args:
        task: `size`, the side of the images in pixels, and `backbones`, rows of name, file, digest and kind.
    """
    backend.import_backend_for_inference()
    with backend.silence_stderr():
        for name, file, digest, kind in task["backbones"]:
            try:
                convert(Backbone(name, Path(file) if file else None, digest, kind), task["size"])
            except Exception:  # noqa: S112  # such as wrong weights, an unsupported operation or a full disk
                continue


if __name__ == "__main__":
    main(json.load(sys.stdin))
