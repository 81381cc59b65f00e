from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.data.grouping import (
    case_keys,
    merge_groups,
    part_as_test,
    spellings,
    units_of_groups,
    units_of_images,
    units_of_slides,
)
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
    with pytest.raises(DataError, match="no malignant images"):
        units_of_groups(make_index([("a", 0, 3)]))
    with pytest.raises(DataError, match="no benign and no malignant images"):
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
        DataError,
        match=r"leak: 1 case (.|\n)*b03 = m01: 2 images in train, 2 in validation\n.*--ignore-predef",
    ):
        part_as_test(dataset, units_of_groups(dataset))


def test_at_most_twenty_shared_cases_are_named():
    dataset = make_index(balanced(25, 1))
    torn = with_column(dataset, part=["train", "validation"] * 26)
    with pytest.raises(DataError, match=r"leak: 26 cases (.|\n)*and 6 more"):
        part_as_test(torn, units_of_groups(torn))


ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 12).map(str)), max_size=40)


def arrays(rows):
    return np.array([row[0] for row in rows], dtype=object), np.array([row[1] for row in rows], dtype=object)


def test_cases_that_share_an_image_become_one_group():
    assert merge_groups(*arrays([("a", "1"), ("b", "2"), ("c", "1")])).tolist() == [0, 1, 0]


def test_a_chain_of_shared_images_links_its_two_ends():
    assert len(set(merge_groups(*arrays([("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("d", "3")])).tolist())) == 2


def test_groups_are_numbered_by_their_smallest_case_key():
    assert merge_groups(*arrays([("z", "1"), ("m", "2"), ("a", "1"), ("b", "3")])).tolist() == [0, 2, 0, 1]


def test_spellings_of_a_case_become_one_group_where_that_is_asked():
    rows = arrays([("Case01", "1"), ("case1", "2"), ("case10", "3"), ("b", "3")])
    assert merge_groups(*rows, by_spelling=True).tolist() == [0, 0, 1, 1]
    assert merge_groups(*rows).tolist() == [0, 2, 1, 1]
    assert spellings(rows[0]) == [("Case01", "case1")]


def test_no_images_give_no_groups():
    assert merge_groups(*arrays([])).shape == (0,)


def test_arrays_of_different_length_are_refused():
    with pytest.raises(DataError, match="got 2 and 1"):
        merge_groups(np.array(["a", "b"], dtype=object), np.array(["1"], dtype=object))


def test_a_hundred_thousand_images_take_less_than_a_few_seconds():
    n = 100_000
    case = np.array([str(i // 10) for i in range(n)], dtype=object)
    digest = np.array([str(i - i % 1000) if i % 1000 == 10 else f"own{i}" for i in range(n)], dtype=object)
    assert merge_groups(case, digest).max() == 9_999


@given(ROWS)
def test_no_case_and_no_picture_lies_in_two_groups(rows):
    case, digest = arrays(rows)
    group = merge_groups(case, digest)
    for column in (case, digest):
        for value in set(column):
            assert len(set(group[column == value])) == 1


@given(ROWS)
def test_cases_with_nothing_in_common_stay_apart(rows):
    case, digest = arrays(rows)
    group = merge_groups(case, digest)
    for number in set(group):
        linked = {case[group == number][0]}
        while True:
            pictures = set(digest[np.isin(case, list(linked))])
            grown = {c for c, d in rows if d in pictures}
            if grown == linked:
                break
            linked = grown
        assert linked == set(case[group == number])


@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_images_does_not_change_the_groups(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    number = dict(zip(rows, merge_groups(*arrays(rows)), strict=True))
    assert all(number[row] == group for row, group in zip(shuffled, merge_groups(*arrays(shuffled)), strict=True))
