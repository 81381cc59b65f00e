"""Many files scanned: digests in order, a cache of them, and links that are followed."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.images import decode as module
from bhsearch.data.images.decode import Digests, hash_images
from bhsearch.errors import InputError, PlaceError
from bhsearch.runtime import cache
from tests.data.images.made import rgb, save

pytestmark = pytest.mark.usefixtures("fresh_cache")


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
    with pytest.raises(PlaceError, match="the disk is full") as error:
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
