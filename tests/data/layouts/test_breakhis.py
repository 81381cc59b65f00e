from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.data.dataset import COLUMNS, Dataset
from bhsearch.data.layouts import breakhis
from bhsearch.data.layouts.breakhis import BreakhisName, looks_like, parse
from bhsearch.errors import DataError

SUBTYPES = [(0, name) for name in breakhis.BENIGN_SUBTYPES] + [(1, name) for name in breakhis.MALIGNANT_SUBTYPES]


@st.composite
def names(draw):
    label, subtype = draw(st.sampled_from(SUBTYPES))
    case = str(draw(st.integers(1, 99999)))
    return BreakhisName(
        label=label,
        subtype=subtype,
        year=f"{draw(st.integers(0, 99)):02d}",
        slide=case + draw(st.sampled_from(["", "A", "AB", "CD", "EF", "G"])),
        case=case,
        magnification=draw(st.sampled_from(breakhis.MAGNIFICATIONS)),
        sequence=draw(st.integers(0, 5000)),
    )


def index_of(counts):
    """Return a data set with a given number of images per (subtype, magnification)."""
    rows = [
        {"label": int(subtype in breakhis.MALIGNANT_SUBTYPES), "subtype": subtype, "magnification": f"{magnification}X"}
        for (subtype, magnification), n_images in counts.items()
        for _ in range(n_images)
    ]
    return Dataset("breakhis", Path(), "breakhis", pd.DataFrame(rows, columns=list(COLUMNS)))


def published(*magnifications):
    return {
        (subtype, magnification): counts[breakhis.MAGNIFICATIONS.index(magnification)]
        for subtype, counts in breakhis.PUBLISHED_COUNTS.items()
        for magnification in magnifications
    }


def test_a_name_is_taken_apart():
    assert parse("SOB_B_TA-14-16184CD-40-001.png") == BreakhisName(0, "TA", "14", "16184CD", "16184", 40, 1)


@given(names())
def test_formatting_and_parsing_are_inverse(name):
    assert parse(name.file_name) == name
    assert looks_like(name.file_name)


@given(st.from_regex(breakhis._NAME, fullmatch=True))
def test_a_name_that_parses_is_written_back_letter_by_letter(text):
    try:
        name = parse(text)
    except DataError:
        return
    assert name.file_name == text.rpartition(".")[0] + ".png"


@given(st.text())
def test_any_other_text_is_refused_and_nothing_else_is_raised(text):
    with pytest.raises(DataError):
        parse(text)


@pytest.mark.parametrize(
    "name",
    [
        "SOB_B_DC-14-10926-40-001.png",  # a malignant subtype called benign
        "SOB_M_A-14-10926-40-001.png",
        "SOB_M_XX-14-10926-40-001.png",
        "SOB_M_DC-14-10926-50-001.png",
        "SOB_M_DC_14-10926-40-001.png",  # the folder's spelling
        "SOB_M_DC-14-10926-40-01.png",
        "SOB_M_DC-14-AB-40-001.png",
        "SOB_M_DC-14-10926-40-001.svs",
        "SOB_M_DC-14-10926-40-001.png\n",
        "SOB_M_DC-14-1٣-40-001.png",
    ],
)
def test_a_broken_name_is_named_with_the_grammar_and_the_subtypes(name):
    with pytest.raises(DataError) as error:
        parse(name)
    assert repr(name) in str(error.value)
    assert breakhis.GRAMMAR in str(error.value)
    assert all(subtype in str(error.value) for _, subtype in SUBTYPES)


def test_siblings_are_slides_of_one_case():
    one, other = parse("SOB_B_F-14-14134-100-001.png"), parse("SOB_B_F-14-14134E-100-001.png")
    assert one.case == other.case
    assert one.slide_key != other.slide_key


def test_slide_13412_filed_under_two_subtypes_is_two_slides_of_one_case():
    one, other = parse("SOB_M_DC-14-13412-40-001.png"), parse("SOB_M_LC-14-13412-40-001.png")
    assert one.case == other.case
    assert (one.slide_key, other.slide_key) == ("SOB_M_DC-14-13412", "SOB_M_LC-14-13412")


def test_a_converted_copy_keeps_its_meaning():
    assert parse("SOB_M_DC-14-13412-40-001.jpg") == parse("SOB_M_DC-14-13412-40-001.png")


def test_published_counts_add_up_to_those_of_the_paper():
    benign = [sum(breakhis.PUBLISHED_COUNTS[name][at] for name in breakhis.BENIGN_SUBTYPES) for at in range(4)]
    malignant = [sum(breakhis.PUBLISHED_COUNTS[name][at] for name in breakhis.MALIGNANT_SUBTYPES) for at in range(4)]
    assert benign == [625, 644, 623, 588]
    assert malignant == [1370, 1437, 1390, 1232]
    assert sum(benign) + sum(malignant) == breakhis.N_IMAGES


def test_the_whole_data_set_differs_in_nothing():
    assert breakhis.compare_counts(index_of(published(*breakhis.MAGNIFICATIONS))) == []


def test_one_magnification_alone_is_complete_in_itself():
    assert breakhis.compare_counts(index_of(published(100))) == ["40X, 200X, 400X: no images here."]


def test_a_missing_image_is_said_with_both_numbers():
    counts = published(*breakhis.MAGNIFICATIONS)
    counts["PT", 200] -= 1
    assert breakhis.compare_counts(index_of(counts)) == [
        "200X: 622 benign and 1,390 malignant here, 623 benign and 1,390 malignant published."
    ]


def test_images_under_another_subtype_are_said_though_the_classes_agree():
    counts = published(*breakhis.MAGNIFICATIONS)
    counts["DC", 40] -= 1
    counts["LC", 40] += 1
    (sentence,) = breakhis.compare_counts(index_of(counts))
    assert "DC 863 instead of 864, LC 157 instead of 156" in sentence


@pytest.mark.data
def test_every_real_name_parses_back(breakhis):  # the fixture shadows the module here
    paths = list(breakhis.rglob("*.png"))
    parsed = [parse(path.name) for path in paths]
    assert [name.file_name for name in parsed] == [path.name for path in paths]
    assert (len(parsed), len({name.case for name in parsed}), len({name.slide_key for name in parsed})) == (476, 33, 41)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("A", "adenosis (A)"),
        ("F", "fibroadenoma (F)"),
        ("PT", "phyllodes tumour (PT)"),
        ("TA", "tubular adenoma (TA)"),
        ("DC", "ductal carcinoma (DC)"),
        ("LC", "lobular carcinoma (LC)"),
        ("MC", "mucinous carcinoma (MC)"),
        ("PC", "papillary carcinoma (PC)"),
        ("lobular", "lobular"),  # what a manifest calls a subtype stays as it is
        ("", ""),
    ],
)
def test_subtypes_are_spelt_out_for_people(code, said):
    assert breakhis.spelt_out(code) == said
