from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.dataset import COLUMNS, BadFile
from bhsearch.data.images.decode import hash_images
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.load_dataset import load_dataset, name_of_folder
from bhsearch.errors import DataError


@pytest.fixture
def root(tmp_path):
    """Two benign and two malignant images of four cases."""
    for at, name in enumerate(["benign/p1.png", "benign/p2.png", "malignant/p3.png", "malignant/p4.png"]):
        file = tmp_path / "My Data (v2)" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), at * 10, np.uint8)).save(file)
    return tmp_path / "My Data (v2)"


def test_an_index_has_exactly_its_columns_sorted_by_path(root):
    dataset = load_dataset(root, options=LayoutOptions(case_pattern="p([0-9])"))
    assert tuple(dataset.table.columns) == COLUMNS
    assert dataset.table["path"].tolist() == ["benign/p1.png", "benign/p2.png", "malignant/p3.png", "malignant/p4.png"]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.column("case").tolist() == ["1", "2", "3", "4"]
    assert dataset.table["pixels_digest"].nunique() == 4
    assert (dataset.name, dataset.layout, dataset.has_cases, dataset.synthetic) == (
        "my-data-v2",
        "folders",
        True,
        False,
    )
    assert all(path.is_file() for path in dataset.paths())


def test_loading_twice_gives_the_same_fingerprint_and_other_pixels_another(root):
    first = load_dataset(root).fingerprint
    assert load_dataset(root).fingerprint == first
    Image.fromarray(np.full((4, 5, 3), 99, np.uint8)).save(root / "benign/p1.png")
    assert load_dataset(root).fingerprint != first


def test_unknown_cases_are_marked(root):
    assert not load_dataset(root).has_cases


def test_a_relative_folder_is_named_by_what_it_is(root, monkeypatch):
    monkeypatch.chdir(root)
    assert load_dataset(Path()).name == "my-data-v2"


def test_bad_files_are_all_named_with_the_way_out(root):
    for at in range(22):
        (root / f"benign/x{at:02d}.png").write_bytes(b"no image")
    (root / "benign/p1.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load_dataset(root)
    text = str(error.value)
    assert "23 of 26" in text
    assert "benign/p1.png: empty file" in text
    assert "benign/x18.png: not an image" in text
    assert "x19" not in text
    assert "and 3 more" in text
    assert "--skip-unreadable" in text


def test_bad_files_are_left_out_and_recorded_on_request(root, tmp_path):
    (root / "benign/p1.png").write_bytes(b"")
    (root / "benign/more").symlink_to(tmp_path)
    dataset = load_dataset(root, skip_unreadable=True)
    assert dataset.table["path"].tolist() == ["benign/p2.png", "malignant/p3.png", "malignant/p4.png"]
    assert dataset.bad == (
        BadFile("benign/more", "a link to a folder outside the data folder"),
        BadFile("benign/p1.png", "empty file"),
    )


def test_a_class_or_a_data_set_that_is_only_a_link_is_named_as_not_read(root, tmp_path):
    (root / "benign").rename(tmp_path / "elsewhere")
    (root / "benign").symlink_to(tmp_path / "elsewhere")
    reason = r"not read: benign, a link to a folder outside the data folder"
    with pytest.raises(DataError, match=rf"Only malignant images were found \({reason}\)"):
        load_dataset(root)
    (root / "malignant").rename(tmp_path / "away")
    (root / "malignant").symlink_to(tmp_path / "away")
    with pytest.raises(DataError, match=rf"No images were found in .* \({reason} and 1 more\)"):
        load_dataset(root)


def test_both_classes_must_remain_after_skipping(root):
    for name in ("p1", "p2"):
        (root / f"benign/{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match="only malignant images are left"):
        load_dataset(root, skip_unreadable=True)


def test_nothing_readable_at_all_is_said(root):
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no image is left after leaving out"):
        load_dataset(root, skip_unreadable=True)


def test_progress_is_passed_on(root):
    seen = []
    load_dataset(root, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


def test_a_manifest_is_named_by_its_folder(root):
    (root / "list.csv").write_text("path,label,case\nbenign/p1.png,0,a\nmalignant/p3.png,1,b\n")
    dataset = load_dataset(root / "list.csv")
    assert (dataset.name, dataset.layout, dataset.root, len(dataset)) == ("my-data-v2", "manifest", root, 2)


@pytest.mark.data
def test_the_real_breakhis_makes_an_index(breakhis):
    dataset = load_dataset(breakhis)
    assert (dataset.name, len(dataset), dataset.bad) == ("breakhis", 476, ())
    assert dataset.table["pixels_digest"].nunique() == 475  # 13412 is filed under DC and under LC


def test_files_that_vanish_while_they_are_read_are_named_as_such(root, monkeypatch):
    """Not as damaged files that an option skips: without them it would be another data set."""

    def vanishing(folder, paths, **options):
        (folder / paths[0]).unlink()
        return hash_images(folder, paths, **options)

    monkeypatch.setattr("bhsearch.data.load_dataset.hash_images", vanishing)
    for skip in (False, True):
        with pytest.raises(DataError, match=r"1 image of .* disappeared:\n  benign/p") as caught:
            load_dataset(root, skip_unreadable=skip)
        assert "--skip-unreadable" not in str(caught.value)
        assert "--class-map" not in str(caught.value)


def test_a_class_that_cannot_be_read_at_all_is_explained_by_its_files(root):
    for file in (root / "benign").iterdir():
        file.write_bytes(b"")
    with pytest.raises(
        DataError, match="only malignant images are left after leaving out 2 unreadable files"
    ) as caught:
        load_dataset(root, skip_unreadable=True)
    assert "benign/p1.png: empty file" in str(caught.value)
    assert "--class-map" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Mammakarzinom Köln (v2)", "mammakarzinom-köln-v2"),
        ("Ko\u0308ln", "köln"),
        ("ÅÄÖ_1", "åäö-1"),
        ("乳腺", "乳腺"),
        ("हिन्दी", "हिन्दी"),
        ("...", "data"),
    ],
)
def test_a_data_set_keeps_the_letters_of_its_folder(folder, name):
    assert name_of_folder(folder) == name


def test_sizes_are_known_from_the_first_and_from_the_second_reading(root):
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(root / "benign/p1.png")
    for _ in range(2):
        sizes = load_dataset(root).sizes
        assert sizes["benign/p1.png"] == (7, 9)
        assert sizes["malignant/p4.png"] == (4, 5)
