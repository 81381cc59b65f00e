"""GIF, WebP, JPEG 2000, JPEG with more than 8 bits, PNG with a transparent colour, and unsupported formats."""

from __future__ import annotations

import contextlib
import io

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from bhsearch.data.images import decode as module
from bhsearch.data.images.decode import IMAGE_SUFFIXES, decode, decode_bytes
from bhsearch.errors import DataError
from tests.data.images.made import rgb, save
from tests.faults.mutated import GREY, GREY_ALPHA, RGB, RGBA, chunk, png

_Y, _X = np.mgrid[0:21, 0:29]
COLOURS = np.stack([60 + _X * 6, 20 + _Y * 11, 250 - 2 * _X - 3 * _Y], axis=-1).astype(np.uint8)
ONE_GREY = np.ascontiguousarray(COLOURS[..., 0])


def read(content):
    with contextlib.ExitStack() as room:
        return module._decode_stream(io.BytesIO(content), room)


def saved(kind, image=None, **options):
    stream = io.BytesIO()
    (image or Image.fromarray(COLOURS)).save(stream, kind, **options)
    return stream.getvalue()


def spread(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def assert_near(pixels, expected, most=1):
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= most


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_that_counts_as_an_image_is_of_a_format_that_is_read(tmp_path, suffix):
    save(tmp_path / f"a{suffix}") if suffix not in (".btf", ".tf8", ".jif", ".jpf") else save(tmp_path / "a.png")
    (file,) = tmp_path.iterdir()
    assert decode(file.rename(tmp_path / f"a{suffix}")).shape == (7, 9, 3)
    assert suffix == suffix.lower()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("WEBP", {"lossless": True}), ("JPEG2000", {}), ("JPEG2000", {"no_jp2": True}), ("BMP", {}), ("PNG", {})],
)
def test_formats_that_lose_nothing_whatever_the_suffix(tmp_path, kind, options):
    for suffix in (".jpg", ".png", ".tif"):
        (tmp_path / f"a{suffix}").write_bytes(saved(kind, **options))
        assert np.array_equal(decode(tmp_path / f"a{suffix}"), COLOURS)


def test_a_gif_has_its_palette_and_its_transparency():
    image = Image.fromarray(COLOURS).quantize(64)
    assert np.array_equal(decode_bytes(saved("GIF", image)), np.asarray(image.convert("RGB")))
    clear = np.asarray(image) == 5
    expected = np.asarray(image.convert("RGB")).copy()
    expected[clear] = 255
    assert clear.any()
    assert np.array_equal(decode_bytes(saved("GIF", image, transparency=5)), expected)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "JPEG"])
