"""Pages, sample ranges and damage of TIFF files."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.data.images.decode import decode_bytes
from bhsearch.errors import DataError
from tests.data.images.tiffs import BLACK_IS_ZERO, RGB, STRAIGHT, WHITE_IS_ZERO, page_of, tiff
from tests.data.layouts.samples import COLOURS, EIGHT_BIT, GREY, HEIGHT, TILE, X, read, stored, written

# -- pages and ranges --------------------------------------------------------------------------------------------------


def page(pixels, kind=0):
    return page_of(pixels, RGB, tags={254: kind})


SMALL = EIGHT_BIT[::4, ::4]
OTHER = 255 - EIGHT_BIT
# Pages, which of them is read, and how many are left out.
PAGES = {
    "one": ([page(EIGHT_BIT)], EIGHT_BIT, 0),
    "two alike": ([page(EIGHT_BIT), page(OTHER)], EIGHT_BIT, 1),
    "pages of a document": ([page(EIGHT_BIT, 2), page(OTHER, 2), page(OTHER, 2)], EIGHT_BIT, 2),
    "a pyramid, marked": ([page(EIGHT_BIT), page(SMALL, 1), page(SMALL[::2, ::2], 1)], EIGHT_BIT, 0),
    "a pyramid, not marked": ([page(EIGHT_BIT), page(SMALL)], EIGHT_BIT, 0),
    "a thumbnail first, marked": ([page(SMALL, 1), page(EIGHT_BIT)], EIGHT_BIT, 0),
    "a thumbnail first, not marked": ([page(SMALL), page(EIGHT_BIT)], EIGHT_BIT, 1),
    "nothing but reduced images": ([page(SMALL, 1)], SMALL, 0),
    "a larger page of another shape": ([page(SMALL), page(EIGHT_BIT[:, :9])], SMALL, 1),
    "a transparency mask": ([page(EIGHT_BIT), page(OTHER, 4)], EIGHT_BIT, 1),
}


@pytest.mark.parametrize("name", PAGES)
def test_which_page_is_read_and_how_many_are_left_out(name):
    pages, expected, n_left_out = PAGES[name]
    for order in "<>":
        picture = read(tiff(*pages, order=order))
        assert np.array_equal(picture.pixels, expected)
        assert picture.pages_left_out == n_left_out


def test_stacks_are_counted_and_levels_below_a_page_are_not():
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.stack([EIGHT_BIT[..., 0]] * 5), imagej=True)
    assert read(stream.getvalue()).pages_left_out == 4
    long = io.BytesIO()
    tifffile.imwrite(long, np.zeros((300, 4, 4), np.uint8), photometric="minisblack")
    assert read(long.getvalue()).pages_left_out == 299
    levels = io.BytesIO()
    with tifffile.TiffWriter(levels) as writer:
        writer.write(EIGHT_BIT, photometric="rgb", subifds=1)
        writer.write(SMALL, photometric="rgb", subfiletype=1)
    assert np.array_equal(read(levels.getvalue()).pixels, EIGHT_BIT)
    assert read(levels.getvalue()).pages_left_out == 0


@pytest.mark.parametrize(
    ("samples", "bits", "share"),
    [
        (np.array([[0, 4095]], np.uint16), 16, 4095 / 65535),
        (np.array([[0, 4095]], np.uint16), 12, 1.0),
        (np.array([[60_000, 60_655]], np.uint16), 16, 0.01),
        (np.array([[255, 255]], np.uint8), 8, 1.0),
        (np.array([[0.0, 0.05]], np.float32), 0, 0.05),
    ],
)
def test_the_share_of_the_range_that_is_used_is_known_above_8_bits(samples, bits, share):
    for photometric in (BLACK_IS_ZERO, WHITE_IS_ZERO):
        picture = read(tiff(page_of(samples[..., None], photometric, bits=bits)))
        assert picture.range_used == pytest.approx(share, rel=1e-3)
    picture = read(tiff(page_of(np.repeat(samples[..., None], 3, axis=2), RGB, bits=bits, planar=True)))
    assert picture.range_used == pytest.approx(share, rel=1e-3)


def test_alpha_does_not_count_as_range():
    rgba = np.dstack([EIGHT_BIT.astype(np.uint16), np.where(X == 0, 0, 65535).astype(np.uint16)])
    assert read(tiff(page_of(rgba, RGB, tags={338: STRAIGHT}))).range_used < 0.01


# -- damage ------------------------------------------------------------------------------------------------------------


def sound_files():
    yield tiff(page_of(EIGHT_BIT, RGB, planar=True))
    yield tiff(page_of(EIGHT_BIT, RGB, tile=TILE, deflate=True), order="<")
    yield tiff(page_of(stored(GREY, 12)[0], BLACK_IS_ZERO, bits=12, order=">"), order=">")
    for compression in ("lzw", "packbits", "zstd", "lzma", "jpeg", "jpeg2000", "webp"):
        yield written(EIGHT_BIT, photometric="rgb", compression=compression, rowsperstrip=8)
    yield written(COLOURS.astype(np.float32), photometric="rgb", compression="zlib", predictor=True, bigtiff=True)


SOUND = list(sound_files())


@pytest.mark.parametrize("at", range(len(SOUND)))
def test_a_file_that_was_cut_is_read_whole_or_not_at_all(at):
    whole = decode_bytes(SOUND[at])
    for length in np.linspace(1, len(SOUND[at]) - 1, 60).astype(int):
        try:
            pixels = decode_bytes(SOUND[at][:length])
        except DataError:
            continue
        assert np.array_equal(pixels, whole), length


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_anywhere_gives_an_array_or_a_reason_of_one_line(data):
    content = bytearray(data.draw(st.sampled_from(SOUND)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_bytes(bytes(content)).shape[2] == 3
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right


def test_missing_strips_and_tiles_are_not_filled_with_black():
    for tile in (None, TILE):
        tags, data = page_of(EIGHT_BIT, RGB, tile=tile)
        places, counts = (324, 325) if tile else (273, 279)
        with pytest.raises(DataError, match="strips or tiles are missing"):
            decode_bytes(tiff(({**tags, counts: [0, *map(len, data[1:])]}, data)))
        with pytest.raises(DataError, match="strips or tiles are missing"):
            decode_bytes(tiff(({**tags, places: [8]}, data)))


@pytest.mark.parametrize("tile", [None, TILE])
def test_more_pixels_than_are_read_are_refused_before_they_take_memory(tile):
    tags, data = page_of(EIGHT_BIT, RGB, tile=tile)
    with pytest.raises(DataError, match="too large: 1,600,000,000 pixels; the limit is 100,000,000 pixels"):
        decode_bytes(tiff(({**tags, 256: 40_000, 257: 40_000}, data)))


def test_tiles_and_embedded_images_that_are_larger_than_the_image_are_refused():
    tags, data = page_of(EIGHT_BIT, RGB, tile=TILE)
    with pytest.raises(DataError, match=r"a strip or tile of [0-9,]+ bytes; the limit is 1,073,741,824 bytes"):
        decode_bytes(tiff(({**tags, 322: [65_520], 323: [65_520]}, data)))
    huge = np.zeros((3000, 3000, 3), np.uint8)
    for number, encode in ((7, imagecodecs.jpeg8_encode), (34712, imagecodecs.jpeg2k_encode)):
        with pytest.raises(DataError, match="9,000,000 pixels in a strip or tile of"):
            decode_bytes(
                tiff(page_of(EIGHT_BIT, RGB, rows=HEIGHT, pack=lambda _, e=encode: e(huge), tags={259: number}))
            )


def test_a_strip_that_unpacks_to_gigabytes_is_refused_at_its_size():
    bomb = zlib.compress(bytes(200_000_000), 1)
    page = page_of(EIGHT_BIT, RGB, rows=HEIGHT, pack=lambda _: bomb, tags={259: 8})
    with pytest.raises(DataError, match="damaged"):
        decode_bytes(tiff(page))


def test_a_chain_of_pages_that_bites_its_tail_ends():
    content = bytearray(tiff(page_of(EIGHT_BIT, RGB)))
    content[-4:] = content[4:8]
    assert np.array_equal(decode_bytes(bytes(content)), EIGHT_BIT)


def test_nothing_is_written_to_the_terminal(capfd):
    """Neither by tifffile's logger nor by a library in C."""
    odd = bytearray(tiff(page_of(EIGHT_BIT, RGB, tags={270: 7, 305: (1, 2, 3, 4, 5), 34675: 9})))
    struct.pack_into("<I", odd, len(odd) - 4, 99)  # an offset to a page where none is
    for content in (bytes(odd), *SOUND, *(content[:-20] for content in SOUND)):
        with contextlib.suppress(DataError):
            decode_bytes(content)
    assert capfd.readouterr() == ("", "")
