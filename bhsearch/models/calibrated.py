"""The registered model: a trial's network with its calibration inside, and how it is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.errors import RunError

Pixels = npt.NDArray[np.uint8]
# As `evaluation.calibration`: float32 knows no number between 1 - 6e-8 and 1.
_EPS = 1e-7
_MOST_IMAGES, _MOST_PIXELS = 32, 1 << 23  # of a batch


def load_network(file: Path) -> Any:
    """Read a `.keras` file; nothing in it is executed.

    Raises:
        RunError: If it cannot be read, or holds code.
    """
    import keras

    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # a damaged archive raises whatever its damage meets first
        reason = (str(error) or repr(error)).strip().split("\n", 1)[0]
        raise RunError(f"A kept model must be a Keras file that loads, but {file} does not: {reason}") from error


def calibrated(network: Any, slope: float, offset: float) -> Any:
    """Put a line on the logit behind a network.

    Args:
        network: uint8 (batch, height, width, 3) -> P(malignant), (batch, 1).
        slope: Above zero.
        offset: Added after the slope.

    Returns:
        A Keras model of the same input and output. The network is one layer of it, so that its own layers keep their
        names.

    Raises:
        ValueError: If the slope or the offset is no number, or the slope not above zero.
    """
    import keras
    from keras import ops

    if not (slope > 0 and math.isfinite(slope) and math.isfinite(offset)):
        raise ValueError(f"`0 < slope` and a finite offset must hold, but got {slope=}, {offset=}.")
    images = keras.Input((None, None, 3), dtype="uint8", name="image")
    inside = ops.clip(network(images), _EPS, 1.0 - _EPS)
    logit = ops.log(inside) - ops.log1p(-inside)
    return keras.Model(images, ops.sigmoid(logit * slope + offset), name="bhsearch_calibrated")


def predict_images(network: Any, images: Iterable[Pixels]) -> Iterator[float]:
    """P(malignant) of each image in turn; neighbours of one size are asked together.

    Args:
        network: From `load_network` or `calibrated`.
        images: RGB, of any sizes. Shape (height, width, 3) each.
    """
    for batch in _batches(images):
        yield from np.asarray(network.predict_on_batch(batch), np.float32)[:, 0].tolist()


def _batches(images: Iterable[Pixels]) -> Iterator[Pixels]:
    held: list[Pixels] = []
    for image in images:
        full = len(held) == _MOST_IMAGES or sum(other.size // 3 for other in held) + image.size // 3 > _MOST_PIXELS
        if held and (full or held[0].shape != image.shape):
            yield np.stack(held)
            held = []
        held.append(image)
    if held:
        yield np.stack(held)