def test_lossy_formats_are_what_opencv_makes_of_them(kind):
    content = saved(kind)
    by_opencv = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert_near(decode_bytes(content), by_opencv[..., ::-1].astype(int))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_read_and_the_others_are_counted(kind):
    frames = [Image.fromarray(rgb(seed, (16, 16, 3))) for seed in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read(saved(kind, frames[0], save_all=True, append_images=frames[1:], **options))
    assert picture.pages_left_out == 2
    first = read(saved("JPEG" if kind == "MPO" else kind, frames[0], **options))
    assert first.pages_left_out == 0
    assert np.abs(picture.pixels.astype(int) - first.pixels).mean() < 3  # palettes and qualities differ a little


# -- depths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codecformat", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_jpeg_2000_of_every_depth(bits, codecformat):
    white = (1 << bits) - 1
    for array, expected in ((ONE_GREY, spread(ONE_GREY)), (COLOURS, COLOURS)):
        samples = np.rint(array / 255 * white).astype(np.uint8 if bits == 8 else np.uint16)
        content = imagecodecs.jpeg2k_encode(samples, level=0, bitspersample=bits, codecformat=codecformat)
        assert_near(decode_bytes(content), expected, 0 if bits == 8 else 1)


@pytest.mark.parametrize(
    ("array", "bits", "reason"),
    [
        (ONE_GREY.astype(np.int16), 16, "16-bit signed samples in JPEG 2000"),
        ((ONE_GREY >> 1).astype(np.int8), 8, "8-bit signed samples in JPEG 2000"),
        (ONE_GREY >> 4, 4, "4-bit unsigned samples in JPEG 2000"),
        (np.repeat(ONE_GREY[..., None], 2, axis=2), 8, "2 channels of unknown meaning"),
        (np.repeat(ONE_GREY[..., None], 5, axis=2), 8, "5 channels"),
    ],
)
def test_jpeg_2000_without_a_certain_meaning_is_refused(array, bits, reason):
    with pytest.raises(DataError, match=reason):
        decode_bytes(imagecodecs.jpeg2k_encode(array, level=0, bitspersample=bits, codecformat="j2k"))


@pytest.mark.parametrize("bits", range(9, 17))
def test_jpeg_of_more_than_8_bits(bits):
    white = (1 << bits) - 1
    for array, expected in ((ONE_GREY, spread(ONE_GREY)), (COLOURS, COLOURS)):
        samples = np.rint(array / 255 * white).astype(np.uint16)
        for lossless in [True, False][: 2 if bits == 12 else 1]:
            options = {"lossless": True} if lossless else {"level": 100, "subsampling": "444"}
            picture = read(imagecodecs.jpeg8_encode(samples, bitspersample=bits, **options))
            assert_near(picture.pixels, expected, 1 if lossless else 2)
            assert 0.5 < picture.range_used < 1


def test_jpeg_of_12_bits_is_turned_as_its_exif_says_and_refused_where_it_ends_early():
    content = imagecodecs.jpeg8_encode(np.rint(ONE_GREY / 255 * 4095).astype(np.uint16), bitspersample=12, level=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    turned = content[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + content[2:]
    assert np.array_equal(decode_bytes(turned), np.rot90(decode_bytes(content), -1))
    with pytest.raises(DataError, match="damaged: image file is truncated"):
        decode_bytes(content[: len(content) // 2])


def test_jpeg_of_two_channels_is_refused():
    content = imagecodecs.jpeg8_encode(np.repeat(ONE_GREY[..., None], 2, axis=2), colorspace="UNKNOWN")
    with pytest.raises(DataError, match="2 channels"):
        decode_bytes(content)


# -- PNG ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), [*((GREY, depth) for depth in (1, 2, 4, 8, 16)), (RGB, 8), (RGB, 16)])
def test_the_transparent_colour_of_a_png_is_white_at_every_depth(colour, depth, interlaced):
    channels = 1 if colour == GREY else 3
    samples = np.random.default_rng(depth).integers(0, 1 << depth, (9, 11, channels))
    chosen = samples[3, 4].copy()
    samples[5, 5] = chosen
    samples[6, 6] = chosen
    samples[6, 6, 0] ^= 1  # near, but another colour
    content = png(samples, depth, colour, chunk(b"tRNS", chosen.astype(">u2").tobytes()), interlaced)
    is_clear = (samples == chosen).all(axis=-1)
    scaled = samples >> 8 if depth == 16 and colour == RGB else np.rint(samples * 255 / ((1 << depth) - 1)).astype(int)
    expected = np.where(is_clear[..., None], 255, np.broadcast_to(scaled, (9, 11, 3)))
    assert np.array_equal(decode_bytes(content), expected)


@pytest.mark.parametrize(("colour", "channels"), [(GREY, 1), (RGB, 3), (GREY_ALPHA, 2), (RGBA, 4)])
@pytest.mark.parametrize(("bits", "is_narrow"), [(10, True), (12, True), (14, False), (16, False)])
def test_the_range_that_a_16_bit_png_uses_is_known(colour, channels, bits, is_narrow):
    samples = np.random.default_rng(bits).integers(0, 1 << bits, (9, 11, channels))
    if colour in (GREY_ALPHA, RGBA):
        samples[..., -1] = 65535
    assert (read(png(samples, 16, colour)).range_used < 0.1) == is_narrow


def test_a_blank_tile_of_8_bits_is_no_sign_of_a_wrong_scale():
    assert read(saved("PNG", Image.new("RGB", (9, 9), "white"))).range_used == 1
    assert read(saved("JPEG", Image.new("L", (9, 9), 3))).range_used == 1


# -- formats that are not supported ------------------------------------------------------------------------------------

FOREIGN = {
    "DICOM": lambda: bytes(128) + b"DICM" + bytes(50),
    "HEIC": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50),
    "AVIF": lambda: imagecodecs.avif_encode(COLOURS),
    "JPEG XL": lambda: imagecodecs.jpegxl_encode(COLOURS),
    "JPEG XR": lambda: imagecodecs.jpegxr_encode(COLOURS),
    "JPEG-LS": lambda: imagecodecs.jpegls_encode(COLOURS),
    "QOI": lambda: imagecodecs.qoi_encode(COLOURS),
    "Netpbm": lambda: saved("PPM"),
    "a Windows icon": lambda: saved("ICO", Image.new("RGB", (16, 16))),
    "DDS": lambda: saved("DDS"),
    "Photoshop (PSD)": lambda: b"8BPS\0\1" + bytes(50),
    "NumPy": lambda: b"\x93NUMPY\1\0" + bytes(50),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_sound_files_of_other_formats_are_named(name):
    with pytest.raises(DataError) as error:
        decode_bytes(FOREIGN[name]())
    assert str(error.value) == f"{name} is not supported; save the image as PNG or TIFF"


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {}), ("JPEG2000", {}), ("JPEG2000", {"tile_size": (16, 16)})]
)
def test_files_of_the_newer_formats_that_were_cut_are_refused(kind, options):
    content = saved(kind, **options)
    for length in range(1, len(content) - 2):
        with pytest.raises(DataError):
            decode_bytes(content[:length])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "JPEG2000"])
def test_too_many_pixels_are_refused_in_the_newer_formats(kind, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", COLOURS.shape[0] * COLOURS.shape[1] - 1)
    with pytest.raises(DataError, match="609 pixels; the limit is 608 pixels"):
        decode_bytes(saved(kind))
