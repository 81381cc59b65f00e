from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.grouping import case_keys, part_as_test, units_of_groups, units_of_images, units_of_slides
from bhsearch.errors import DataError, SettingsError
from tests.data.factories import balanced, make_index


def with_column(dataset, **columns):
    return replace(dataset, table=dataset.table.assign(**columns))


def test_the_key_of_a_group_is_its_cases_in_order():
    dataset = make_index([("z", 0, 1), ("a", 0, 2), ("m", 1, 1)], twins=[("z", "a")])
    units = units_of_groups(dataset)
    assert units.keys == ["a\x1fz", "m"]
    assert units.number.tolist() == [0, 0, 1, 0]


def test_an_image_without_a_case_is_known_by_its_path_where_cases_are_unknown():
    dataset = with_column(make_index([("a", 0, 2), ("b", 1, 1)], has_cases=False), case=["", "", "seven"])
    assert case_keys(dataset).tolist() == ["a/0/any-000.png", "a/0/any-001.png", "seven"]


def test_an_image_without_a_case_is_an_error_where_cases_are_known():
    dataset = with_column(make_index([("a", 0, 1), ("b", 1, 1)]), case=["", "b"])
    with pytest.raises(DataError, match=r"a/0/any-000\.png"):
        units_of_groups(dataset)


def test_data_of_one_class_are_refused():
    with pytest.raises(DataError, match="no malignant one"):
        units_of_groups(make_index([("a", 0, 3)]))
    with pytest.raises(DataError, match="no benign and no malignant one"):
        units_of_groups(make_index([]))


def test_two_cases_may_call_their_slides_the_same():
    dataset = with_column(make_index(balanced(2, 2)), slide="1")
    assert len(units_of_slides(dataset).keys) == 4


def test_slides_must_be_known_to_be_kept_together():
    dataset = with_column(make_index(balanced(1, 1)), slide=["s", "", "", ""])
    with pytest.raises(SettingsError, match="3 of 4"):
        units_of_slides(dataset)


def test_every_image_is_a_unit_with_its_label_as_stratum():
    dataset = make_index(balanced(2, 1))
    units = units_of_images(dataset)
    assert len(units.keys) == 6
    assert units.strata[units.number].tolist() == dataset.labels.tolist()


def test_selected_units_keep_their_keys_and_strata_and_are_numbered_anew():
    units = units_of_groups(make_index(balanced(2, 2)))
    some = units.select(np.array([False] * 4 + [True, True] + [False, True]))
    assert some.keys == ["m00", "m01"]
    assert some.number.tolist() == [0, 0, 1]
    assert some.strata.tolist() == [1, 1]


def test_a_part_as_test_of_its_own_cases_is_a_test():
    dataset = make_index(
        balanced(2, 2), parts={"b00": "validation", "m00": "validation", "b01": "train", "m01": "train"}
    )
    inside = part_as_test(dataset, units_of_groups(dataset))
    assert set(dataset.column("case")[inside]) == {"b00", "m00"}


def test_cases_on_both_sides_of_the_parts_are_named():
    parts = {case: "train" for case, _, _ in balanced(30, 2)} | {"m01": "validation"}
    dataset = make_index(balanced(30, 2), parts=parts, twins=[("m01", "b03")])
    with pytest.raises(
        DataError, match=r"share 1 (.|\n)*b03 = m01: 2 images in train, 2 in validation\n.*--ignore-predefined-split"
    ):
        part_as_test(dataset, units_of_groups(dataset))


def test_at_most_twenty_shared_cases_are_named():
    dataset = make_index(balanced(25, 1))
    torn = with_column(dataset, part=["train", "validation"] * 26)
    with pytest.raises(DataError, match=r"share 26 (.|\n)*and 6 more"):
        part_as_test(torn, units_of_groups(torn))
