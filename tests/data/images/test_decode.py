"""Decoding of single files, and hashing of many with a cache of digests."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bhsearch.data.dataset import BadFile
from bhsearch.data.images import decode as module
from bhsearch.data.images import pillow, tiff
from bhsearch.data.images.decode import Digests, decode, hash_images
from bhsearch.errors import DataError, InputError, PlaceError
from bhsearch.runtime import cache
from tests.data.images.made import rgb, save

pytestmark = pytest.mark.usefixtures("fresh_cache")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_formats_come_back_as_they_were(root, suffix):
    assert np.array_equal(decode(save(root / f"a{suffix}")), rgb())


def test_grey_is_spread_over_three_channels(root):
    grey = rgb(shape=(5, 6))
    assert np.array_equal(decode(save(root / "a.png", grey)), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(root, suffix):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    assert decode(save(root / f"a{suffix}", values))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("array", [np.full((2, 2), 1e6, np.float32), np.full((2, 2), 70_000, np.int32)])
def test_grey_without_a_known_white_is_refused(root, array):
    with pytest.raises(DataError, match=r"no known range|outside 0\.\.1"):
        decode(save(root / "a.tif", array))


def test_transparency_lies_over_white(root):
    rgba = np.zeros((1, 2, 4), dtype=np.uint8)
    rgba[0, 1, 3] = 255
    assert decode(save(root / "a.png", rgba)).tolist() == [[[255] * 3, [0] * 3]]
    la = Image.fromarray(rgba).convert("LA")
    la.save(root / "la.png")
    assert decode(root / "la.png").tolist() == [[[255] * 3, [0] * 3]]


def test_palettes_give_their_colours_and_their_transparency(root):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(root / "a.png")
    image.save(root / "b.png", transparency=bytes([0, 255]))
    assert decode(root / "a.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decode(root / "b.png").tolist() == [[[255] * 3, [200, 100, 50]]]


def test_black_and_white_is_read(root):
    assert decode(save(root / "a.png", np.array([[True, False]]))).tolist() == [[[255] * 3, [0] * 3]]


def test_cmyk_is_not_inverted(root):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(root / "a.jpg")
    assert decode(root / "a.jpg").min() > 250


def test_the_exif_orientation_is_applied(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    assert np.array_equal(decode(save(root / "a.png", exif=exif)), np.rot90(rgb(), -1))


def test_of_several_pages_the_first_is_read(root):
    pages = [Image.fromarray(rgb(seed)) for seed in (1, 2)]
    pages[0].save(root / "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(decode(root / "a.tif"), rgb(1))


def test_the_content_decides_not_the_suffix(root):
    save(root / "a.png").rename(root / "a.jpg")
    assert np.array_equal(decode(root / "a.jpg"), rgb())


def bomb():
    """Return a PNG of a few bytes whose header claims 40,000 x 40,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def png_bytes():
    stream = io.BytesIO()
    Image.fromarray(rgb(shape=(50, 60, 3))).save(stream, "PNG")
    return stream.getvalue()


def jpeg_bytes():
    stream = io.BytesIO()
    Image.fromarray(rgb(shape=(50, 60, 3))).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"patient,label\n1,0\n", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png_bytes()[:-2000], "damaged"),
        (jpeg_bytes()[:-1000], "damaged"),
        (bomb(), "too large: the limit is 100,000,000 pixels"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(root, content, reason):
    (root / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        decode(root / "a.png")
    assert str(root / "a.png") in str(error.value)
    (bad,) = hash_images(root, ["a.png"])
    assert isinstance(bad, BadFile)
    assert bad.reason.startswith(reason)


def test_an_image_just_above_the_limit_is_refused_without_a_warning(root, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 62)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow itself warns from here on
    with pytest.raises(DataError, match="63 pixels; the limit is 62 pixels"):
        decode(save(root / "a.png"))


def test_a_missing_file_a_folder_and_a_pipe_are_refused_without_waiting(root):
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    reasons = [bad.reason for bad in hash_images(root, ["missing.png", "folder.png", "pipe.png"])]
    assert reasons == ["no such file or directory", "not a regular file", "not a regular file"]


def test_an_unreadable_file_is_bad(root, monkeypatch):
    save(root / "a.png")

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.Path, "open", refuse)  # the tests may run as root, who may read everything
    assert hash_images(root, ["a.png"]) == [BadFile("a.png", "permission denied")]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_gives_an_array_or_a_reason_and_never_a_warning(data):
    content = bytearray(data.draw(st.sampled_from([png_bytes(), jpeg_bytes()])))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    with contextlib.suppress(DataError):
        assert module.decode_bytes(bytes(content)).shape[2] == 3


def test_large_files_and_images_give_the_same_in_parts(root, monkeypatch):
    alpha = Image.fromarray(np.dstack([rgb(), rgb(1)[..., :1]]))
    alpha.save(root / "alpha.png")
    save(root / "grey.png", np.random.default_rng(2).integers(0, 65536, (7, 9), dtype=np.uint16))
    save(root / "rgb.bmp")
    palette = Image.fromarray(rgb()).quantize(9)
    palette.save(root / "palette.png", transparency=bytes(range(0, 252, 28)))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "turned.jpg", exif=exif)
    save(root / "rgb.tif")
    alpha.save(root / "alpha.tif")
    paths = [path.name for path in sorted(root.iterdir())]
    whole = [decode(root / path) for path in paths], hash_images(root, paths)
    for reader in (pillow, tiff):
        monkeypatch.setattr(reader, "STRIP", 20)
    monkeypatch.setattr(module, "_READ_AT_ONCE_BYTES", 10)
    monkeypatch.setenv("BHSEARCH_CACHE", str(root / "another"))
    for path, pixels, digests in zip(paths, *whole, strict=True):
        assert np.array_equal(decode(root / path), pixels), path
        assert hash_images(root, [path]) == [digests]


