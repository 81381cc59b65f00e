"""Trees whose folders name class, part and patient, at any depth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.registry import detect, read
from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.splits import make_split
from bhsearch.errors import DataError, SettingsError
from tests.conftest import SHARED

BENIGN, MALIGNANT = "SOB_B_TA-14-16184CD-40-001.png", "SOB_M_DC-14-13412-100-007.png"


def labels(listing):
    return {row.path: row.label for row in listing.rows}


# -- classes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "dataset/images/", "40X/"])
@pytest.mark.parametrize("below", ["", "tiles/deep/"])
def test_class_folders_lie_at_any_depth(tree, above, below):
    paths = {f"{above}Benign/{below}a.png": 0, f"{above}MALIGNANT/{below}b.png": 1}
    assert labels(read(tree(*paths))) == paths


@pytest.mark.parametrize(
    ("benign", "malignant"),
    [
        ("0", "1"),
        ("normal", "cancer"),
        ("negative", "positive"),
        ("class_0", "class_1"),
        ("gutartig", "bösartig"),
        ("IDC(-)", "IDC(+)"),
        ("1", "0"),
    ],
)
@pytest.mark.parametrize("above", ["", "data/", "P{}/"])
def test_other_class_folders_are_taken_with_a_map(tree, benign, malignant, above):
    paths = {f"{above.format(at)}{name}/{at}.png": at % 2 for at in range(8) for name in [(benign, malignant)[at % 2]]}
    root = tree(*paths)
    with pytest.raises(DataError, match="--class-map") as refusal:
        read(root)
    assert repr(benign) in str(refusal.value)
    assert repr(malignant) in str(refusal.value)
    assert labels(read(root, options=LayoutOptions(class_map=(f"benign={benign}", f"malignant={malignant}")))) == paths


def test_several_folders_may_be_one_class(tree):
    root = tree("normal/a.png", "benign/b.png", "in situ/c.png", "Invasive/d.png")
    listing = read(root, options=LayoutOptions(class_map=("benign=normal", "malignant=in situ", "malignant=invasive")))
    assert [(row.path[0], row.label) for row in listing.rows] == [("I", 1), ("b", 0), ("i", 1), ("n", 0)]


def test_a_folder_that_the_map_lacks_is_refused_by_name(tree):
    root = tree("normal/a.png", "cancer/b.png", "odd/c.png")
    with pytest.raises(DataError, match=r"(?s)1 of 3 images.*odd/c\.png.*'odd'"):
        read(root, options=LayoutOptions(class_map=("benign=normal", "malignant=cancer")))


def test_numbers_of_patients_are_no_classes(tree):
    """Patient 1 with both classes: the class is where every path has one."""
    paths = {f"{patient}/{label}/{at}.png": label for patient in range(6) for label in (0, 1) for at in range(2)}
    assert labels(read(tree(*paths), options=LayoutOptions(class_map=("benign=0", "malignant=1")))) == paths


def test_folders_that_name_both_classes_are_refused(tree):
    with pytest.raises(DataError, match=r"(?s)in folders of both classes.*\n  benign/malignant/x\.png"):
        read(tree("benign/malignant/x.png", "benign/a.png", "malignant/b.png"))


def test_a_map_does_not_fit_a_layout_that_names_its_own_classes(tree):
    with pytest.raises(SettingsError, match="--class-map requires"):
        read(tree(BENIGN, MALIGNANT), layout="breakhis", options=LayoutOptions(class_map=("benign=a",)))


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("train", "test"), ("Training", "Testing"), ("train", "val"), ("TRAIN", "Validation")]
)
@pytest.mark.parametrize(
    "shape", ["{}/benign/{}", "x/{}/y/benign/{}", "benign/{}/{}", "BreaKHis 400X/{}/benign/{}", "P001/{}/benign/{}"]
)
def test_parts_are_honoured_at_any_depth(tree, names, shape):
    paths = [shape.format(name, f"{at}.png") for at, name in enumerate(names)]
    paths += [path.replace("benign", "malignant") for path in paths]
    listing = read(tree(*paths))
    meant = {"val": "validation", "training": "train", "testing": "test"}
    for row in listing.rows:
        (word,) = (name.lower() for name in names if f"{name}/" in row.path)
        assert row.part == meant.get(word, word)
    assert any("The predefined split is taken from the folders" in note for note in listing.notes)


@pytest.mark.parametrize("shape", ["{}/SOB/{}", "a/b/{}/benign/{}"])
def test_parts_above_breakhis_names_are_honoured(tree, shape):
    root = tree(*(shape.format(part, name) for part in ("train", "test") for name in (BENIGN, MALIGNANT)))
    assert detect(root) == "breakhis"
    for row in read(root).rows:
        assert f"{row.part}/" in row.path
        assert row.part


def test_parts_above_idc_patients_are_honoured(tree):
    root = tree(
        *(f"{part}/{p}/{c}/{p}_idx5_x1_y1_class{c}.png" for part, p in (("train", 7), ("test", 8)) for c in (0, 1))
    )
    assert {(row.case, row.part) for row in read(root).rows} == {("7", "train"), ("8", "test")}


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (
            ["train/benign/a.png", "train/malignant/b.png", "holdout/benign/c.png"],
            "some images are in none of them",
        ),
        (["train/test/benign/a.png", "train/malignant/b.png"], "folders of several parts of the split"),
        (
            ["fold1/benign/a.png", "fold2/malignant/b.png"],
            r"'fold1', 'fold2' look like a split .*--ignore-column fold\.$",
        ),
        (["Set A/benign/a.png", "Set B/malignant/b.png"], "look like a split"),
        (["dev/benign/a.png", "external/malignant/b.png"], "look like a split"),
        ([f"fold1/train/{BENIGN}", f"fold2/train/{MALIGNANT}"], "look like a split"),
    ],
)
def test_parts_that_are_not_known_are_refused(tree, paths, said):
    with pytest.raises(DataError, match=said):
        read(tree(*paths))


def test_folders_that_seem_to_divide_can_be_ignored_if_they_are_there(tree):
    root = tree("fold1/benign/a.png", "fold2/malignant/b.png")
    listing = read(root, options=LayoutOptions(ignore_columns=("Fold",)))
    assert {row.part for row in listing.rows} == {""}
    assert "Ignored on request: Fold." in listing.notes
    with pytest.raises(SettingsError, match="no folder is named 'split'"):
        read(root, options=LayoutOptions(ignore_columns=("split",)))


@pytest.fixture
def images(tmp_path):
    """Return files with different pixels."""

    numbers = itertools.count()

    def make(paths):
        for path, at in zip(paths, numbers, strict=False):
            file = tmp_path / "data" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 5, 3), at, np.uint8)).save(file)
        return load_dataset(tmp_path / "data", options=LayoutOptions(case_pattern=r"(p\d+)[^/]*$"))

    return make


def patients(part, numbers):
    return [f"{part}/{'benign' if n % 2 else 'malignant'}/p{n}_{k}.png" for n in numbers for k in range(2)]


def test_the_test_part_is_sealed_and_the_others_are_searched_on(images):
    dataset = images([*patients("train", range(8)), *patients("val", range(8, 12)), *patients("test", range(12, 18))])
    split = make_split(dataset, n_folds=2)
    assert set(dataset.column("part")[split.test]) == {"test"}
    assert set(dataset.column("part")[split.development]) == {"train", "validation"}
    assert "The test images" in split.warnings[0]
    assert "train and validation images together are the development set" in split.warnings[0]
    again = make_split(dataset, n_folds=2, ignore_predefined_split=True)
    assert again.sealed_by == "fraction"
    assert "(train, validation, test) is ignored because of --ignore-predefined-split" in again.warnings[0]


def test_a_case_on_both_sides_of_the_test_is_refused_and_one_in_train_and_val_is_not(images):
    dataset = images([*patients("train", range(8)), *patients("val", range(6, 10)), *patients("test", range(12, 18))])
    assert make_split(dataset, n_folds=2).sealed_by == "part"
    dataset = images([*patients("test", [2])])
    with pytest.raises(
        DataError,
        match=r"(?s)in both train and validation and test.*p2: 2 images.*--ignore-predefined-split",
    ):
        make_split(dataset, n_folds=2)


# -- patients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["P{:03d}", "{}", "case-{}", "TCGA-A{}-X"])
@pytest.mark.parametrize("below", ["", "deep/"])
def test_a_patients_folder_above_the_class_is_the_case_and_said(tree, shape, below):
    names = [shape.format(at) for at in range(10, 15)]
    root = tree(
        *(f"{name}/{label}/{below}{at}.png" for name in names for label in ("benign", "malignant") for at in (1, 2))
    )
    listing = read(root)
    assert listing.has_cases
    assert {row.case for row in listing.rows} == set(names)
    assert any("is used as the case: 5 cases" in note for note in listing.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("40X", "100X", "200X", "400X"),
        ("batch1", "batch2", "batch3", "batch4"),
        ("a", "b"),
        ("40", "100", "200", "400"),
        ("2014", "2015", "2016", "2017"),
    ],
)
def test_folders_above_the_class_that_are_no_patients_are_said_to_be_unused(tree, names):
    listing = read(tree(*(f"{name}/{label}/1.png" for name in names for label in ("benign", "malignant"))))
    assert not listing.has_cases
    assert any("folders above the class folders are not used" in note for note in listing.notes)


def test_one_image_without_a_patient_makes_all_cases_unknown(tree):
    root = tree("benign/x.png", *(f"P{at}/{label}/1.png" for at in range(6) for label in ("benign", "malignant")))
    assert not read(root).has_cases


def test_a_pattern_wins_over_folders_and_matches_at_any_depth(tree):
    root = tree(*(f"c1/P{at}/{label}/s{at // 2}_1.png" for at in range(6) for label in ("benign", "malignant")))
    assert {row.case for row in read(root, options=LayoutOptions(case_pattern=r"(s\d)_")).rows} == {"s0", "s1", "s2"}
    assert {row.case for row in read(root, options=LayoutOptions(case_pattern=r"^c1/([^/]+)")).rows} == {
        f"P{at}" for at in range(6)
    }


@pytest.mark.parametrize("case", ["nan", "NA", "unknown", "-"])
def test_a_pattern_that_finds_no_name_is_refused(tree, case):
    with pytest.raises(DataError, match=r"Every image must name its case"):
        read(tree(f"benign/{case}/1.png", "malignant/P2/1.png"), options=LayoutOptions(case_pattern=r"/([^/]+)/[^/]+$"))


# -- the reported ones -------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("kaggle400x", {"train", "test"}),
        ("tt", {"train", "test"}),
        ("tvt", {"train", "validation", "test"}),
        ("tvtest", {"train", "validation", "test"}),
        ("TV", {"train", "validation"}),
        ("training", {"train", "validation"}),
    ],
)
def test_the_reported_divisions_are_honoured(name, parts):
    if not (SHARED / "bugs").is_dir():
        pytest.skip("the real test material is not here: ../shared/bugs")
    assert {row.part for row in read(SHARED / "bugs/layouts" / name).rows} == parts
