from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bhsearch.data.audit import NARROW, PAGES, Audit, audit, counts
from bhsearch.data.dataset import COLUMNS, BadFile, Dataset
from bhsearch.data.load_dataset import load_dataset
from tests.data.images.made import rgb, save


def index_of(*rows, **fields):
    """Return a data set whose rows differ in all columns that are not given."""
    table = pd.DataFrame(
        [
            {
                "path": f"{at}.png",
                "label": 0,
                "case": f"case{at}",
                "slide": "",
                "subtype": "",
                "magnification": "",
                "part": "",
                "bytes_digest": f"b{at}",
                "pixels_digest": f"p{at}",
                **row,
            }
            for at, row in enumerate(rows)
        ],
        columns=list(COLUMNS),
    ).astype({"label": "int8"})
    return Dataset(**{"name": "x", "root": Path(), "layout": "manifest", "table": table, **fields})


def titles(result):
    return [finding.title for finding in result.findings()]


def test_a_data_set_in_order_has_no_findings():
    result = audit(index_of({"case": "a"}, {"case": "a"}, {"case": "b"}, {"case": "b", "label": 0}))
    assert result.findings() == []
    assert result.lines() == ["x: 4 images, 2 cases, 2 groups.", "No findings."]


def test_identical_bytes_are_a_set_of_files():
    result = audit(index_of({"bytes_digest": "b"}, {}, {"bytes_digest": "b"}))
    assert result.identical_bytes == (("0.png", "2.png"),)


def test_identical_pixels_are_told_apart_within_and_across_cases():
    same = {"pixels_digest": "p"}
    result = audit(index_of({"case": "a", **same}, {"case": "a", **same}, {"case": "b", **same}, {"case": "c"}))
    assert result.identical_pixels_within_case == (("0.png", "1.png"),)
    assert result.identical_pixels_across_cases == (("0.png", "1.png", "2.png"),)
    assert result.merged_groups == (("a", "b"),)
    assert (result.n_cases, result.n_groups) == (3, 2)


def test_a_picture_in_train_and_validation_is_a_leak_though_only_its_group_links_the_cases():
    train, validation = {"part": "train"}, {"part": "validation"}
    result = audit(
        index_of(
            {"case": "a", "pixels_digest": "p", **train},
            {"case": "b", "pixels_digest": "p", **train},
            {"case": "b", **validation},
            {"case": "c", "pixels_digest": "q", **train},
            {"case": "d", "pixels_digest": "q", **validation},
            {"case": "e", **train},
            {"case": "f", **validation},
        )
    )
    assert result.identical_pixels_across_parts == (("3.png", "4.png"),)
    assert result.groups_across_parts == (("a", "b"), ("c", "d"))
    assert [finding.severity for finding in result.findings()][:2] == ["leak", "leak"]


def test_one_case_in_train_and_validation_is_a_leak():
    result = audit(index_of({"case": "a", "part": "train"}, {"case": "a", "part": "validation"}))
    assert result.groups_across_parts == (("a",),)


def test_contradicting_labels_are_said_of_cases_and_of_pictures():
    result = audit(index_of({"case": "a", "pixels_digest": "p"}, {"case": "a", "label": 1, "pixels_digest": "p"}))
    assert result.cases_with_both_labels == ("a",)
    assert result.identical_pixels_both_labels == (("0.png", "1.png"),)


def test_subtypes_and_slides_of_one_case_are_listed_and_unknown_ones_are_not():
    result = audit(
        index_of(
            {"case": "a", "subtype": "LC", "slide": "s2"},
            {"case": "a", "subtype": "DC", "slide": "s1"},
            {"case": "b", "subtype": "DC", "slide": "s3"},
            {"case": "b"},
        )
    )
    assert result.cases_with_several_subtypes == {"a": ("DC", "LC")}
    assert result.siblings == {"a": ("s1", "s2")}
    assert result.n_slides == 3


def test_cases_of_one_image_are_listed_only_where_cases_are_known():
    rows = [{"case": "a"}, {"case": "b"}, {"case": "b"}]
    assert audit(index_of(*rows)).cases_of_one_image == ("a",)
    unknown = audit(index_of(*rows, has_cases=False))
    assert unknown.cases_of_one_image == ()
    assert any("cases are unknown" in line for line in unknown.lines())


def test_a_picture_in_validation_and_train_is_no_leak_where_another_part_is_the_test():
    result = audit(
        index_of(
            {"case": "a", "part": "train"},
            {"case": "a", "part": "validation"},
            {"case": "b", "part": "validation"},
            {"case": "b", "part": "test"},
        )
    )
    assert result.groups_across_parts == (("b",),)


def test_spellings_of_a_case_are_an_error_and_one_group():
    result = audit(index_of({"case": "Case01"}, {"case": "case1"}, {"case": "c"}))
    assert (result.spellings, result.n_cases, result.n_groups) == ((("Case01", "case1"),), 3, 2)
    assert result.findings()[0].title == "error: Cases with several spellings, kept together: 1"
    assert audit(index_of({"case": "a/1.png"}, {"case": "A/01.png"}, has_cases=False)).spellings == ()


def test_errors_and_duplicates_are_told_once_with_an_example():
    same = {"pixels_digest": "p", "bytes_digest": "b"}
    result = audit(
        index_of(
            {"case": "a", **same},
            {"case": "a", "label": 1, **same},
            {"case": "b", **same},
            {"case": "d1"},
            {"case": "D1"},
        )
    )
    assert result.summary_lines() == [
        "Images labelled both benign and malignant: 1, such as 0.png = 1.png = 2.png.",
        "Cases with several spellings, kept together: 1, such as D1 = d1.",
        "Images shared by several cases: 1, such as 0.png = 1.png = 2.png.",
        "Images repeated within a case: 1, such as 0.png = 1.png.",
    ]
    assert audit(index_of({"case": "a"}, {"case": "b"})).summary_lines() == []


