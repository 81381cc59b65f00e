"""What a split says of itself: what it leaks, what chance it has, and why it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.data.splits import GROUPINGS, make_split
from bhsearch.errors import DataError, SettingsError
from tests.data.factories import balanced, make_index, sealed, with_column

# Coarser grouping and what it leaks


def test_grouping_by_case_leaks_nothing_and_may_be_promoted():
    split = make_split(make_index(balanced(30, 30), slides_per_case=2, twins=[("b00", "b01")]))
    assert (split.leaks, split.promotable, split.why_not_promotable) == ((), True, "")
    assert split.warnings == ()


def test_grouping_by_slide_keeps_slides_together_and_counts_the_cases_it_tears():
    dataset = make_index(balanced(12, 15, n_images=4), slides_per_case=2)
    split = make_split(dataset, group_by="slide")
    folds, slides, cases = split.folds[0], dataset.column("slide"), dataset.column("case")
    for slide in set(slides):
        assert len(set(folds[slides == slide])) == 1
    torn = {case for case in cases if len(set(folds[cases == case])) > 1}
    n_cases = len(set(split.groups[split.development]))
    assert split.leaks == (
        f"Grouping by slide puts {len(torn)} of {n_cases} development cases on both sides of the folds, with "
        f"{np.isin(cases, list(torn)).sum()} of {split.development.sum()} images.",
    )
    assert not split.promotable
    assert "made by slide" in split.why_not_promotable


def test_grouping_by_image_counts_the_identical_pictures_it_tears():
    dataset = make_index(balanced(12, 15, n_images=4))
    # Every picture is there twice, within its case.
    dataset = with_column(dataset, pixels_digest=np.repeat(dataset.column("pixels_digest")[::2], 2))
    split = make_split(dataset, group_by="image")
    folds, digests = split.folds[0], dataset.column("pixels_digest")
    torn = {digest for digest in digests if len(set(folds[digests == digest])) > 1}
    assert len(torn) > 5
    assert split.leaks[1] == (
        f"Grouping by image puts {len(torn)} of {split.development.sum() // 2} different pictures on both sides of the "
        f"folds, with {2 * len(torn)} of {split.development.sum()} images."
    )


def test_grouping_by_slide_leaks_nothing_where_a_case_is_a_slide_and_still_cannot_be_promoted():
    split = make_split(make_index(balanced(12, 15)), group_by="slide")
    assert split.leaks == ()
    assert not split.promotable


def test_images_without_cases_cannot_be_promoted_and_that_is_said():
    split = make_split(make_index(balanced(30, 30), has_cases=False))
    assert not split.promotable
    assert "cases are not known" in split.why_not_promotable
    assert split.why_not_promotable in split.warnings


def test_few_cases_of_a_class_in_a_fold_and_in_the_test_are_warned_of():
    warnings = make_split(make_index(balanced(10, 40))).warnings
    assert warnings == (
        "5 of 5 folds hold fewer than 3 benign cases (the smallest 1): chance moves their AUC a lot.",
        "The sealed test holds fewer than 3 benign cases (2).",
    )
    enough = make_index(balanced(17, 40))  # 3 benign cases are sealed, 14 are left for 4 folds
    assert make_split(enough, n_folds=4).warnings == ()


# Parts that the data set brings


def parted(**more):
    cases = balanced(15, 15)
    parts = {case: "validation" if case.endswith(("3", "4")) else "train" for case, _, _ in cases}
    return make_index(cases, parts=parts, **more)


def test_a_validation_part_without_shared_cases_is_the_sealed_test():
    dataset = parted()
    split = make_split(dataset)
    assert np.array_equal(split.test, dataset.column("part") == "validation")
    assert split.sealed_by == "part"
    assert "test fraction of 0.2 is not used" in split.warnings[0]
    assert split.fingerprint == make_split(dataset, test_fraction=0.4).fingerprint


def test_a_validation_part_with_shared_cases_is_refused_and_can_be_ignored_for_a_new_division():
    dataset = parted(twins=[("b03", "b05")])
    with pytest.raises(DataError, match=r"b03 = b05(.|\n)*--ignore-predefined-split"):
        make_split(dataset)
    split = make_split(dataset, ignore_predefined_split=True)
    assert split.sealed_by == "fraction"
    assert sealed(split) == sealed(make_split(with_column(dataset, part="")))
    assert split.fingerprint == make_split(with_column(dataset, part="")).fingerprint


def test_a_validation_part_of_one_class_is_refused():
    cases = balanced(10, 10)
    dataset = make_index(cases, parts={case: "validation" if case < "b03" else "train" for case, _, _ in cases})
    with pytest.raises(DataError, match=r"3 benign and 0 malignant cases of 10 benign(.|\n)*--ignore-predefined-split"):
        make_split(dataset)


# Input that cannot be split


def test_fewer_cases_than_folds_name_the_counts_and_the_largest_number_that_works():
    with pytest.raises(DataError, match=r"--folds 5 .* 4 benign and 16 malignant cases.*works is --folds 4\."):
        make_split(make_index(balanced(5, 20)))


def test_the_number_of_folds_that_works_is_tried_where_cases_carry_both_labels():
    """Counting the cases of each class would promise five folds here."""
    mixed = [(f"x{at}", label, 1 + (3 - at if label else at)) for at in range(4) for label in (0, 1)]
    pure = [("b0", 0, 2), ("b1", 0, 2), ("b2", 0, 2), ("m0", 1, 2), ("m1", 1, 2)]
    dataset = make_index([*mixed, *pure])
    with pytest.raises(DataError, match=r"6 benign and 5 malignant cases\. .* works is --folds 3\."):
        make_split(dataset, n_folds=6)
    with pytest.raises(DataError, match=r"works is --folds 3\."):
        make_split(dataset, n_folds=4)
    make_split(dataset, n_folds=3)


def test_a_class_of_two_cases_cannot_be_split_at_all():
    with pytest.raises(DataError, match=r"1 benign and 16 malignant cases\. No number works\."):
        make_split(make_index(balanced(2, 20)))


@pytest.mark.parametrize("group_by", GROUPINGS)
def test_data_that_are_all_sealed_leave_nothing_to_fold(group_by):
    with pytest.raises(DataError, match=r"0 benign and 0 malignant \w+\. No number works\."):
        make_split(make_index(balanced(1, 1)), group_by=group_by)


def test_a_magnification_without_sealed_images_of_a_class_is_refused():
    dataset = make_index(balanced(10, 10), magnifications=("40X", "100X"))
    split = make_split(dataset)
    lost = split.test & (dataset.labels == 0) & (dataset.column("magnification") == "40X")
    with pytest.raises(DataError, match=r"it has 0 benign and 2 malignant cases at 40X(.|\n)*--magnification all"):
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
        ({"group_by": "patient"}, r"--group-by .* case, slide, image, but got 'patient'"),
        ({"magnification": "50X"}, r"--magnification .* all, 40X, 100X, but got '50X'"),
        ({"magnification": ""}, r"--magnification .* got ''"),
    ],
)
def test_an_option_out_of_range_is_named_with_its_rule(options, message):
    with pytest.raises(SettingsError, match=message):
        make_split(make_index(balanced(10, 10), magnifications=("100X", "40X")), **options)


def test_a_magnification_is_refused_where_none_is_known():
    with pytest.raises(SettingsError, match="name no magnifications"):
        make_split(make_index(balanced(10, 10)), magnification="40X")
