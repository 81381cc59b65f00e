"""Export of a registered model, including its resize, to OpenVINO, with a check against the outputs of Keras.

OpenVINO has no antialiased resize that agrees with Keras on TensorFlow. The export replaces the resize by two matrix
products, which give the same values and whose weights depend only on the image size.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.arrays import Pixels
from bhsearch.errors import RunError, SettingsError
from bhsearch.models import backend
from bhsearch.models.graphs.network import GraphNetwork

EXPORTS = ("openvino",)
TOLERANCE = 1e-4  # maximum difference in P(malignant)
# By default, OpenVINO uses bfloat16 on processors that support it, which changes predictions by about 0.01.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
FILES = ("model.xml", "model.bin")


def check_export(kind: str | None) -> None:
    """Check the name of an export format.

    Raises:
        SettingsError: If the format is unknown.
    """
    if kind is not None and kind not in EXPORTS:
        raise SettingsError(f"--export must be {' or '.join(EXPORTS)}, but got {kind!r}.")


def export_openvino(network: Any, folder: Path, examples: Sequence[Pixels]) -> float:
    """Write a network to `model.xml` and `model.bin`, after comparing its outputs with those of the network.

    Args:
        network: Model returned by `calibrated`, of Keras or a graph.
        folder: Target folder.
        examples: RGB images of any sizes, for the comparison. Shape (height, width, 3) each.

    Returns:
        The largest absolute difference in P(malignant).

    Raises:
        RunError: If the difference is above `TOLERANCE`, or OpenVINO cannot run the network. No file is written.
    """
    import openvino

    with tempfile.TemporaryDirectory() as draft:
        file = Path(draft) / FILES[0]
        try:
            with backend.silence_stderr():
                _write(network, file)
            program = openvino.Core().compile_model(file, "CPU", PRECISION)
            there = [float(program({0: image[None]})[0][0, 0]) for image in examples]
        except Exception as error:  # Keras and OpenVINO raise many types for unsupported operations
            reason = (str(error) or repr(error)).strip().split("\n", 1)[0]
            raise RunError(f"OpenVINO cannot run the model: {reason} Remove --export openvino.") from error
        here = [float(np.asarray(network.predict_on_batch(image[None]))[0, 0]) for image in examples]
        worst = float(np.abs(np.array(there) - here).max())
        if not worst <= TOLERANCE:
            raise RunError(
                f"P(malignant) of the exported OpenVINO model differs from Keras by {worst:.2g}, more than the "
                f"tolerance of {TOLERANCE:g}. Remove --export openvino."
            )
        for name in FILES:
            shutil.copy(Path(draft) / name, folder / name)
    return worst


def _write(network: Any, file: Path) -> None:
    if isinstance(network, GraphNetwork):
        network.write_openvino(file)
    else:
        _convertible(network).export(str(file), format="openvino", verbose=False)


def _convertible(network: Any) -> Any:
    """Return a copy of the network, including nested models, with matrix products in place of the resize."""
    import keras

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if type(operation).__name__ == "Resize" and operation.antialias:
            return _matrix_resize()(operation.size, bool(operation.crop_to_aspect_ratio))(args[0])
        if isinstance(operation, keras.Model) and operation.inputs[0].dtype == "uint8":
            return again(operation)(*args, **kwargs)
        return operation(*args, **kwargs)

    def again(model: Any) -> Any:
        return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)

    return again(network)


def _matrix_resize() -> Any:
    """Return the layer class `MatrixResize`, defined in a function so that importing this module needs no Keras."""
    import keras
    from keras import ops

    class MatrixResize(keras.layers.Layer):  # type: ignore[misc]
        """Antialiased bilinear resize like `keras.ops.image.resize`, in operations that OpenVINO supports."""

        def __init__(self, size: tuple[int, int], crop: bool) -> None:
            super().__init__()
            self._rows, self._columns, self._crop = *size, crop

        def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            return (shape[0], self._rows, self._columns, shape[3])

        def call(self, images: Any) -> Any:
            row, column = (ops.cumsum(ops.ones_like(line)) - 1.0 for line in (images[0, :, 0, 0], images[0, 0, :, 0]))
            height, width = row[-1] + 1.0, column[-1] + 1.0
            down, across = height, width
            if self._crop:
                down = ops.maximum(ops.minimum(height, ops.floor(width * self._rows / self._columns)), 1.0)
                across = ops.maximum(ops.minimum(width, ops.floor(height * self._columns / self._rows)), 1.0)
            rows = _resize_weights(row, ops.floor((height - down) / 2.0), down, self._rows)
            columns = _resize_weights(column, ops.floor((width - across) / 2.0), across, self._columns)
            planes = ops.transpose(images, (0, 3, 1, 2))
            resized = ops.matmul(ops.matmul(rows, planes), ops.transpose(columns))
            return ops.transpose(resized, (0, 2, 3, 1))

    return MatrixResize


def _resize_weights(position: Any, start: Any, length: Any, n_out: int) -> Any:
    """Compute the resize matrix of one axis, with a triangular kernel whose width depends on the scale factor.

    Args:
        position: Pixel positions 0, 1, 2, ... Shape (n_in,).
        start: First input pixel to use.
        length: Number of input pixels to use.
        n_out: Number of output pixels.

    Returns:
        Weight of each input pixel in each output pixel. Each row sums to 1. Shape (n_out, n_in).
    """
    from keras import ops

    ratio = 1.0 / (n_out / length)  # rounded as in TensorFlow; otherwise some pixels differ by one grey level
    centre = (np.arange(n_out, dtype=np.float32)[:, None] + 0.5) * ratio - 0.5 + start
    triangle = ops.maximum(1.0 - ops.abs(position[None] - centre) / ops.maximum(ratio, 1.0), 0.0)
    seen = ops.cast((position >= start) & (position < start + length), "float32")
    weight = triangle * seen[None]
    return weight / ops.sum(weight, axis=1, keepdims=True)