def test_an_audit_kept_before_spellings_were_looked_for_can_be_shown():
    kept = audit(index_of({}, {})).to_dict()
    del kept["spellings"]
    assert Audit(**kept).lines() == audit(index_of({}, {})).lines()


def test_bad_files_are_said():
    result = audit(index_of({}, {}, bad=(BadFile("x.png", "empty file"),)))
    assert "  x.png: empty file" in result.lines()


def test_synthetic_data_are_called_synthetic():
    assert any("synthetic" in line for line in audit(index_of({}, synthetic=True)).lines())


def test_published_counts_are_compared_for_breakhis_only():
    row = {"subtype": "A", "magnification": "40X"}
    assert audit(index_of(row, layout="breakhis")).count_differences
    assert not audit(index_of(row, layout="folders")).count_differences
    assert not audit(index_of(row, layout="breakhis", synthetic=True)).count_differences


def test_lines_show_some_examples_and_count_the_rest():
    rows = [{"case": f"c{at // 2}", "label": at % 2} for at in range(20)]
    lines = audit(index_of(*rows)).lines(most=3)
    assert lines[1:] == [
        "note: Cases with both benign and malignant images: 10",
        "  c0",
        "  c1",
        "  c2",
        "  and 7 more",
    ]


def test_the_folders_that_twins_have_in_common_are_said_once():
    result = audit(index_of({"path": "a/b/c/1.png", "bytes_digest": "b"}, {"path": "a/b/d/1.png", "bytes_digest": "b"}))
    assert "  c/1.png = d/1.png (in a/b)" in result.lines()


def test_the_dictionary_is_json_and_complete():
    result = audit(index_of({"case": "a", "label": 1}, {"case": "a"}, bad=(BadFile("x.png", "empty file"),)))
    content = json.loads(json.dumps(result.to_dict()))
    assert content["cases_with_both_labels"] == ["a"]
    assert content["bad"] == [{"path": "x.png", "reason": "empty file"}]


def test_counts_count_a_case_of_both_labels_in_both_classes_and_once_in_all():
    content = counts(
        index_of(
            {"case": "a", "slide": "s", "magnification": "100X", "subtype": "PT"},
            {"case": "a", "slide": "s", "magnification": "40X", "label": 1, "subtype": "DC"},
            {"case": "b", "magnification": "40X", "label": 1},
        )
    )
    assert content["classes"] == {
        "all": {"images": 3, "cases": 2, "slides": 1, "groups": 2},
        "benign": {"images": 1, "cases": 1, "slides": 1, "groups": 1},
        "malignant": {"images": 2, "cases": 2, "slides": 1, "groups": 2},
    }
    assert content["magnifications"]["40X"] == {"benign": 0, "malignant": 2, "all": 2}
    assert list(content["subtypes"]) == ["PT", "DC"]
    assert content["parts"] == {}
    assert json.loads(json.dumps(content)) == content


@pytest.mark.data
def test_the_real_breakhis_shows_its_known_oddities(breakhis):
    result = audit(load_dataset(breakhis))
    assert (result.n_images, result.n_cases, result.n_slides, result.n_groups) == (476, 33, 41, 33)
    assert result.cases_with_several_subtypes["13412"] == ("DC", "LC")
    assert {"13412", "14134", "16184", "18842", "21998", "22549", "29960"} == set(result.siblings)
    assert len(result.identical_bytes) == 1
    assert result.cases_with_both_labels == ()


@pytest.mark.data
def test_most_patients_of_the_real_idc_carry_both_labels(idc):
    result = audit(load_dataset(idc))
    assert (len(result.cases_with_both_labels), result.n_cases, result.siblings) == (133, 140, {})


def test_images_that_use_little_of_their_range_and_pages_left_out_are_notes():
    dataset = index_of({}, {}, {}, range_used={"0.png": 0.0625, "1.png": 0.5}, pages_left_out={"2.png": 4})
    result = audit(dataset)
    assert result.narrow_ranges == {"0.png": 0.0625}
    assert result.pages_left_out == {"2.png": 4}
    found = {finding.what: (finding.severity, finding.examples) for finding in result.findings()}
    assert found[NARROW] == ("note", ["0.png: 6.2%"])
    assert found[PAGES] == ("note", ["2.png: 4 not read"])
    assert audit(dataset.select(np.array([False, True, True]))).narrow_ranges == {}


def test_an_audit_that_was_kept_before_ranges_were_known_is_read():
    """Studies keep their audit as JSON, and a report is made of it later."""
    kept = audit(index_of({})).to_dict()
    del kept["narrow_ranges"], kept["pages_left_out"]
    assert Audit(**kept).narrow_ranges == {}


def test_the_index_of_a_folder_knows_ranges_and_pages(tmp_path):
    for label in ("benign", "malignant"):
        (tmp_path / label).mkdir()
        save(tmp_path / label / "eight.png")
        save(tmp_path / label / "dark.tif", np.array([[0, 4095], [7, 4000]], np.uint16))
    frames = [Image.fromarray(rgb(seed)) for seed in range(3)]
    frames[0].save(tmp_path / "benign" / "pages.tif", save_all=True, append_images=frames[1:])
    result = audit(load_dataset(tmp_path, layout="folders"))
    assert list(result.narrow_ranges) == ["benign/dark.tif", "malignant/dark.tif"]
    assert result.pages_left_out == {"benign/pages.tif": 2}
