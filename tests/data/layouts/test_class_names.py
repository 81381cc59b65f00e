"""Class names: known ones, those of a class map, and the suggested class map."""

from __future__ import annotations

import pytest

from bhsearch.config import load_settings
from bhsearch.data.layouts.class_names import class_like_folders, folder_classes, manifest_classes, map_advice
from bhsearch.errors import SettingsError


def option(text):
    return load_settings(None, {"class_map": text}).class_map


def test_a_map_of_the_command_line_names_a_class_for_each_name():
    pairs = option("benign=normal,malignant=cancer+invasive")
    assert pairs == ("benign=normal", "malignant=cancer", "malignant=invasive")
    classes = folder_classes(pairs)
    assert [classes.label_of(name) for name in ("Normal", "cancer", "INVASIVE", "benign", "other")] == [
        0,
        1,
        1,
        0,
        None,
    ]


def test_a_plus_inside_or_at_the_end_of_a_name_belongs_to_it():
    assert option("benign=IDC(-),malignant=IDC(+)") == ("benign=IDC(-)", "malignant=IDC(+)")
    assert option("benign=HER2-,malignant=HER2+") == ("benign=HER2-", "malignant=HER2+")


def test_a_map_may_be_a_table_of_the_file(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text('[class_map]\nbenign = ["normal", "a+b, c"]\nmalignant = 2\n', encoding="utf-8")
    assert load_settings(file, {}).class_map == ("benign=normal", "benign=a+b, c", "malignant=2")


@pytest.mark.parametrize(
    "wrong", ["normal", "begnin=normal", "benign=", "benign=a,malignant=a", "benign=a,malignant=A"]
)
def test_a_map_that_says_nothing_or_two_things_is_refused(wrong):
    with pytest.raises(SettingsError, match="--class-map"):
        folder_classes(option(wrong))


@pytest.mark.parametrize("wrong", ["class_map = 7", "class_map = {benign = 1.5}", "class_map = {benign = {a = 1}}"])
def test_a_map_of_another_type_is_refused(tmp_path, wrong):
    (tmp_path / "study.toml").write_text(wrong, encoding="utf-8")
    with pytest.raises(SettingsError, match="class_map must be a table"):
        load_settings(tmp_path / "study.toml", {})


def test_labels_are_numbers_too_unless_a_map_says_what_they_mean():
    assert [manifest_classes().label_of(label) for label in ("0", "1", "1.0", "0.", "Benign", "2")] == [
        0,
        1,
        1,
        0,
        0,
        None,
    ]
    mapped = manifest_classes(("benign=1", "malignant=2"))
    assert [mapped.label_of(label) for label in ("1", "2.0", "0", "malignant")] == [0, 1, None, 1]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("0", "1"), "benign=0,malignant=1"),
        (("1", "2"), "benign=1,malignant=2"),
        (("class_1", "class_0"), "benign=class_0,malignant=class_1"),
        (("cancer", "normal"), "benign=normal,malignant=cancer"),
        (("non-cancer", "cancer"), "benign=non-cancer,malignant=cancer"),
        (("NonTumor", "Tumor"), "benign=NonTumor,malignant=Tumor"),
        (("negative", "positive"), "benign=negative,malignant=positive"),
        (("IDC(+)", "IDC(-)"), "'benign=IDC(-),malignant=IDC(+)'"),
        (("gutartig", "bösartig"), "'benign=gutartig,malignant=bösartig'"),
        (("Benign", "InSitu", "Invasive", "Normal"), "benign=Benign+Normal,malignant=InSitu+Invasive"),
        (("cats", "dogs"), "benign=cats,malignant=dogs"),
    ],
)
def test_the_map_that_is_proposed_can_be_given(names, text):
    assert f"--class-map {text}" in map_advice(names)
    assert {pair.partition("=")[2] for pair in option(text.strip("'"))} == set(names)


def test_a_name_of_no_class_is_left_to_the_reader():
    text = map_advice(["benign", "malignant", "unlabeled"])
    assert "benign=benign,malignant=malignant\nAdd 'unlabeled' to a class" in text


def test_names_that_the_command_line_cannot_hold_go_into_the_file():
    assert 'class_map = {benign = ["normal, old"], malignant = ["cancer"]}' in map_advice(["normal, old", "cancer"])


@pytest.mark.parametrize(
    ("paths", "folders"),
    [
        (["P1/normal/a.png", "P2/cancer/b.png", "P3/cancer/b.png"], ["cancer", "normal"]),
        (["train/0/a.png", "train/1/a.png", "test/0/b.png", "test/1/b.png"], ["0", "1"]),
        (["normal/p1/x.png", "normal/p2/x.png", "cancer/p3/x.png"], ["normal", "cancer"]),
        (["a.png"], []),
    ],
)
def test_the_folders_that_look_like_classes(paths, folders):
    assert class_like_folders(paths) == folders
