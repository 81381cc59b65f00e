"""Selection of images in a folder, among files of file managers, disks, notebooks, archives and annotators."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from bhsearch.data.dataset import LeftOut
from bhsearch.data.images.decode import IMAGE_SUFFIXES
from bhsearch.data.images.files import (
    ARCHIVE,
    CHECKPOINT,
    HIDDEN,
    MASK,
    NOT_AN_IMAGE,
    SNAPSHOT,
    THUMBNAIL,
    TRASH,
    annotating,
    describe_left_out,
    find_images,
)
from bhsearch.data.layouts.registry import read
from bhsearch.errors import DataError
from tests.conftest import SHARED


@pytest.fixture
def found(tmp_path):
    """Create empty files and return the found paths, and the counts by suffix and reason."""

    def make(*paths):
        for path in paths:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        images = find_images(tmp_path)
        return list(images.paths), Counter({(item.suffix, item.reason): item.count for item in images.left_out})

    return make


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("@eaDir/a.png/SYNOPHOTO_THUMB_M.png", THUMBNAIL),
        ("x/@eaDir/a.png", THUMBNAIL),
        ("SYNOPHOTO_THUMB_XL.jpg", THUMBNAIL),
        ("x/.@__thumb/a.jpg", THUMBNAIL),
        ("thumbnails/a.png", THUMBNAIL),
        ("qupath project/data/12/thumbnail.jpg", THUMBNAIL),
        ("Thumb.PNG", THUMBNAIL),
        ("Thumbs.db", THUMBNAIL),
        ("#recycle/a.png", TRASH),
        ("@Recycle/a.png", TRASH),
        ("$RECYCLE.BIN/S-1-5-21/$R1.png", TRASH),
        (".Trash-1000/files/a.png", TRASH),
        (".Trashes/501/a.png", TRASH),
        ("lost+found/a.png", TRASH),
        ("#snapshot/GMT+01/a.png", SNAPSHOT),
        ("System Volume Information/a.png", SNAPSHOT),
        (".ipynb_checkpoints/a-checkpoint.png", CHECKPOINT),
        ("__MACOSX/benign/._a.png", ARCHIVE),
        ("._a.png", ARCHIVE),
        (".hidden.png", HIDDEN),
        (".git/a.png", HIDDEN),
        ("masks/a.png", MASK),
        ("x/Mask/a.png", MASK),
        ("Ground_Truth/a.png", MASK),
        ("a_mask.png", MASK),
        ("benign (4)_mask.png", MASK),
        ("benign (4)_mask_1.png", MASK),
        ("a-Masks.PNG", MASK),
        ("mask_7.tif", MASK),
        ("mask0001.png", MASK),
        ("a_segmentation.png", MASK),
        ("readme.txt", NOT_AN_IMAGE),
        ("slide.svs", NOT_AN_IMAGE),
        ("image", NOT_AN_IMAGE),
    ],
)
def test_a_file_that_is_no_image_is_left_out_and_counted_with_its_reason(found, path, reason):
    paths, left_out = found("p1.png", path)
    suffix = path.rpartition("/")[2][1:].rpartition(".")
    assert paths == ["p1.png"]
    assert left_out == {(f".{suffix[2].lower()}" if suffix[1] else "no suffix", reason): 1}


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_that_is_decoded_is_an_image_in_either_case(found, suffix):
    assert found(f"a{suffix}", f"b{suffix.upper()}") == ([f"a{suffix}", f"b{suffix.upper()}"], Counter())


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("a/p1_label.png", "a/p1.png"),
        ("a/p1-seg.png", "a/p1.jpg"),
        ("a/P1_GT.png", "a/p1.png"),
        ("a/label_p1.png", "a/p1.png"),
        ("a/p1_annotation_2.png", "a/p1.png"),
        ("a/p1_thumb.png", "a/p1.png"),
        ("a/labels/p1.png", "a/p1.png"),
        ("a/labels/p1_label.png", "a/p1.png"),
        ("a/labels/benign/p1.png", "a/images/benign/p1.png"),
        ("labels/p1.png", "images/p1.png"),
        ("a/p1-checkpoint.png", "a/p1.png"),
    ],
)
def test_a_name_that_may_be_a_label_is_one_only_beside_its_image(path, image):
    assert annotating([path, image]) == {path}
    assert annotating([path, "b/other.png"]) == set()


@pytest.mark.parametrize("name", ["unmasked.png", "masked.png", "damask.png", "maskenball.png", "p1.png", "gt.png"])
def test_words_that_only_contain_mask_are_images(found, name):
    assert found(name)[0] == [name]


def test_folders_that_are_left_out_need_not_be_readable(found, tmp_path):
    folder = tmp_path / "$RECYCLE.BIN"
    folder.mkdir(mode=0)
    assert found("a.png")[0] == ["a.png"]
    folder.chmod(0o700)


def test_what_was_left_out_is_one_sentence_most_first():
    left_out = [LeftOut(".db", THUMBNAIL, 1), LeftOut(".png", MASK, 12), LeftOut(".jpg", MASK, 1_234)]
    assert describe_left_out(left_out) == (
        "1,247 files left out: 1,234 .jpg, 12 .png (mask or annotation); 1 .db (thumbnail)"
    )
    assert describe_left_out([]) == ""


def test_a_folder_of_nothing_but_masks_says_so(tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").touch()
    with pytest.raises(DataError, match=r"No images were found.*1 file left out: 1 \.png \(mask or annotation\)"):
        read(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "n_images", "left_out"),
    [
        ("layouts2/eadir", 24, {(".png", THUMBNAIL): 24}),
        ("layouts2/masks", 24, {(".png", MASK): 24}),
        ("layouts2/busi", 24, {(".png", MASK): 24}),
        ("layouts2/mixed_ext", 29, {}),
        ("layouts2/webps", 24, {}),
    ],
)
def test_the_reported_trees_have_the_images_that_a_person_sees(name, n_images, left_out):
    if not (SHARED / "bugs").is_dir():
        pytest.skip("the real test material is not here: ../shared/bugs")
    listing = read(SHARED / "bugs" / name)
    assert len(listing.rows) == n_images
    assert {(item.suffix, item.reason): item.count for item in listing.left_out} == left_out


@pytest.mark.data
def test_junk_of_several_systems_stops_no_reader(tmp_path):
    if not (SHARED / "bugs").is_dir():
        pytest.skip("the real test material is not here: ../shared/bugs")
    clean = {row.path for row in read(SHARED / "bugs/layouts/idc_junk").rows}
    shutil.copytree(SHARED / "bugs/layouts/idc_junk", tmp_path / "nas")
    patient = tmp_path / "nas" / "10253" / "0"
    image = next(patient.glob("*class0.png"))
    for junk in (".ipynb_checkpoints", ".Trash-1000", "@eaDir", "$RECYCLE.BIN", "#recycle"):
        (tmp_path / "nas" / junk).mkdir()
        shutil.copy(image, tmp_path / "nas" / junk / image.name)
    assert {row.path for row in read(tmp_path / "nas").rows} == clean