def test_threads_wait_for_room_and_none_waits_for_ever(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 100)
    room, inside, most = module._MemoryBudget(), [], []

    def take(n_pixels):
        with room.for_pixels(n_pixels):
            inside.append(n_pixels)
            most.append(sum(inside))
            inside.remove(n_pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, [1, 100, 40, 60, 100, 7, 99, 2] * 50))
    assert len(most) == 400
    assert max(most) <= 100
    assert room._taken == 0


def test_many_threads_leave_the_warning_filters_as_they_were(root):
    save(root / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(root / "a.png"), range(200)))
    assert warnings.filters == before


def count_decoding(monkeypatch):
    calls = []
    real = module._digest
    monkeypatch.setattr(module, "_digest", lambda root, path: calls.append(path) or real(root, path))
    return calls


def test_equal_pixels_have_one_pixel_digest_whatever_the_file(root):
    save(root / "a.png")
    save(root / "b.png", compress_level=0)
    save(root / "c.png", rgb(1))
    a, b, c = hash_images(root, ["a.png", "b.png", "c.png"])
    assert a.pixels_digest == b.pixels_digest != c.pixels_digest
    assert len({a.bytes_digest, b.bytes_digest, c.bytes_digest}) == 3


def test_equal_bytes_of_another_shape_have_another_pixel_digest(root):
    save(root / "a.png", np.zeros((2, 3, 3), np.uint8))
    save(root / "b.png", np.zeros((3, 2, 3), np.uint8))
    a, b = hash_images(root, ["a.png", "b.png"])
    assert a.pixels_digest != b.pixels_digest


def test_results_come_in_the_order_of_the_paths_and_progress_reaches_the_end(root):
    paths = [f"{at}.png" for at in range(9)]
    for at, path in enumerate(paths):
        save(root / path, rgb(at))
    seen = []
    forward = hash_images(root, paths, progress=lambda done, total: seen.append((done, total)), n_threads=3)
    assert hash_images(root, paths[::-1]) == forward[::-1]
    assert seen == [(done, 9) for done in range(10)]


def test_a_second_scan_decodes_only_what_changed(root, monkeypatch):
    for name in "abc":
        save(root / f"{name}.png", rgb(ord(name)))
    paths = ["a.png", "b.png", "c.png"]
    first = hash_images(root, paths)
    calls = count_decoding(monkeypatch)
    assert hash_images(root, paths) == first
    assert calls == []
    save(root / "b.png", rgb(5, (8, 8, 3)))
    assert hash_images(root, paths)[1] != first[1]
    assert calls == ["b.png"]


def test_the_same_bytes_touched_are_read_again(root, monkeypatch):
    save(root / "a.png")
    first = hash_images(root, ["a.png"])
    os.utime(root / "a.png", ns=(1, 1))
    calls = count_decoding(monkeypatch)
    assert hash_images(root, ["a.png"]) == first
    assert calls == ["a.png"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"entries": []}', b'{"entries": {"a.png": [1]}, "decoder": "none"}']
)
def test_a_corrupt_cache_is_ignored_and_written_anew(root, content):
    save(root / "a.png")
    first = hash_images(root, ["a.png"])
    (file,) = cache.cache_root().glob("digests/*/digests.json")
    whole = file.read_bytes()
    file.write_bytes(content)
    assert hash_images(root, ["a.png"]) == first
    assert file.read_bytes() == whole


