"""The contract of layouts, over every one that is installed. A layout that is not built in brings its own sample."""

from __future__ import annotations

import pytest

from bhsearch.data.images.files import Images
from bhsearch.data.layouts.base import LAYOUTS, LayoutOptions

# Paths of a small data set in each built-in layout of folders.
SAMPLES = {
    "breakhis": ("SOB_B_TA-14-16184CD-40-001.png", "SOB_M_DC-14-13412-100-002.png"),
    "idc": ("7/0/7_idx5_x1_y51_class0.png", "8/1/8_idx5_x51_y51_class1.png"),
    "folders": ("benign/a.png", "malignant/b.png"),
}


def sample_of(name: str) -> tuple[str, ...]:
    """The paths of a sample; a layout of another package has them as `sample`."""
    return SAMPLES.get(name) or getattr(LAYOUTS.get(name), "sample", ())


@pytest.fixture(params=LAYOUTS)
def name(request):
    return request.param


def test_a_layout_describes_itself(name):
    layout = LAYOUTS.get(name)
    assert layout.pattern
    assert layout.options <= set(LayoutOptions.__dataclass_fields__)
    assert isinstance(layout.is_file, bool)
    assert isinstance(layout.names_dataset, bool)


def test_a_sample_is_detected_and_foreign_names_are_not(name):
    layout = LAYOUTS.get(name)
    confidence = layout.detect(sample_of(name) or ("a.png",), LayoutOptions())
    assert 0 <= confidence <= 1
    assert (confidence > 0) is (not layout.is_file)
    assert layout.detect(("x/1.png", "y/2.png"), LayoutOptions()) == 0


def test_a_sample_is_listed_once_an_image_with_both_labels(name, tmp_path):
    layout, paths = LAYOUTS.get(name), sample_of(name)
    if layout.is_file:
        pytest.skip("a file names its images itself")
    listing = layout.read(tmp_path, Images(paths), LayoutOptions())
    assert listing.layout == name
    assert [row.path for row in listing.rows] == sorted(paths)
    assert {row.label for row in listing.rows} == {0, 1}
    assert all(row.case for row in listing.rows)
    assert listing.rows == layout.read(tmp_path, Images(tuple(reversed(paths))), LayoutOptions()).rows
