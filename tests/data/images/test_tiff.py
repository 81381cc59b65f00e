"""TIFF files written by hand, compared with OpenCV and Pillow where these read them."""

from __future__ import annotations

import io
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from bhsearch.data.images.decode import decode_bytes
from bhsearch.errors import DataError
from tests.data.images.tiffs import (
    BLACK_IS_ZERO,
    CIELAB,
    CMYK,
    PALETTE,
    PREMULTIPLIED,
    RGB,
    STRAIGHT,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    YCBCR,
    packed,
    page_of,
    tiff,
)
from tests.data.layouts.samples import (
    ALPHA,
    COLOURS,
    EIGHT_BIT,
    GREY,
    HEIGHT,
    TILE,
    WIDTH,
    X,
    Y,
    assert_near,
    by_opencv,
    by_pillow,
    stored,
    written,
)


def over_white(colours, alpha):
    return colours * alpha + 1 - alpha


# Samples, photometric interpretation, extra samples, and the colours that they stand for.
KINDS = {
    "grey": (GREY, BLACK_IS_ZERO, (), lambda v: v),
    "white is zero": (1 - GREY, WHITE_IS_ZERO, (), lambda v: 1 - v),
    "colour": (COLOURS, RGB, (), lambda v: v),
    "alpha": (np.dstack([COLOURS, ALPHA]), RGB, (STRAIGHT,), lambda v: over_white(v[..., :3], v[..., 3:])),
    "alpha, unsaid": (np.dstack([COLOURS, ALPHA]), RGB, (), lambda v: over_white(v[..., :3], v[..., 3:])),
    "premultiplied": (
        np.dstack([COLOURS * ALPHA, ALPHA]),
        RGB,
        (PREMULTIPLIED,),
        lambda v: np.minimum(v[..., :3], v[..., 3:]) + 1 - v[..., 3:],
    ),
    "grey, alpha": (np.dstack([GREY, ALPHA]), BLACK_IS_ZERO, (STRAIGHT,), lambda v: over_white(v[..., :1], v[..., 1:])),
    "white is zero, alpha": (
        np.dstack([1 - GREY, ALPHA]),
        WHITE_IS_ZERO,
        (STRAIGHT,),
        lambda v: over_white(1 - v[..., :1], v[..., 1:]),
    ),
    "colour and two more": (
        np.dstack([COLOURS, ALPHA, ALPHA]),
        RGB,
        (UNSPECIFIED, UNSPECIFIED),
        lambda v: v[..., :3],
    ),
    "alpha behind another": (
        np.dstack([COLOURS, GREY, ALPHA]),
        RGB,
        (UNSPECIFIED, STRAIGHT),
        lambda v: over_white(v[..., :3], v[..., 4:]),
    ),
    "inks": (np.dstack([1 - COLOURS, 0 * GREY]), CMYK, (), lambda v: (1 - v[..., :3]) * (1 - v[..., 3:])),
}
DEPTHS = [*range(1, 17), "f2", "f4", "f8"]


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_depth_of_every_kind_is_read_in_strips_and_tiles_planes_together_and_apart(kind, bits):
    values, photometric, extra, meaning = KINDS[kind]
    samples, stands_for = stored(values, bits)
    expected = np.broadcast_to(meaning(stands_for), (HEIGHT, WIDTH, 3)) * 255
    for planar in [False, True][: min(samples.shape[2], 2)]:
        for tile in (None, TILE):
            for order in "<>":
                page = page_of(
                    samples,
                    photometric,
                    bits=0 if isinstance(bits, str) else bits,
                    planar=planar,
                    tile=tile,
                    order=order,
                    deflate=planar == (order == "<"),
                    tags={338: extra} if extra else None,
                )
                # Transparency is applied after colour and alpha were brought to 8 bits each.
                assert_near(decode_bytes(tiff(page, order=order)), expected, 3 if "multiplied" in kind else 2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, RGB])
def test_8_and_16_bits_are_exact_and_opencv_agrees(photometric, bits):
    values = GREY if photometric == BLACK_IS_ZERO else COLOURS
    samples, _ = stored(values, bits)
    exact = samples if bits == 8 else samples >> 8 if photometric == RGB else (samples.astype(int) + 128) // 257
    content = tiff(page_of(samples, photometric))
    assert np.array_equal(decode_bytes(content), np.broadcast_to(exact, (HEIGHT, WIDTH, 3)))
    assert_near(decode_bytes(content), by_opencv(content).astype(float))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd", "lzma", "jpeg2000"])
