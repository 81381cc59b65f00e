from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.data.stratify import (
    assign_folds,
    classes_per_group,
    groups_per_fold,
    in_several_folds,
    select_test_groups,
    strata_of,
)

quick = settings(deadline=None, max_examples=60)

# Benign and malignant images of each unit.
CONTENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(lambda content: sum(content) > 0), min_size=2, max_size=40
).filter(lambda contents: all(np.sum(contents, axis=0) > 0))


def rows_of(contents):
    unit = np.repeat(np.arange(len(contents)), [sum(content) for content in contents])
    labels = np.concatenate([[0] * benign + [1] * malignant for benign, malignant in contents]).astype(np.int8)
    return unit, labels


def keys_of(n_units, name="unit"):
    return [f"{name}{at}" for at in range(n_units)]


def test_units_of_one_label_have_their_label_as_stratum_however_rare_one_is():
    for n_benign, n_malignant in ((1, 40), (40, 1), (13, 20), (3, 2)):
        strata = strata_of(*rows_of([(2, 0)] * n_benign + [(0, 5)] * n_malignant))
        assert strata.tolist() == [0] * n_benign + [1] * n_malignant


def test_units_of_both_labels_fall_into_quartiles_of_the_malignant_share():
    strata = strata_of(*rows_of([(40 - at, at) for at in range(1, 21)]))
    assert strata.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5


def test_a_handful_of_mixed_units_fall_into_halves():
    assert strata_of(*rows_of([(9 - at, at) for at in range(1, 7)])).tolist() == [0, 0, 0, 1, 1, 1]


def test_strata_do_not_depend_on_how_many_images_a_unit_has():
    few = strata_of(*rows_of([(at, 21 - at) for at in range(1, 21)]))
    many = strata_of(*rows_of([(at * (1 + at % 7), (21 - at) * (1 + at % 7)) for at in range(1, 21)]))
    assert few.tolist() == many.tolist()


@given(CONTENTS)
@quick
def test_units_with_an_equal_malignant_share_are_in_one_stratum_and_shares_are_ordered(contents):
    strata = strata_of(*rows_of(contents))
    share = np.array([malignant / (benign + malignant) for benign, malignant in contents])
    for value in np.unique(share):
        assert len(set(strata[share == value])) == 1
    assert (np.diff(strata[np.argsort(share)]) >= 0).all()
    assert set(strata) == set(range(strata.max() + 1))


@given(CONTENTS, st.floats(0.05, 0.5), st.integers(0, 1000))
@quick
def test_the_seal_holds_both_labels_and_about_the_fraction_of_each_stratum(contents, fraction, name):
    unit, labels = rows_of(contents)
    strata, carriers = strata_of(unit, labels), classes_per_group(unit, labels)
    sealed = select_test_groups(keys_of(len(contents), f"{name}-"), strata, carriers, fraction)
    assert carriers[sealed].any(axis=0).all()
    sizes = np.bincount(strata)
    most_off = 1 + (1 in sizes)  # a class that only an unsealed stratum of one unit carries is taken from elsewhere
    for stratum, n_units in enumerate(sizes):
        n_sealed = sealed[strata == stratum].sum()
        assert abs(n_sealed - fraction * n_units) <= most_off
        assert n_sealed >= 1 or n_units == 1


def test_the_only_unit_of_a_stratum_is_not_sealed_unless_no_other_carries_its_label():
    strata, both = np.array([0, 0, 0, 1]), np.ones((4, 2), dtype=bool)
    assert not select_test_groups(keys_of(4), strata, both, 0.3)[3]
    assert select_test_groups(keys_of(4), strata, np.stack([strata == 0, strata == 1], axis=1), 0.3)[3]


def test_a_larger_fraction_seals_the_same_units_and_more():
    keys, strata = keys_of(60), np.arange(60) % 2
    carriers = np.stack([strata == 0, strata == 1], axis=1)
    seals = [select_test_groups(keys, strata, carriers, fraction) for fraction in (0.1, 0.2, 0.4)]
    assert [mask.sum() for mask in seals] == [6, 12, 24]
    assert (seals[0] <= seals[1]).all()
    assert (seals[1] <= seals[2]).all()


