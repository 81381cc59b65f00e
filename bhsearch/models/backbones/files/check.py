"""Check of an encoder on eight images, before the first trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.files.encoder import FileEncoder, line_of
from bhsearch.runtime import cache

_N_IMAGES = 8
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

    Raises:
        BackboneError: See `n_features`.
    """
    import openvino

    # Smooth images with noise, since some encoders return NaN only for extreme or for uniform images.
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 255, (_N_IMAGES, 4, 4, 3))
    side = -(-encoder.size // 4)
    smooth = coarse.repeat(side, axis=1).repeat(side, axis=2)[:, : encoder.size, : encoder.size]
    images = np.clip(smooth + random.normal(0, 10, smooth.shape), 0, 255).round().astype(np.float32)
    try:
        hints = {"INFERENCE_PRECISION_HINT": "f32"}
        program = openvino.Core().compile_model(encoder.program().openvino(), "CPU", hints)
        together = _run(program, images)
        order = random.permutation(_N_IMAGES)
        parts = [_run(program, images[rows]) for rows in (order[:1], order[1:4], order[4:])]
    except Exception as error:  # OpenVINO raises RuntimeError of many causes
        raise BackboneError(
            f"{encoder.file} cannot encode a batch of {_N_IMAGES} images of {encoder.size} pixels: {line_of(error)}. Check "
            "its input size and layout, and export it with a dynamic batch axis."
        ) from error
    for features in (together, *parts):
        if features.ndim != 2 or len(features) not in (_N_IMAGES, *map(len, parts)):
            raise BackboneError(
                f"The output {encoder.output!r} of {encoder.file} must be one vector per image, shape (batch, "
                f"n_features), but has {together.shape} for {_N_IMAGES} images. Export the encoder with its pooling."
            )
    if not all(np.isfinite(features).all() for features in (together, *parts)):
        raise BackboneError(
            f"The features of {encoder.file} contain NaN or infinite values. Check {encoder.preprocessing.file}, or use "
            "another export."
        )
    if len(together) != _N_IMAGES or [len(part) for part in parts] != [1, 3, _N_IMAGES - 4]:
        raise BackboneError(
            f"{encoder.file} must return one vector per image, but returns {len(together)} for {_N_IMAGES} images. Export "
            "it with a dynamic batch axis."
        )
    largest = np.abs(together).max()
    gap = np.abs(np.concatenate(parts) - together[order]).max()
    if gap > _TOLERANCE * largest:
        raise BackboneError(
            f"The features of an image by {encoder.file} depend on the other images of its batch: they differ by up to "
            f"{gap:.2g}, with features up to {largest:.2g}. Export it for inference, with a dynamic batch axis."
        )
    if np.ptp(together, axis=0).max() <= _TOLERANCE * largest:
        raise BackboneError(
            f"{encoder.file} returns the same features for different images. Check {encoder.preprocessing.file} and the "
            "export."
        )
    return together


def _run(program: Any, images: Float32Array) -> Float32Array:
    return np.array(program({0: images})[0])
