"""A registered network for OpenVINO, resize included, checked against Keras.

OpenVINO knows no antialiased resize of the kind that TensorFlow makes of Keras's. The same numbers come from two matrix
products, whose weights depend on the size of the image alone; so the resize is exchanged for those.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.errors import RunError, SettingsError
from bhsearch.models import backend
from bhsearch.models.calibrated import Pixels

EXPORTS = ("openvino",)
TOLERANCE = 1e-4  # in P(malignant)
# Where a processor has bfloat16, OpenVINO rounds to it unless told not to, and answers are off by a hundredth.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
FILES = ("model.xml", "model.bin")


def check_export(kind: str | None) -> None:
    """Refuse an export that is not known.

    Raises:
        SettingsError: Listing those that are.
    """
    if kind is not None and kind not in EXPORTS:
        raise SettingsError(f"--export must be {' or '.join(EXPORTS)}, but got {kind!r}.")


def export_openvino(network: Any, folder: Path, examples: Sequence[Pixels]) -> float:
    """Write `model.xml` and `model.bin`, and ask them and Keras about some images.

    Args:
        network: From `calibrated`.
        folder: Where to.
        examples: RGB, of any sizes. Shape (height, width, 3) each.

    Returns:
        The largest difference in P(malignant).

    Raises:
        RunError: If it is above `TOLERANCE`, or OpenVINO cannot take the network. The folder is then as it was.
    """
    import openvino

    with tempfile.TemporaryDirectory() as draft:
        file = Path(draft) / FILES[0]
        try:
            with backend.silence_stderr():
                _convertible(network).export(str(file), format="openvino", verbose=False)
            program = openvino.Core().compile_model(file, "CPU", PRECISION)
            there = [float(program({0: image[None]})[0][0, 0]) for image in examples]
        except Exception as error:  # each raises a dozen types for what the other lacks
            reason = (str(error) or repr(error)).strip().split("\n", 1)[0]
            raise RunError(f"OpenVINO must be able to run the model, but it cannot: {reason}") from error
        here = [float(np.asarray(network.predict_on_batch(image[None]))[0, 0]) for image in examples]
        worst = float(np.abs(np.array(there) - here).max())
        if not worst <= TOLERANCE:
            raise RunError(f"An exported model must agree with Keras to {TOLERANCE:g}, but differs by {worst:.2g}.")
        for name in FILES:
            shutil.copy(Path(draft) / name, folder / name)
    return worst


def _convertible(network: Any) -> Any:
    """The network with its first resize exchanged, in whatever depth it is."""
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
    """The layer's class; made here, since this module imports no framework."""
    import keras
    from keras import ops

    class MatrixResize(keras.layers.Layer):  # type: ignore[misc]
        """Antialiased bilinear resize as `keras.ops.image.resize` does it, in operations that OpenVINO has."""

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
            rows = _weights(row, ops.floor((height - down) / 2.0), down, self._rows)
            columns = _weights(column, ops.floor((width - across) / 2.0), across, self._columns)
            planes = ops.transpose(images, (0, 3, 1, 2))
            resized = ops.matmul(ops.matmul(rows, planes), ops.transpose(columns))
            return ops.transpose(resized, (0, 2, 3, 1))

    return MatrixResize


def _weights(place: Any, start: Any, length: Any, n_out: int) -> Any:
    """How much each pixel along an axis counts in each pixel of the result: a triangle as wide as the shrinking.

    Args:
        place: 0, 1, 2, ... Shape (n_in,).
        start: First pixel that is seen.
        length: Pixels that are seen.
        n_out: Pixels of the result.

    Returns:
        Shape (n_out, n_in); rows sum to 1.
    """
    from keras import ops

    ratio = 1.0 / (n_out / length)  # rounded as TensorFlow rounds it: a grey level less or more shows
    centre = (np.arange(n_out, dtype=np.float32)[:, None] + 0.5) * ratio - 0.5 + start
    triangle = ops.maximum(1.0 - ops.abs(place[None] - centre) / ops.maximum(ratio, 1.0), 0.0)
    seen = ops.cast((place >= start) & (place < start + length), "float32")
    weight = triangle * seen[None]
    return weight / ops.sum(weight, axis=1, keepdims=True)
