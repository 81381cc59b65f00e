"""Input that cannot be split, and rows that no mask may take."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.data.splits import GROUPINGS, make_split, training_mask, validation_mask
from bhsearch.errors import DataError, SettingsError
from tests.data.factories import balanced, make_index


def test_fewer_cases_than_folds_name_the_counts_and_the_largest_number_that_works():
    with pytest.raises(
        DataError, match=r"--folds 5, .* 4 benign and 16 malignant cases.*possible value.* is --folds 4\."
    ):
        make_split(make_index(balanced(5, 20)))


def test_the_number_of_folds_that_works_is_tried_where_cases_carry_both_labels():
    """Counting the cases of each class would promise five folds here."""
    mixed = [(f"x{at}", label, 1 + (3 - at if label else at)) for at in range(4) for label in (0, 1)]
    pure = [("b0", 0, 2), ("b1", 0, 2), ("b2", 0, 2), ("m0", 1, 2), ("m1", 1, 2)]
    dataset = make_index([*mixed, *pure])
    with pytest.raises(DataError, match=r"6 benign and 5 malignant cases\. .* possible value.* is --folds 3\."):
        make_split(dataset, n_folds=6)
    with pytest.raises(DataError, match=r"possible value.* is --folds 3\."):
        make_split(dataset, n_folds=4)
    make_split(dataset, n_folds=3)


def test_a_class_of_two_cases_cannot_be_split_at_all():
    with pytest.raises(DataError, match=r"1 benign and 16 malignant cases\. No value of --folds works; "):
        make_split(make_index(balanced(2, 20)))


@pytest.mark.parametrize("group_by", GROUPINGS)
def test_data_that_are_all_sealed_leave_nothing_to_fold(group_by):
    with pytest.raises(DataError, match=r"0 benign and 0 malignant \w+\. No value of --folds works; "):
        make_split(make_index(balanced(1, 1)), group_by=group_by)


def test_a_magnification_without_sealed_images_of_a_class_is_refused():
    dataset = make_index(balanced(10, 10), magnifications=("40X", "100X"))
    split = make_split(dataset)
    lost = split.test & (dataset.labels == 0) & (dataset.column("magnification") == "40X")
    with pytest.raises(
        DataError,
        match=r"has 0 benign and 2 malignant cases at 40X\. .* at all magnifications\. Use --magnification all",
    ):
        make_split(dataset.select(~lost), magnification="40X")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0.04}, r"--test-fraction .* 0.04"),
        ({"test_fraction": 0.51}, r"--test-fraction .* 0.51"),
        ({"test_fraction": float("nan")}, r"--test-fraction .* nan"),
        ({"n_folds": 1}, r"--folds .* 1\."),
        ({"n_folds": 101}, r"--folds .* 101"),
        ({"n_repeats": 0}, r"--repeats .* 0"),
        ({"n_repeats": 101}, r"--repeats .* 101"),
        ({"group_by": "patient"}, r"--group-by .* case, site, slide, image, but got 'patient'"),
        ({"magnification": "50X"}, r"--magnification .* all, 40X, 100X, but got '50X'"),
        ({"magnification": ""}, r"--magnification .* got ''"),
    ],
)
def test_an_option_out_of_range_is_named_with_its_rule(options, message):
    with pytest.raises(SettingsError, match=message):
        make_split(make_index(balanced(10, 10), magnifications=("100X", "40X")), **options)


def test_a_magnification_is_refused_where_none_is_known():
    with pytest.raises(SettingsError, match="has no magnifications"):
        make_split(make_index(balanced(10, 10)), magnification="40X")


@pytest.mark.parametrize("mask", [training_mask, validation_mask])
@pytest.mark.parametrize(("repeat", "fold"), [(0, -1), (0, 2), (-1, 0), (1, 0)])
def test_no_mask_takes_rows_outside_development_for_a_fold(mask, repeat, fold):
    """Fold -1 would be the test; what trains and validates asks for its rows here."""
    folds = np.array([[0, 1, -1, 0, 1]], np.int8)
    with pytest.raises(IndexError, match="below 1 and `fold` below 2"):
        mask(folds, repeat, fold)
    assert not training_mask(folds, 0, 0)[2]
    assert not validation_mask(folds, 0, 1)[2]
