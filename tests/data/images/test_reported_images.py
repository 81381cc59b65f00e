"""Files from bug reports, with their expected pixels or the reason why they are refused."""

from __future__ import annotations

import contextlib
import io
import json

import cv2
import numpy as np
import pytest

from bhsearch.data.images import decode as module
from bhsearch.errors import DataError
from tests.conftest import SHARED

pytestmark = pytest.mark.data

FOLDER = SHARED / "bugs"
NAMES = json.loads((FOLDER / "images_names.json").read_text()) if FOLDER.is_dir() else []
REFUSED = {
    "adler_bad.png": "damaged: broken data stream",
    "crc_bad.png": "damaged: broken data stream",
    "no_eoi.jpg": "damaged: image file is truncated",
    "truncated_90.jpg": "damaged: image file is truncated",
    "dicom.png": "DICOM is not supported",
    "int16.tif": "16-bit signed samples have no known range",
    "uint32grey.tif": "32-bit grey has no known range",
    "rgbuint32.tif": "32-bit colour has no known range",
    "multichannel5_minisblack.tif": "5 channels of unknown meaning",
}
# 12-bit values in files of 16: no reader can know, and the audit says so.
NARROW = ("grey12in16.tif", "rgb12in16.tif")
PAGES_LEFT_OUT = {
    "apng.png": 1,
    "imagej_stack.tif": 2,
    "mpo.jpg": 1,
    "multipage.tif": 1,
    "pyramid_small_first.tif": 1,
}
# Grey levels by which a lossy file may differ from what it was made of: the largest, and the mean.
LOSSY = {
    "jpeg_tiled.tif": (39, 2),
    "jpeg_ycbcr.tif": (29, 2),
    "lab.tif": (13, 1),
    "mpo.jpg": (19, 3),
    "ycbcr.tif": (3, 2),
    **dict.fromkeys(
        ("exif_bad9.jpg", "extraneous_mid.jpg", "extraneous_tail.jpg", "plain.jpg", "progressive.jpg"), (9, 2)
    ),
    "rgb444_420.jpg": (9, 2),
}
BY_OPENCV = ("exif2.jpg", "exif3.jpg", "exif5.jpg", "exif6.jpg", "exif8.jpg", "gif.jpg", "jp2.jpg", "webp.png")


def read(name):
    with contextlib.ExitStack() as room:
        return module._decode_stream(io.BytesIO((FOLDER / "images" / name).read_bytes()), room)


@pytest.fixture(scope="module")
def expected():
    if not FOLDER.is_dir():
        pytest.skip("the real test material is not here: ../shared/bugs")
    with np.load(FOLDER / "images_expected.npz") as arrays:
        found = dict(arrays)
    found["bilevel.tif"] = 255 - found["bilevel.tif"]  # kept as the bits are stored, but here 0 is white
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_reported_image_is_read_right_or_refused_with_the_reason(name, expected):
    if name in REFUSED:
        with pytest.raises(DataError, match=REFUSED[name]):
            read(name)
        return
    picture = read(name)
    assert picture.pages_left_out == PAGES_LEFT_OUT.get(name, 0)
    assert (picture.range_used < 0.1) == (name in NARROW)
    if name in BY_OPENCV:
        reference = cv2.imread(str(FOLDER / "images" / name), cv2.IMREAD_COLOR)[..., ::-1]
    elif name in expected and name not in NARROW:
        reference = expected[name]
    else:
        return
    assert picture.pixels.shape == reference.shape
    difference = np.abs(picture.pixels.astype(int) - reference)
    most, mean = LOSSY.get(name, (1, 1))
    assert difference.max() <= most
    assert difference.mean() < mean


def test_narrow_ranges_are_read_as_they_are_and_transparency_lies_over_white(expected):
    for name in NARROW:
        assert np.abs(read(name).pixels.astype(float) - expected[name] / 16).max() <= 1
    assert (read("rgba_transparent0.png").pixels == 255).all()