def test_compressions_that_lose_nothing(compression, planar):
    for dtype in (np.uint8, np.uint16, np.float32):
        if compression == "jpeg2000" and dtype == np.float32:
            continue
        scale = {np.uint8: 1, np.uint16: 257}.get(dtype, 1 / 255)
        array = (EIGHT_BIT * np.float64(scale)).astype(dtype)
        array = np.moveaxis(array, -1, 0).copy() if planar else array
        for tile in (None, TILE):
            for predictor in [False, True][: 1 if compression in ("packbits", "jpeg2000") else 2]:
                content = written(
                    array,
                    photometric="rgb",
                    planarconfig="separate" if planar else "contig",
                    compression=compression,
                    tile=tile,
                    predictor=predictor,
                    rowsperstrip=None if tile else 8,
                    byteorder=">",
                )
                assert np.array_equal(decode_bytes(content), EIGHT_BIT), (dtype, tile, predictor)


@pytest.mark.parametrize("tile", [None, TILE])
@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "ycbcr", "subsampling": (1, 1)},
        {"photometric": "ycbcr", "subsampling": (2, 1)},
        {"photometric": "ycbcr", "subsampling": (2, 2)},
        {"photometric": "rgb"},
        {"photometric": "rgb", "planarconfig": "separate"},
        {"photometric": "minisblack"},
        {"photometric": "miniswhite"},
        {"photometric": "separated"},
    ],
    ids=str,
)
def test_jpeg_within_tiff_is_what_opencv_and_pillow_make_of_it(options, tile):
    arrays = {
        "minisblack": EIGHT_BIT[..., 0].copy(),
        "miniswhite": EIGHT_BIT[..., 0].copy(),
        "separated": np.dstack([255 - EIGHT_BIT, np.zeros((HEIGHT, WIDTH), np.uint8)]),
    }
    array = arrays.get(options["photometric"], EIGHT_BIT)
    array = np.moveaxis(array, -1, 0).copy() if "planarconfig" in options else array
    content = written(array, compression="jpeg", tile=tile, rowsperstrip=None if tile else 16, **options)
    assert_near(decode_bytes(content), by_opencv(content).astype(float))
    assert_near(decode_bytes(content), by_pillow(content).astype(float))


@pytest.mark.parametrize("tile", [None, TILE])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO, YCBCR])
def test_jpeg_of_12_bits_within_tiff(photometric, tile):
    values = COLOURS if photometric == YCBCR else GREY
    samples, stands_for = stored(1 - values if photometric == WHITE_IS_ZERO else values, 12)

    def pack(part):
        return imagecodecs.jpeg8_encode(
            np.ascontiguousarray(np.squeeze(part)), bitspersample=12, level=100, subsampling="444"
        )

    page = page_of(samples, photometric, bits=12, tile=tile, rows=8, pack=pack, tags={259: 7, 530: (1, 1)})
    expected = 255 * np.broadcast_to(1 - stands_for if photometric == WHITE_IS_ZERO else stands_for, (HEIGHT, WIDTH, 3))
    # A tile is filled up with zeros, whose edge JPEG rings around.
    inside = np.s_[: 16 if tile else None, : 16 if tile else None]
    assert_near(decode_bytes(tiff(page))[inside], expected[inside], 2)