def test_torn_entries_of_the_cache_are_made_again(root):
    save(root / "a.png")
    first = hash_images(root, ["a.png"])
    (file,) = cache.cache_root().glob("digests/*/digests.json")
    content = json.loads(file.read_text())
    content["entries"]["a.png"] = content["entries"]["a.png"][:3]
    file.write_text(json.dumps(content))
    assert hash_images(root, ["a.png"]) == first


def test_digests_of_another_decoder_are_not_believed(root, monkeypatch):
    save(root / "a.png")
    hash_images(root, ["a.png"])
    monkeypatch.setattr(module, "_DECODER", "another")
    calls = count_decoding(monkeypatch)
    hash_images(root, ["a.png"])
    assert calls == ["a.png"]


def test_an_interrupted_scan_keeps_what_it_had(root, monkeypatch):
    for name in "ab":
        save(root / f"{name}.png", rgb(ord(name)))

    def interrupt(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_images(root, ["a.png", "b.png"], progress=interrupt, n_threads=1)
    calls = count_decoding(monkeypatch)
    hash_images(root, ["a.png", "b.png"])
    assert calls == ["b.png"]


def test_a_cache_that_cannot_be_written_is_said_before_decoding(root, tmp_path, monkeypatch):
    save(root / "a.png")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "file"))
    calls = count_decoding(monkeypatch)
    with pytest.raises(InputError, match="BHSEARCH_CACHE"):
        hash_images(root, ["a.png"])
    assert calls == []


def test_a_cache_that_need_not_be_written_need_not_be_writable(root, monkeypatch):
    save(root / "a.png")
    first = hash_images(root, ["a.png"])

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    assert hash_images(root, ["a.png"]) == first
    with pytest.raises(InputError):
        hash_images(root, [save(root / "b.png").name])


def test_the_cache_leaves_no_half_written_file(root, monkeypatch):
    save(root / "a.png")

    def fail(self, target):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(module.Path, "replace", fail)
    with pytest.raises(InputError):
        hash_images(root, ["a.png"])
    assert [file for file in cache.cache_root().rglob("*") if file.is_file()] == []


def test_a_disk_that_fills_up_meanwhile_is_a_place_without_room(root, monkeypatch):
    save(root / "a.png")

    def fail(self, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(module.Path, "replace", fail)
    with pytest.raises(PlaceError, match="The disk is full") as error:
        hash_images(root, ["a.png"])
    assert error.value.exit_code == 2
    assert [file for file in cache.cache_root().rglob("*") if file.is_file()] == []


def test_range_and_pages_are_known_and_remembered(root, monkeypatch):
    save(root / "dark.png", np.array([[0, 4095]], np.uint16))
    save(root / "blank.png", np.full((4, 4, 3), 255, np.uint8))
    save(root / "pages.tif", save_all=True, append_images=[Image.fromarray(rgb(1))] * 2)
    paths = ["dark.png", "blank.png", "pages.tif"]
    first = hash_images(root, paths)
    assert [(digests.range_used, digests.pages_left_out) for digests in first] == [(4095 / 65535, 0), (1, 0), (1, 2)]
    calls = count_decoding(monkeypatch)
    assert hash_images(root, paths) == first
    assert calls == []


def test_links_are_followed_wherever_they_lead(root, tmp_path):
    """Folders of links to files that lie elsewhere are how many keep their data."""
    save(tmp_path / "outside.png")
    save(root / "a.png")
    (root / "in.png").symlink_to(root / "a.png")
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (root / "folder").symlink_to(tmp_path)
    paths = ["a.png", "in.png", "out.png", "folder/outside.png"]
    assert hash_images(root, paths) == [hash_images(root, ["a.png"])[0]] * 4


def test_links_that_lead_nowhere_are_named(root):
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "to.png").symlink_to(root / "fro.png")
    (root / "fro.png").symlink_to(root / "to.png")
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "null.png").symlink_to("/dev/null")
    reasons = [bad.reason for bad in hash_images(root, ["loop.png", "to.png", "gone.png", "null.png"])]
    assert reasons[0] == reasons[1] == "too many levels of symbolic links"
    assert reasons[2:] == ["no such file or directory", "not a regular file"]


def test_what_a_link_leads_to_is_read_again_when_it_has_changed(root, tmp_path):
    save(tmp_path / "outside.png")
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (first,) = hash_images(root, ["out.png"])
    save(tmp_path / "outside.png", rgb(1, (8, 8, 3)))
    assert hash_images(root, ["out.png"]) != [first]


def test_the_data_folder_may_be_a_link_itself(root, tmp_path):
    save(root / "a.png")
    (tmp_path / "link").symlink_to(root)
    assert isinstance(hash_images(tmp_path / "link", ["a.png"])[0], Digests)
