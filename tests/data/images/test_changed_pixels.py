"""Changed pixels: changed at their own size, resized like all others, and told apart by their keys."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.data.images.changed_pixels import ChangedPixels
from bhsearch.data.images.decode import decode
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.open_data import open_data
from bhsearch.models.resize import make_resize

SIZE = 32


@pytest.fixture(scope="module")
def dataset():
    return open_data("phantom:cases=10,images=1")


def inverted(image, case):
    return 255 - image


def rolled(image, case):
    return np.roll(image, len(case), axis=0)


def changed(dataset, change=inverted, name="change", resize="squash", by_case=False):
    return ChangedPixels(dataset, make_resize(resize, SIZE), name, change, by_case)


@pytest.mark.parametrize("mode", ["crop", "squash", "tiles"])
def test_images_are_changed_before_they_are_resized(dataset, mode):
    resize, pixels = make_resize(mode, SIZE), changed(dataset, rolled, resize=mode)
    assert pixels.shape == (len(dataset), *resize.shape)
    found = pixels.read(2, 100)
    cases = dataset.column("case")
    for row, path in list(enumerate(dataset.paths()))[2:]:
        np.testing.assert_array_equal(found[row - 2], resize.apply(rolled(decode(path), cases[row])))


def test_no_change_gives_the_pixels_of_the_cache(dataset):
    stored = pixel_cache(dataset, make_resize("squash", SIZE))
    np.testing.assert_array_equal(changed(dataset, lambda image, _: image).read(0, 5), stored.read(0, 5))


def test_the_key_depends_on_all_that_the_pixels_depend_on(dataset):
    keys = {changed(dataset).key, changed(dataset, name="other").key, changed(dataset, resize="crop").key}
    half = dataset.select(np.arange(len(dataset)) < 5)
    keys |= {changed(half).key, pixel_cache(dataset, make_resize("squash", SIZE)).key}
    assert len(keys) == 5
    assert changed(open_data("phantom:cases=10,images=1")).key == changed(dataset).key


def test_only_changes_by_case_depend_on_the_cases(dataset):
    table = dataset.table.assign(case=[f"renamed {k}" for k in range(len(dataset))])
    renamed = type(dataset)(dataset.name, dataset.root, dataset.layout, table)
    assert changed(renamed).key == changed(dataset).key
    assert changed(renamed, by_case=True).key != changed(dataset, by_case=True).key
