"""Helpers of the tests of TIFF."""

from __future__ import annotations

import contextlib
import io
import warnings

import cv2
import numpy as np
import tifffile
from PIL import Image

from bhsearch.data.images import decode as module

HEIGHT, WIDTH = 21, 29
TILE = (16, 16)
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOURS = np.stack([60 + X * 6, 20 + Y * 11, 250 - 2 * X - 3 * Y], axis=-1) / 255
GREY = COLOURS[..., :1]
ALPHA = ((X + Y) / (HEIGHT + WIDTH))[..., None]
EIGHT_BIT = np.rint(COLOURS * 255).astype(np.uint8)


def read(content):
    """Pixels, the share of the range that is used, and the pages left out."""
    with contextlib.ExitStack() as room:
        return module._decode_stream(io.BytesIO(content), room)


def by_opencv(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def by_pillow(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def written(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, metadata=None, **options)
    return stream.getvalue()


def assert_near(pixels, expected, most=1):
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(float) - expected).max() <= most


def stored(values, bits):
    """Values from 0 to 1 as samples of some bits or some floating-point type, and what those then stand for."""
    if isinstance(bits, str):
        samples = values.astype(bits)
        return samples, samples.astype(float)
    white = (1 << bits) - 1
    samples = np.rint(values * white).astype(np.uint8 if bits <= 8 else np.uint16)
    return samples, samples / white