def test_webp_within_tiff():
    content = written(EIGHT_BIT, photometric="rgb", compression="webp", compressionargs={"lossless": True})
    assert np.array_equal(decode_bytes(content), EIGHT_BIT)


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4", "tiff_lzw", "packbits"])
def test_fax(compression):
    bits = EIGHT_BIT[..., 0] > 128
    stream = io.BytesIO()
    Image.fromarray(bits).save(stream, "TIFF", compression=compression)
    assert np.array_equal(decode_bytes(stream.getvalue()), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("across", [1, 2, 4])
@pytest.mark.parametrize("down", [1, 2, 4])
def test_colours_at_a_lower_resolution_without_jpeg(across, down):
    """Blocks of luminance, each followed by the two colours of the block."""
    ycbcr = np.asarray(Image.fromarray(EIGHT_BIT).convert("YCbCr"))

    def pack(part):
        height, width = part.shape[:2]
        filled = np.pad(part, ((0, -height % down), (0, -width % across), (0, 0)), "edge")
        blocks = [
            filled[top : top + down, left : left + across]
            for top in range(0, height, down)
            for left in range(0, width, across)
        ]
        return b"".join(block[..., 0].tobytes() + bytes(block[0, 0, 1:].tolist()) for block in blocks)

    for tile in (None, TILE):
        for deflate in (False, True):
            page = page_of(ycbcr, YCBCR, tile=tile, rows=8, deflate=deflate, pack=pack, tags={530: (across, down)})
            content = tiff(page)
            exact = ycbcr.copy()
            for channel in (1, 2):
                rows, columns = Y // down * down, X // across * across
                exact[..., channel] = ycbcr[rows, columns, channel]
            assert np.array_equal(decode_bytes(content), np.asarray(Image.fromarray(exact, "YCbCr").convert("RGB")))
            if deflate and across >= down:  # the others have no place in the standard, and no other reader
                assert_near(decode_bytes(content), by_opencv(content).astype(float), 2)


def test_ycbcr_with_a_range_of_its_own_is_refused():
    usual = {532: (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1), 529: (299, 1000, 587, 1000, 114, 1000)}
    video = {532: (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1)}
    hdtv = {529: (2126, 10000, 7152, 10000, 722, 10000)}
    ycbcr = np.asarray(Image.fromarray(EIGHT_BIT).convert("YCbCr"))
    assert_near(decode_bytes(tiff(page_of(ycbcr, YCBCR, tags={530: (1, 1), **usual}))), EIGHT_BIT.astype(float), 3)
    for odd in (video, hdtv):
        with pytest.raises(DataError, match="YCbCr with unusual coefficients or range"):
            decode_bytes(tiff(page_of(ycbcr, YCBCR, tags={530: (1, 1), **odd})))


@pytest.mark.parametrize("planar", [False, True])
def test_lab_of_8_and_16_bits_in_both_forms_is_what_pillow_makes_of_it(planar):
    lab = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    expected = by_pillow(tiff(page_of(lab, CIELAB)))
    shifted = lab ^ np.array([0, 128, 128], np.uint8)
    wide = np.dstack([lab[..., 0] * np.uint16(257), lab[..., 1:].astype(np.uint16) << 8])
    for samples, photometric in ((lab, CIELAB), (shifted, 9), (wide, CIELAB)):
        assert np.array_equal(decode_bytes(tiff(page_of(samples, photometric, planar=planar))), expected)


@pytest.mark.parametrize("scale", [257, 256, 1], ids=["of 16 bits", "shifted", "of 8 bits"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_palettes(bits, scale):
    random = np.random.default_rng(bits)
    indices = random.integers(0, 1 << bits, (HEIGHT, WIDTH, 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    table = random.integers(0, 256, (1 << bits, 3))
    page = page_of(indices, PALETTE, bits=bits, tags={320: (table.T * scale).ravel().tolist()})
    assert np.array_equal(decode_bytes(tiff(page)), table[indices[..., 0]])


@pytest.mark.parametrize("orientation", range(10))
def test_the_orientation_is_applied_as_pillow_does(orientation):
    content = tiff(page_of(EIGHT_BIT, RGB, tags={274: orientation}))
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(decode_bytes(content), np.asarray(turned))


@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
def test_bytes_whose_bits_are_reversed(bits):
    samples, stands_for = stored(COLOURS, bits)

    def pack(part):
        content = np.frombuffer(packed(part.reshape(len(part), -1), bits, "<"), np.uint8)
        return np.packbits(np.unpackbits(content), bitorder="little").tobytes()

    assert_near(decode_bytes(tiff(page_of(samples, RGB, bits=bits, pack=pack, tags={266: 2}))), stands_for * 255)


def old_jpeg(jpeg, strip):
    """A page of the JPEG compression that TIFF 6.0 had, with its whole image in one piece."""
    tags, _ = page_of(EIGHT_BIT, YCBCR, rows=HEIGHT, tags={259: 6, 530: (2, 2)})
    content = bytearray(tiff((tags, [jpeg])))
    at = content.index(jpeg)
    tags = {**tags, 273: at + strip, 279: len(jpeg) - strip, 513: at, 514: len(jpeg)}
    return tiff((tags, [jpeg]))


def test_old_style_jpeg():
    jpeg = cv2.imencode(".jpg", EIGHT_BIT[..., ::-1])[1].tobytes()
    expected = np.asarray(Image.open(io.BytesIO(jpeg)))
    for strip in (0, jpeg.index(b"\xff\xda") + 14):
        assert np.array_equal(decode_bytes(old_jpeg(jpeg, strip)), expected)
    without = page_of(EIGHT_BIT, YCBCR, tags={259: 6})
    with pytest.raises(DataError, match="OJPEG without its tag"):
        decode_bytes(tiff(without))


def test_a_last_strip_that_is_filled_up_is_read():
    page = page_of(EIGHT_BIT, RGB, rows=8, tags={259: 8})
    filled = np.pad(EIGHT_BIT, ((0, -HEIGHT % 8), (0, 0), (0, 0)))
    strips = [zlib.compress(filled[top : top + 8].tobytes()) for top in range(0, HEIGHT, 8)]
    assert np.array_equal(decode_bytes(tiff((page[0], strips))), EIGHT_BIT)


# -- what is refused, and the reason -----------------------------------------------------------------------------------


def grey_as(dtype, scale=1.0, **options):
    return written((EIGHT_BIT[..., 0] * scale).astype(dtype), photometric="minisblack", **options)


REFUSED = {
    "8-bit signed samples have no known range": lambda: grey_as(np.int8, 0.4),
    "16-bit signed samples have no known range": lambda: grey_as(np.int16),
    "32-bit signed samples have no known range": lambda: grey_as(np.int32),
    "64-bit signed samples have no known range": lambda: grey_as(np.int64),
    "32-bit grey has no known range": lambda: grey_as(np.uint32),
    "64-bit grey has no known range": lambda: grey_as(np.uint64),
    "32-bit colour has no known range": lambda: written(EIGHT_BIT.astype(np.uint32), photometric="rgb"),
    "24-bit grey has no known range": lambda: tiff(page_of(GREY.astype(np.uint32), BLACK_IS_ZERO, bits=24)),
    "complex samples have no known range": lambda: grey_as(np.complex64),
    "floating-point samples outside 0..1 (60 to 228": lambda: grey_as(np.float32),
    "floating-point samples outside 0..1 (nan": lambda: grey_as(np.float32, np.nan),
    "floating-point samples outside 0..1 (-": lambda: grey_as(np.float64, -0.001),
    "floating-point samples outside 0..1 (inf": lambda: grey_as(np.float16, np.inf),
    "2 channels of unknown meaning": lambda: channels(2, "contig"),
    "3 channels of unknown meaning": lambda: channels(3, "separate"),
    "5 channels of unknown meaning": lambda: channels(5, "separate"),
    "2 channels, where RGB needs 3": lambda: tiff(page_of(EIGHT_BIT[..., :2], RGB)),
    "17 channels": lambda: channels(17, "contig"),
    "samples of different depths: 8, 8, 4 bits": lambda: tiff(page_of(EIGHT_BIT, RGB, tags={258: (8, 8, 4)})),
    "samples of different formats": lambda: tiff(page_of(EIGHT_BIT, RGB, tags={339: (1, 1, 2)})),
    "colours of the kind CFA are not supported": lambda: written(EIGHT_BIT[..., 0].copy(), photometric="cfa"),
    "the compression JPEGXL is not supported": lambda: written(EIGHT_BIT, photometric="rgb", compression="jpegxl"),
    "the compression LERC is not supported": lambda: written(EIGHT_BIT, photometric="rgb", compression="lerc"),
    "12-bit samples with a predictor": lambda: tiff(page_of(GREY.astype("u2"), BLACK_IS_ZERO, bits=12, tags={317: 2})),
    "a volume of 3 slices": lambda: written(np.zeros((3, 16, 16), np.uint8), photometric="minisblack", volumetric=True),
    "premultiplied alpha in CMYK": lambda: tiff(page_of(np.zeros((4, 4, 5), np.uint8), CMYK, tags={338: (1,)})),
    "the palette is missing": lambda: tiff(page_of(EIGHT_BIT[..., :1], PALETTE)),
}


def channels(n, planarconfig):
    array = np.repeat(EIGHT_BIT[..., :1], n, axis=2)
    array = np.moveaxis(array, -1, 0).copy() if planarconfig == "separate" else array
    return written(array, photometric="minisblack", planarconfig=planarconfig)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_certain_meaning_is_refused_with_the_reason(reason):
    with pytest.raises(DataError) as error:
        decode_bytes(REFUSED[reason]())
    assert reason in str(error.value)
    assert "not an image" not in str(error.value)
