"""Registered models: networks of trials with calibrated outputs, and prediction with these models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels
from bhsearch.errors import RunError
from bhsearch.models.deployed_parts import features_per_image, takes_vectors
from bhsearch.models.graphs.network import SUFFIXES, GraphNetwork

# Bound of clipped probabilities, as in `evaluation.calibration`; float32 has no number between 1 - 6e-8 and 1.
_EPS = 1e-7
_MAX_IMAGES, _MAX_PIXELS = 32, 1 << 23  # per batch
_MAX_VECTORS = 4096  # per batch


def load_network(file: Path) -> Any:
    """Load a `.keras`, `.onnx` or `.xml` file without executing any code that the file contains.

    Raises:
        RunError: If the file cannot be loaded, or contains code.
    """
    if file.suffix in SUFFIXES:
        return GraphNetwork.load(file)
    import keras

    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # damaged archives raise many types
        reason = (str(error) or repr(error)).strip().split("\n", 1)[0]
        raise RunError(f"Cannot load the model {file}: {reason}") from error


def calibrated(network: Any, slope: float, offset: float) -> Any:
    """Append a linear calibration of the logit to a network.

    Args:
        network: Model from uint8 images, shape (batch, height, width, 3), or from vectors, shape (batch, n_features),
            to P(malignant), shape (batch, 1).
        slope: Factor on the logit, above 0.
        offset: Constant added to the scaled logit.

    Returns:
        A model with the same input and output shapes. The network is a single layer of this model, so that the
        layers of the network keep their names.

    Raises:
        ValueError: If the slope is not positive, or slope or offset are not finite.
    """
    if isinstance(network, GraphNetwork):
        return network.calibrated(slope, offset)
    import keras
    from keras import ops

    if not (slope > 0 and math.isfinite(slope) and math.isfinite(offset)):
        raise ValueError(f"`0 < slope` and a finite offset must hold, but got {slope=}, {offset=}.")
    entry = network.inputs[0]
    images = keras.Input(entry.shape[1:], dtype=entry.dtype, name="vector" if takes_vectors(network) else "image")
    inside = ops.clip(network(images), _EPS, 1.0 - _EPS)
    logit = ops.log(inside) - ops.log1p(-inside)
    return keras.Model(images, ops.sigmoid(logit * slope + offset), name="bhsearch_calibrated")


def predict_images(network: Any, images: Iterable[Pixels]) -> Iterator[float]:
    """Iterate over P(malignant) of each image; consecutive images of the same size are predicted in one batch.

    Args:
        network: Model returned by `load_network` or `calibrated`.
        images: RGB images of any sizes. Shape (height, width, 3) each.
    """
    for batch in _batches(images):
        yield from np.asarray(network.predict_on_batch(batch), np.float32)[:, 0].tolist()


def predict_vectors(network: Any, vectors: npt.NDArray[np.float32]) -> Iterator[float]:
    """Iterate over P(malignant) of each vector, by a model that takes vectors; see `predict_images`.

    Args:
        network: Model returned by `load_network` or `calibrated`.
        vectors: Shape (n_images, n_features).
    """
    for first in range(0, len(vectors), _MAX_VECTORS):
        batch = vectors[first : first + _MAX_VECTORS]
        yield from np.asarray(network.predict_on_batch(batch), np.float32)[:, 0].tolist()


@dataclass(frozen=True, eq=False)
class ImageOutput:
    """Outputs of a registered model for one image.

    Attributes:
        probability: Calibrated P(malignant).
        uncalibrated: P(malignant) before calibration.
        features: Output of the encoder. Shape (n_features,).
        size: Height and width of the image in pixels.
    """

    probability: float
    uncalibrated: float
    features: npt.NDArray[np.float32]
    size: tuple[int, int]


def image_outputs(network: Any, images: Iterable[Pixels], n_tiles: int = 1) -> Iterator[ImageOutput]:
    """Iterate over the outputs for each image, in one pass through the encoder; see `predict_images` for batches.

    Args:
        network: Model returned by `deployed_parts.with_features`.
        images: RGB images of any sizes. Shape (height, width, 3) each.
        n_tiles: Number of tiles per image; see `resize.grid_of`.
    """
    for batch in _batches(images):
        after, before, rows = (np.asarray(each, np.float32) for each in network.predict_on_batch(batch))
        features = features_per_image(rows, len(batch), n_tiles)
        size = (batch.shape[1], batch.shape[2])
        for p, q, row in zip(after[:, 0].tolist(), before[:, 0].tolist(), features, strict=True):
            yield ImageOutput(p, q, row, size)


def vector_outputs(network: Any, vectors: npt.NDArray[np.float32]) -> Iterator[ImageOutput]:
    """Iterate over the outputs for each vector; see `image_outputs`. The size of the images is 0, since it is unknown.

    Args:
        network: Model returned by `deployed_parts.with_features`.
        vectors: Shape (n_images, n_features).
    """
    for first in range(0, len(vectors), _MAX_VECTORS):
        batch = vectors[first : first + _MAX_VECTORS]
        after, before, rows = (np.asarray(each, np.float32) for each in network.predict_on_batch(batch))
        for p, q, row in zip(after[:, 0].tolist(), before[:, 0].tolist(), rows, strict=True):
            yield ImageOutput(p, q, row, (0, 0))


def _batches(images: Iterable[Pixels]) -> Iterator[Pixels]:
    batch: list[Pixels] = []
    for image in images:
        full = len(batch) == _MAX_IMAGES or sum(other.size // 3 for other in batch) + image.size // 3 > _MAX_PIXELS
        if batch and (full or batch[0].shape != image.shape):
            yield np.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield np.stack(batch)