@given(CONTENTS, st.integers(2, 10), st.integers(1, 3), st.integers(0, 1000))
@quick
def test_folds_differ_by_one_unit_at_most_in_each_stratum_and_in_all(contents, n_folds, n_repeats, name):
    strata = strata_of(*rows_of(contents))
    for folds in assign_folds(keys_of(len(contents), f"{name}-"), strata, n_folds, n_repeats):
        for of_stratum in (folds, *(folds[strata == stratum] for stratum in set(strata))):
            assert np.ptp(np.bincount(of_stratum, minlength=n_folds)) <= 1


@given(st.integers(4, 30), st.integers(2, 4), st.integers(0, 1000))
@quick
def test_no_two_repeats_are_the_same_division(n_units, n_folds, name):
    folds = assign_folds(keys_of(n_units, f"{name}-"), np.zeros(n_units, dtype=np.int64), n_folds, 10)
    divisions = {frozenset(frozenset(np.flatnonzero(row == fold)) for fold in set(row)) for row in folds}
    assert len(divisions) == len(folds)


def test_repeats_end_when_there_are_no_more_divisions():
    # Four units in two folds of two: {01|23}, {02|13}, {03|12}.
    assert assign_folds(keys_of(4), np.zeros(4, dtype=np.int64), 2, 50).shape == (3, 4)
    assert assign_folds(keys_of(2), np.array([0, 1]), 2, 2).shape == (1, 2)


def test_a_repeat_does_not_depend_on_how_many_follow():
    strata = np.arange(20) % 3
    assert np.array_equal(assign_folds(keys_of(20), strata, 4, 5)[:2], assign_folds(keys_of(20), strata, 4, 2))


@given(st.permutations(range(12)), st.integers(2, 5))
@quick
def test_the_order_of_units_does_not_matter(order, n_folds):
    keys, strata = np.array(keys_of(12)), np.arange(12) % 3
    carriers = np.stack([strata < 2, strata > 0], axis=1)
    folds = assign_folds(keys.tolist(), strata, n_folds, 2)
    sealed = select_test_groups(keys.tolist(), strata, carriers, 0.3)
    assert np.array_equal(assign_folds(keys[order].tolist(), strata[order], n_folds, 2), folds[:, order])
    assert np.array_equal(select_test_groups(keys[order].tolist(), strata[order], carriers[order], 0.3), sealed[order])


def test_seal_and_folds_of_a_release_stay_as_they_are():
    """A change here unseals the tests of every study that was ever made: it needs a new major version."""
    strata = np.repeat([0, 1], 6)
    carriers = np.stack([strata == 0, strata == 1], axis=1)
    assert np.flatnonzero(select_test_groups(keys_of(12), strata, carriers, 0.3)).tolist() == [0, 3, 6, 10]
    assert assign_folds(keys_of(12), strata, 3, 1).tolist() == [[0, 2, 0, 1, 1, 2, 1, 2, 0, 2, 1, 0]]


def test_groups_of_a_fold_are_counted_once_a_class():
    folds = np.array([[0, 0, 0, 1, 1, 1]])
    counts = groups_per_fold(folds, np.array([0, 0, 1, 2, 2, 3]), np.array([0, 0, 1, 0, 1, 1], dtype=np.int8), 3)
    assert counts.tolist() == [[[1, 1], [1, 2], [0, 0]]]


@pytest.mark.parametrize(
    ("folds", "expected"),
    [([[0, 0, 1]], [False] * 3), ([[0, 1, 1]], [True, True, False]), ([[0, 0, 1], [1, 0, 1]], [True, True, False])],
)
def test_a_key_is_torn_if_any_repeat_puts_it_into_two_folds(folds, expected):
    assert in_several_folds(np.array([0, 0, 1]), np.array(folds, dtype=np.int8)).tolist() == expected
