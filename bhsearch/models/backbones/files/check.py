"""Check of an encoder on eight images, before the first trial."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.files.encoder import FileEncoder, line_of
from bhsearch.runtime import cache

_N_IMAGES = 8
_SQUARES = 4
_TOLERANCE = 1e-3  # of the largest feature; programs of other batch sizes add up in another order
_FILE = "check.json"


def n_features(encoder: FileEncoder, digest: str) -> int:
    """Return the length of the feature vector, after a check of the encoder that is kept in the cache.

    Args:
        encoder: The encoder.
        digest: Digest of the encoder.

    Raises:
        BackboneError: If the encoder cannot be run, or does not return one vector of finite values per image that
            depends on this image only.
    """
    import openvino

    facts = {"encoder": digest, "openvino": openvino.__version__, "version": 1}

    def check(folder: Path) -> None:
        content = {"n_features": checked(encoder).shape[1]}
        (folder / _FILE).write_text(json.dumps(content), encoding="utf-8")

    folder = cache.get_or_create("encoder-checks", facts, check)
    found: int = json.loads((folder / _FILE).read_text(encoding="utf-8"))["n_features"]
    return found


def checked(encoder: FileEncoder) -> Float32Array:
    """Encode eight images, also in another order and in batches of other sizes, and return their features.

    Returns:
        Features. Shape (8, n_features).

    Raises:
        BackboneError: See `n_features`.
    """
    import openvino

    images = _images(encoder.size)
    order = np.random.default_rng(1).permutation(_N_IMAGES)
    parts = (order[:1], order[1:4], order[4:])
    try:
        model = encoder.program().openvino()
        program = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = [np.array(program({0: images[rows]})[0]) for rows in (np.arange(_N_IMAGES), *parts)]
    except Exception as error:  # OpenVINO raises RuntimeError of many causes
        raise BackboneError(
            f"{encoder.file} cannot encode batches of 1 to {_N_IMAGES} images of {encoder.size} pixels: "
            f"{line_of(error)}. Check its size and layout, and export it with a dynamic batch axis."
        ) from error
    together = found[0]
    lengths = [len(each) if each.ndim else 0 for each in found]
    if together.ndim != 2 or lengths != [_N_IMAGES, *map(len, parts)]:
        raise BackboneError(
            f"The output {encoder.output!r} of {encoder.file} must be one vector per image, shape (batch, n_features), "
            f"but has {together.shape} for {_N_IMAGES} images. Export the encoder with its pooling and a dynamic batch "
            "axis."
        )
    if not all(np.isfinite(each).all() for each in found):
        raise BackboneError(
            f"The features of {encoder.file} contain NaN or infinite values. Check {encoder.preprocessing.file}, or "
            "use another export."
        )
    largest = np.abs(together).max()
    gap = np.abs(np.concatenate(found[1:]) - together[order]).max()
    if gap > _TOLERANCE * largest:
        raise BackboneError(
            f"The features of an image by {encoder.file} depend on the other images of its batch: they differ by up to "
            f"{gap:.2g}, with features up to {largest:.2g}. Export it for inference, with a dynamic batch axis."
        )
    if np.ptp(together, axis=0).max() <= _TOLERANCE * largest:
        raise BackboneError(
            f"{encoder.file} returns the same features for different images. Check {encoder.preprocessing.file} and "
            "the export."
        )
    return together


def _images(size: int) -> Float32Array:
    """Return eight images of coloured squares with noise. Shape (8, size, size, 3)."""
    random = np.random.default_rng(0)
    side = -(-size // _SQUARES)
    squares = random.uniform(0, 255, (_N_IMAGES, _SQUARES, _SQUARES, 3)).repeat(side, axis=1).repeat(side, axis=2)
    images = squares[:, :size, :size] + random.normal(0, 10, (_N_IMAGES, size, size, 3))
    return np.clip(images, 0, 255).round().astype(np.float32)
