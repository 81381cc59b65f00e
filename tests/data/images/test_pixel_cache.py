from __future__ import annotations

import os
import shutil
import threading
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bhsearch.data.dataset import COLUMNS, Dataset
from bhsearch.data.images.decode import hash_images
from bhsearch.data.images.pixel_cache import Resize, pixel_cache, pixel_file
from bhsearch.errors import DataError
from bhsearch.runtime import cache

SIZE = 8


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))


def corners(n_tiles=1, name="corners"):
    """A resize without a framework: the first pixels of the image, one row further down for each tile."""
    shape = (n_tiles, SIZE, SIZE, 3)
    return Resize(name, shape, lambda image: np.stack([image[k : k + SIZE, :SIZE] for k in range(n_tiles)]))


def make(folder, n_images=6, seed=0):
    """Images of different sizes. Returns their index and their pixels."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images = [random.integers(0, 256, (10 + k, 20 - k, 3), dtype=np.uint8) for k in range(n_images)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return index_of(folder), images


def index_of(folder):
    paths = sorted(path.name for path in folder.glob("*.png"))
    digests = hash_images(folder, paths)
    rows = [
        (path, 0, path, path, "", "", "", "", *astuple(each)[:2]) for path, each in zip(paths, digests, strict=True)
    ]
    return Dataset("made", folder, "manifest", pd.DataFrame(rows, columns=list(COLUMNS)).astype({"label": "int8"}))


def array_of(cache):
    return cache.read(0, cache.shape[0])


def counted(resize):
    """The same resize, and a list of what it was asked to do."""
    calls = []

    def apply(image):
        calls.append(image.shape)
        return resize.apply(image)

    return Resize(resize.name, resize.shape, apply), calls


@pytest.mark.parametrize("n_tiles", [1, 3])
def test_every_row_holds_its_own_image(tmp_path, n_tiles):
    dataset, images = make(tmp_path / "images")
    cache = pixel_cache(dataset, corners(n_tiles))
    assert cache.shape == (len(images), n_tiles, SIZE, SIZE, 3)
    assert cache.file == pixel_file(dataset, corners(n_tiles))
    for row, image in enumerate(images):
        for tile in range(n_tiles):
            np.testing.assert_array_equal(array_of(cache)[row, tile], image[tile : tile + SIZE, :SIZE])


def test_rows_are_those_of_the_index_in_its_order(tmp_path):
    # The development rows, and no other: a sealed image must not even be decoded.
    dataset, images = make(tmp_path / "images")
    resize, calls = counted(corners())
    part = dataset.select(np.array([False, True, False, True, True, False]))
    pixels = array_of(pixel_cache(part, resize))
    assert sorted(calls) == sorted(images[k].shape for k in (1, 3, 4))
    for row, k in enumerate((1, 3, 4)):
        np.testing.assert_array_equal(pixels[row, 0], images[k][:SIZE, :SIZE])


def test_some_rows_can_be_read(tmp_path):
    dataset, _ = make(tmp_path / "images")
    cache = pixel_cache(dataset, corners(2))
    whole = array_of(cache)
    np.testing.assert_array_equal(cache.read(2, 5), whole[2:5])
    np.testing.assert_array_equal(cache.read(4, 100), whole[4:])  # the last batch may ask for more than there is


def test_images_are_decoded_side_by_side(tmp_path):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor")
    dataset, _ = make(tmp_path / "images")
    both = threading.Barrier(2, timeout=20)  # passes only where two images are in hand at once
    plain = corners()

    def apply(image):
        both.wait()
        return plain.apply(image)

    pixel_cache(dataset, Resize(plain.name, plain.shape, apply))


def test_progress_counts_every_image(tmp_path):
    dataset, images = make(tmp_path / "images")
    seen = []
    pixel_cache(dataset, corners(), lambda done, total: seen.append((done, total)))
    assert seen == [(k, len(images)) for k in range(1, len(images) + 1)]
    pixel_cache(dataset, corners(), lambda done, total: pytest.fail("nothing is left to do"))


def test_the_same_images_in_another_folder_are_found(tmp_path):
    dataset, _ = make(tmp_path / "images")
    first = pixel_cache(dataset, corners())
    shutil.move(tmp_path / "images", tmp_path / "elsewhere")
    resize, calls = counted(corners())
    second = pixel_cache(index_of(tmp_path / "elsewhere"), resize)
    assert calls == []
    assert (second.key, second.file) == (first.key, first.file)


def test_the_same_pixels_in_another_file_format_are_found(tmp_path):
    dataset, images = make(tmp_path / "images")
    first = pixel_cache(dataset, corners())
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png", compress_level=0)
    assert pixel_cache(index_of(tmp_path / "images"), corners()).key == first.key


def test_one_changed_pixel_makes_another_entry(tmp_path):
    dataset, images = make(tmp_path / "images")
    first = pixel_cache(dataset, corners())
    images[3][0, 0, 0] ^= 1
    Image.fromarray(images[3]).save(tmp_path / "images" / "3.png")
    second = pixel_cache(index_of(tmp_path / "images"), corners())
    assert second.key != first.key
    assert array_of(second)[3, 0, 0, 0, 0] == images[3][0, 0, 0]
    assert (array_of(second) != array_of(first)).sum() == 1


def test_another_order_selection_or_resize_makes_another_entry(tmp_path):
    dataset, _ = make(tmp_path / "images")
    turned = Dataset("made", dataset.root, dataset.layout, dataset.table[::-1].reset_index(drop=True))
    asked = [
        (dataset, corners()),
        (turned, corners()),
        (dataset.select(np.arange(len(dataset)) < 4), corners()),
        (dataset, corners(name="another")),
    ]
    caches = [pixel_cache(*each) for each in asked]
    assert len({cache.key for cache in caches}) == len(asked)
    np.testing.assert_array_equal(array_of(caches[1]), array_of(caches[0])[::-1])


def test_a_damaged_entry_is_made_again(tmp_path):
    dataset, _ = make(tmp_path / "images")
    right = array_of(pixel_cache(dataset, corners()))
    file = pixel_file(dataset, corners())
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    np.testing.assert_array_equal(array_of(pixel_cache(dataset, corners())), right)


@pytest.mark.parametrize("content", [b"", b"no image", "cut short"], ids=["empty", "garbage", "cut short"])
def test_an_image_that_went_bad_is_an_error_and_leaves_no_entry(tmp_path, content):
    dataset, _ = make(tmp_path / "images")
    file = tmp_path / "images" / "4.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "cut short" else content)
    with pytest.raises(DataError, match=r"4\.png"):
        pixel_cache(dataset, corners())
    assert [entry for entry in cache.entries() if entry.kind == "pixels"] == []
    assert not pixel_file(dataset, corners()).exists()
    file.write_bytes(whole)
    assert pixel_cache(dataset, corners()).file.exists()


def test_an_image_that_is_gone_is_an_error_and_leaves_no_entry(tmp_path):
    dataset, _ = make(tmp_path / "images")
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png"):
        pixel_cache(dataset, corners())
    assert not pixel_file(dataset, corners()).exists()


def test_an_image_that_vanished_after_it_was_read_is_named_as_such(tmp_path):
    index, _ = make(tmp_path / "data")
    (tmp_path / "data" / "2.png").unlink()
    with pytest.raises(DataError, match=r"must stay in their folder while a study runs, but .*2.png disappeared"):
        pixel_cache(index, corners())
