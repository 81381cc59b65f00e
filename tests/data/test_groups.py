from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.data.grouping import merge_groups, spellings
from bhsearch.errors import DataError

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
    with pytest.raises(DataError, match="2 cases and 1"):
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
