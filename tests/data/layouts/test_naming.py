"""Spellings, placeholders and names of parts."""

from __future__ import annotations

import unicodedata

import pytest

from bhsearch.data.layouts.naming import (
    is_division_folder,
    is_part_column,
    is_placeholder,
    part_of,
    shown,
    spelling_key,
)


@pytest.mark.parametrize(
    "names",
    [
        ("case0012", "Case0012", "CASE_12", "case 12", "case-012", " case12 "),
        ("0012", "12", "012", "12.0"),
        ("fällé", unicodedata.normalize("NFD", "fällé"), "FÄLLÉ"),
        ("P001A", "p1a", "P-1-A"),
        ("Smith John", "smith_john", "Smith  John", "Smith\u00a0John"),
        ("a\u200bb", "ab"),
        ("Straße", "STRASSE"),
    ],
)
def test_spellings_of_one_name_have_one_key(names):
    assert len({spelling_key(name) for name in names}) == 1


@pytest.mark.parametrize(
    "names", [("1-2", "12"), ("case1", "case11"), ("a", "ä"), ("10", "100"), ("P1", "Q1"), ("12", "12.5"), ("1A", "1B")]
)
def test_other_names_have_other_keys(names):
    assert len({spelling_key(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        "nan",
        "NaN",
        "NA",
        "N/A",
        "n.a.",
        "<NA>",
        "#N/A",
        "-",
        "--",
        "—",
        "?",
        "???",
        "unknown",
        "Unknown",
        "UNK",
        "none",
        "None",
        "null",
        "NULL",
        "(unknown)",
        "not available",
        "missing",
        ".",
        "_",
        "NaT",
        "anonymous",
        "unknown patient",
    ],
)
def test_placeholders_are_known_in_any_spelling(name):
    assert is_placeholder(name)


@pytest.mark.parametrize("name", ["NAB", "0", "1", "nan1", "Nancy", "N12", "unknown7", "a-b", "Null-3"])
def test_names_are_no_placeholders(name):
    assert not is_placeholder(name)


@pytest.mark.parametrize(
    ("name", "part"),
    [("train", "train"), ("Training", "train"), ("TRAIN_set", "train"), ("trains", "train"), ("01_train", "train")]
    + [("val", "validation"), ("VALID", "validation"), ("validation", "validation"), ("valid_images", "validation")]
    + [("test", "test"), ("Testing", "test"), ("tests", "test"), ("test dataset", "test"), ("Testset", "test")]
    + [(name, None) for name in ("contest", "trainer", "value", "set", "data", "1", "", "attest", "protest", "benign")],
)
def test_a_part_is_known_in_any_usual_spelling(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize(
    "name",
    [
        "split",
        "Set",
        "SUBSET",
        "fold",
        "Folds",
        "part",
        "partition",
        "phase",
        "data_split",
        "dataSplit",
        "cv_fold",
        "train_test_split",
        "is_test",
        "test",
        "kfold",
        "fold_id",
        "Split ",
    ],
)
def test_a_column_that_divides_the_data_is_known_by_its_name(name):
    assert is_part_column(name)


@pytest.mark.parametrize(
    "name", ["dataset", "body_part", "stain", "scanner", "test_result", "apartment", "", "settings"]
)
def test_other_columns_are_not(name):
    assert not is_part_column(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fold1", True),
        ("Fold_2", True),
        ("split_a", True),
        ("Set 3", True),
        ("test2", True),
        ("holdout", True),
        ("sets", False),
        ("parts", False),
        ("40X", False),
        ("patient1", False),
        ("train", False),
    ],
)
def test_folders_of_an_unknown_division_are_known(name, expected):
    assert is_division_folder(name) == expected


def test_names_that_look_alike_are_shown_apart():
    assert shown("fällé") == "fällé"
    assert shown(unicodedata.normalize("NFD", "é")) == "e\\u0301"
    assert shown("a\u200bb") == "a\\u200bb"
