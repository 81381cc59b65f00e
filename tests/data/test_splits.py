"""Test set and folds of a split, its leaks and warnings, and its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.splits import GROUPINGS, Split, make_split, training_weights
from bhsearch.errors import DataError, SettingsError
from tests.data.factories import balanced, make_index, sealed, with_column

quick = settings(deadline=None, max_examples=25)


@st.composite
def indexes(draw, least_of_class=0, mixed=True):
    """Cases of one label or both, some of which share a picture, with 1 to 6 images each and names that vary."""
    n_images = st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(lambda content: sum(content) > 0)
    contents = draw(st.lists(n_images, min_size=1, max_size=25)) if mixed else []
    contents += [(draw(st.integers(1, 3)), 0)] * draw(st.integers(1 + least_of_class, 8 + least_of_class))
    contents += [(0, draw(st.integers(1, 3)))] * draw(st.integers(1 + least_of_class, 8 + least_of_class))
    salt = draw(st.integers(0, 10_000))
    cases = [f"{salt}-{at}" for at in range(len(contents))]
    rows = [(case, label, n) for case, both in zip(cases, contents, strict=True) for label, n in enumerate(both) if n]
    twins = draw(st.lists(st.tuples(st.sampled_from(cases), st.sampled_from(cases)), max_size=3)) if mixed else []
    return make_index(rows, twins=twins, slides_per_case=draw(st.integers(1, 3)))


def shuffled(dataset, seed=0):
    return replace(dataset, table=dataset.table.sample(frac=1, random_state=seed))


def fold_of(split):
    """Return the fold by path, which must not depend on the order of the rows."""
    return dict(zip(split.paths, map(tuple, split.folds.T.tolist()), strict=True))


def n_groups(split, dataset, rows, label):
    return len(set(split.groups[rows & (dataset.labels == label)]))


def holds_both(split, dataset, rows):
    return all(n_groups(split, dataset, rows, label) for label in (0, 1))


# What lies on which side


@given(indexes(), st.integers(2, 5), st.integers(1, 2))
@quick
def test_no_case_and_no_picture_lies_on_two_sides_of_anything(dataset, n_folds, n_repeats):
    try:
        split = make_split(dataset, n_folds=n_folds, n_repeats=n_repeats)
    except (DataError, SettingsError):
        return
    for column in (dataset.column("case"), dataset.column("pixels_digest"), split.groups):
        for value in set(column):
            rows = column == value
            assert len(set(zip(split.test[rows], *split.folds[:, rows], strict=True))) == 1


@given(indexes(), st.sampled_from(GROUPINGS), st.integers(2, 12))
@quick
def test_both_classes_are_everywhere_or_the_error_names_the_largest_number_of_folds(dataset, group_by, n_folds):
    try:
        split = make_split(dataset, n_folds=n_folds, group_by=group_by)
    except DataError as error:
        message = str(error)
        assert " benign and " in message
        if "No value of --folds works" in message:
            assert not any(works_with(dataset, k, group_by) for k in range(2, 14))
        else:
            largest = int(message.split("The largest possible value is --folds ")[1].rstrip("."))
            assert works_with(dataset, largest, group_by)
            assert not works_with(dataset, largest + 1, group_by)
        return
    assert holds_both(split, dataset, split.test)
    for part in split.parts():
        assert holds_both(split, dataset, split.validation(*part))
        assert holds_both(split, dataset, split.training(*part))


def works_with(dataset, n_folds, group_by):
    try:
        make_split(dataset, n_folds=n_folds, group_by=group_by)
    except DataError:
        return False
    return True


@given(indexes(least_of_class=5, mixed=False), st.integers(1, 3))
@quick
def test_folds_differ_by_one_case_of_a_class_at_most(dataset, n_repeats):
    split = make_split(dataset, n_folds=3, n_repeats=n_repeats)
    for label in (0, 1):
        sizes = [n_groups(split, dataset, split.validation(*part), label) for part in split.parts()]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("group_by", GROUPINGS)
def test_every_image_is_sealed_or_validated_once_a_repeat(group_by):
    split = make_split(make_index(balanced(12, 15), slides_per_case=2), n_repeats=2, group_by=group_by)
    assert (split.test ^ split.development).all()
    for repeat in range(2):
        times = sum(split.validation(repeat, fold).astype(int) for fold in range(5))
        assert np.array_equal(times, split.development)
    for part in split.parts():
        assert np.array_equal(split.training(*part), split.development & ~split.validation(*part))


def test_strata_without_mixed_cases_are_the_labels():
    dataset = make_index(balanced(10, 20))
    assert np.array_equal(make_split(dataset).strata, dataset.labels)


def test_a_mask_is_only_given_for_a_fold_that_there_is():
    split = make_split(make_index(balanced(10, 10)))
    for part in ((0, 5), (0, -1), (1, 0), (-1, 0)):
        with pytest.raises(IndexError):
            split.validation(*part)
        with pytest.raises(IndexError):
            split.training(*part)


def test_nobody_can_write_into_a_split():
    split = make_split(make_index(balanced(10, 10)))
    with pytest.raises(ValueError, match="read-only"):
        split.test[0] = True


# What the seal depends on


@given(indexes(least_of_class=4), st.integers(2, 4), st.integers(1, 2), st.sampled_from(GROUPINGS), st.integers(0, 99))
@quick
def test_the_seal_does_not_depend_on_order_place_folds_repeats_or_grouping(dataset, n_folds, n_repeats, group_by, seed):
    other = replace(shuffled(dataset, seed), root=Path("elsewhere"))
    try:
        one = make_split(dataset, n_folds=2)
        two = make_split(other, n_folds=n_folds, n_repeats=n_repeats, group_by=group_by)
    except (DataError, SettingsError):
        return
    assert sealed(one) == sealed(two)


def test_studies_at_any_magnification_seal_the_same_cases():
    dataset = make_index(balanced(12, 15), magnifications=("40X", "100X"))
    whole = make_split(dataset)
    for wanted, written in (("40X", "40X"), ("40", "40X"), ("100x", "100X")):
        split = make_split(dataset, magnification=wanted)
        chosen = dataset.column("magnification") == written
        assert split.magnification == written
        assert np.array_equal(split.test, whole.test & chosen)
        assert np.array_equal(split.development, whole.development & chosen)
        assert (split.folds[:, ~split.development] == -1).all()


def test_a_magnification_added_to_the_data_leaves_the_sealed_cases_as_they_were():
    one = make_index(balanced(12, 15), magnifications=("40X",))
    two = make_index(balanced(12, 15), magnifications=("40X", "100X"))
    assert set(one.column("case")[make_split(one).test]) == set(two.column("case")[make_split(two).test])


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.35, 0.5])
def test_the_test_is_the_fraction_asked_for_of_each_class(fraction):
    dataset = make_index(balanced(40, 100, n_images=1))
    split = make_split(dataset, test_fraction=fraction)
    assert [n_groups(split, dataset, split.test, label) for label in (0, 1)] == [40 * fraction, 100 * fraction]


def test_images_without_cases_are_sealed_by_their_paths():
    dataset = make_index(balanced(10, 10), has_cases=False)
    split = make_split(dataset)
    assert split.test.sum() == 8
    assert sealed(split) == sealed(make_split(with_column(dataset, case="")))
    assert len(set(split.groups)) == 40


# What the folds depend on


@given(indexes(least_of_class=4), st.sampled_from(GROUPINGS), st.integers(0, 99))
@quick
def test_folds_and_fingerprint_do_not_depend_on_the_order_of_rows_or_where_they_lie(dataset, group_by, seed):
    try:
        split = make_split(dataset, n_folds=2, n_repeats=2, group_by=group_by)
    except (DataError, SettingsError):
        return
    other = make_split(
        replace(shuffled(dataset, seed), root=Path("elsewhere"), name="other"),
        n_folds=2,
        n_repeats=2,
        group_by=group_by,
    )
    assert fold_of(split) == fold_of(other)
    assert split.fingerprint == other.fingerprint


def test_repeats_are_different_divisions():
    split = make_split(make_index(balanced(12, 15)), n_repeats=8)
    assert len({row.tobytes() for row in split.folds}) == 8


def test_the_first_repeat_is_the_same_however_many_follow():
    dataset = make_index(balanced(12, 15))
    assert np.array_equal(make_split(dataset, n_repeats=3).folds[:1], make_split(dataset).folds)


def test_more_repeats_than_divisions_are_refused():
    with pytest.raises(SettingsError, match=r"--repeats 9 is too large: 4 cases in 2 folds allow only 2"):
        make_split(make_index(balanced(3, 3)), n_folds=2, n_repeats=9)


CHANGES = {
    "label": lambda dataset: with_column(dataset, label=np.where(dataset.column("case") == "b00", 1, dataset.labels)),
    "pixels": lambda dataset: with_column(dataset, pixels_digest=["0", *dataset.column("pixels_digest")[1:]]),
    "case": lambda dataset: with_column(dataset, case=["new", *dataset.column("case")[1:]]),
    "path": lambda dataset: with_column(dataset, path=["0.png", *dataset.column("path")[1:]]),
    "an image less": lambda dataset: dataset.select(np.arange(len(dataset)) > 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_fingerprint_comes_with_other_data(change):
    dataset = make_index(balanced(12, 15))
    assert make_split(dataset).fingerprint != make_split(CHANGES[change](dataset)).fingerprint


def test_another_fingerprint_comes_with_every_option():
    dataset = make_index(balanced(12, 15), magnifications=("40X", "100X"), slides_per_case=2)
    options = [
        {},
        {"test_fraction": 0.21},  # the same cases are sealed
        {"test_fraction": 0.3},
        {"n_folds": 4},
        {"n_repeats": 2},
        {"group_by": "slide"},
        {"group_by": "image"},
        {"magnification": "40X"},
    ]
    assert len({make_split(dataset, **some).fingerprint for some in options}) == len(options)


# Weights


@given(indexes(), st.data())
@quick
def test_weights_sum_to_one_in_every_group_of_the_part(dataset, data):
    groups = np.unique(dataset.column("case"), return_inverse=True)[1]
    part = np.array(data.draw(st.lists(st.booleans(), min_size=len(dataset), max_size=len(dataset))))
    weights = training_weights(groups, part)
    assert (weights[~part] == 0).all()
    for group in set(groups[part]):
        inside = weights[part & (groups == group)]
        assert inside.sum() == pytest.approx(1)
        assert len(set(inside)) == 1
    assert weights.sum() == pytest.approx(len(set(groups[part])))


def test_no_images_weigh_nothing():
    assert training_weights(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)).shape == (0,)


# Keeping a split


@given(indexes(least_of_class=4), st.sampled_from(GROUPINGS))
@quick
def test_a_split_comes_back_from_json_as_it_was(dataset, group_by):
    try:
        split = make_split(dataset, n_folds=2, n_repeats=2, group_by=group_by)
    except (DataError, SettingsError):
        return
    again = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    for name in Split.__dataclass_fields__:
        one, two = getattr(split, name), getattr(again, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)
        else:
            assert one == two
    assert again.fingerprint == split.fingerprint


def move_to_development(record):
    record["images"]["part"] = ["development" for _ in record["images"]["part"]]


EDITS = {
    "was modified": move_to_development,
    "format": lambda record: record.update(format=2),
    "images": lambda record: record.pop("images"),
    "'trial'": lambda record: record["images"]["part"].__setitem__(0, "trial"),
    "zip": lambda record: record["images"]["group"].append(0),
}


@pytest.mark.parametrize("message", EDITS)
def test_a_kept_split_that_was_changed_is_refused(message):
    record = make_split(make_index(balanced(10, 10))).to_dict()
    EDITS[message](record)
    with pytest.raises(DataError, match=message):
        Split.from_dict(record)


# Real data


@pytest.mark.data
def test_a_fifth_of_the_real_breakhis_cases_leaves_ten_benign_and_sixteen_malignant(breakhis):
    dataset = load_dataset(breakhis)
    split = make_split(dataset)
    assert [n_groups(split, dataset, split.development, label) for label in (0, 1)] == [10, 16]
    assert [n_groups(split, dataset, split.test, label) for label in (0, 1)] == [3, 4]
    assert {n_groups(split, dataset, split.validation(*part), 0) for part in split.parts()} == {2}
    assert "fewer than 3 benign cases" in split.warnings[0]
    assert make_split(dataset, group_by="image").leaks


@pytest.mark.data
def test_real_patients_with_both_labels_are_stratified_by_quartile(idc):
    dataset = load_dataset(idc)
    split = make_split(dataset)
    first = np.unique(split.groups, return_index=True)[1]
    assert len(set(split.strata)) == 4
    assert abs(np.bincount(split.strata[first]) - 35).max() <= 3  # 140 patients; equal shares stay together
    shares = [dataset.labels[split.validation(*part)].mean() for part in split.parts()]
    assert max(shares) - min(shares) < 0.15
    assert split.test[first].sum() == 28
    assert split.warnings == ()


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
        f"Grouping by slide puts {len(torn)} of {n_cases} development cases in several folds, with "
        f"{np.isin(cases, list(torn)).sum()} of {split.development.sum()} images.",
    )
    assert not split.promotable
    assert "made by slide" in split.why_not_promotable


def test_as_many_folds_as_sites_leave_one_site_out_and_leak_nothing():
    dataset = make_index(balanced(20, 24))
    sites = np.array([("Bonn", "Kiel", "Ulm")[int(case[1:]) % 3] for case in dataset.column("case")], dtype=object)
    split = make_split(with_column(dataset, site=sites), group_by="site", n_folds=3)
    rows = split.development
    validated = [set(sites[split.validation(0, fold)]) for fold in range(3)]
    assert sorted(validated, key=min) == [{"Bonn"}, {"Kiel"}, {"Ulm"}]
    assert all(split.validation(0, fold).sum() for fold in range(3))
    assert (split.leaks, split.promotable) == ((), True)
    assert sealed(split) == sealed(make_split(dataset))
    assert rows.sum() == sum(split.validation(0, fold).sum() for fold in range(3))


def test_sites_that_share_a_case_are_in_one_fold():
    dataset = make_index(balanced(20, 24))
    sites = np.array([f"s{int(case[1:]) % 4}" for case in dataset.column("case")], dtype=object)
    development = make_split(dataset).development
    first = dataset.column("case")[development][0]
    sites[np.flatnonzero(dataset.column("case") == first)[0]] = f"s{(int(first[1:]) + 1) % 4}"
    split = make_split(with_column(dataset, site=sites), group_by="site", n_folds=3)
    fold_of = {site: set(split.folds[0][development & (sites == site)]) for site in set(sites)}
    assert fold_of[f"s{int(first[1:]) % 4}"] == fold_of[f"s{(int(first[1:]) + 1) % 4}"]
    assert split.leaks == ()


def test_sites_that_are_one_unit_are_named_in_the_plan_and_in_the_refusal():
    dataset = make_index(balanced(20, 24))
    sites = np.array([("Bonn", "Kiel", "Ulm")[int(case[1:]) % 3] for case in dataset.column("case")], dtype=object)
    shared = np.flatnonzero(make_split(dataset).development)[0]
    other = {"Bonn": "Kiel", "Kiel": "Ulm", "Ulm": "Bonn"}[sites[shared]]
    joined = " = ".join(sorted([sites[shared], other]))
    sites[shared] = other
    split = make_split(with_column(dataset, site=sites), group_by="site", n_folds=2)
    assert any(joined in warning for warning in split.warnings)
    with pytest.raises(DataError, match=f"one fold: {joined}.* largest possible value is --folds 2"):
        make_split(with_column(dataset, site=sites), group_by="site", n_folds=3)
    one = np.where(sites == "Ulm", "Ulm", "Bonn").astype(object)
    one[np.flatnonzero(sites == "Ulm")[::2]] = "Bonn"
    with pytest.raises(DataError, match=r"Bonn = Ulm.* Add sites, or use --group-by case"):
        make_split(with_column(dataset, site=one), group_by="site", n_folds=2)


def test_grouping_by_site_needs_the_site_of_every_image():
    with pytest.raises(SettingsError, match="needs the site of every image, but 84 of 84 images have none") as caught:
        make_split(with_column(make_index(balanced(20, 24)), site=""), group_by="site", test_fraction=0.05)
    assert "column site" in str(caught.value)


def test_grouping_by_image_counts_the_identical_pictures_it_tears():
    dataset = make_index(balanced(12, 15, n_images=4))
    # Every picture is there twice, within its case.
    dataset = with_column(dataset, pixels_digest=np.repeat(dataset.column("pixels_digest")[::2], 2))
    split = make_split(dataset, group_by="image")
    folds, digests = split.folds[0], dataset.column("pixels_digest")
    torn = {digest for digest in digests if len(set(folds[digests == digest])) > 1}
    assert len(torn) > 5
    assert split.leaks[1] == (
        f"Grouping by image puts {len(torn)} of {split.development.sum() // 2} different images in several "
        f"folds, with {2 * len(torn)} of {split.development.sum()} images."
    )


def test_grouping_by_slide_leaks_nothing_where_a_case_is_a_slide_and_still_cannot_be_promoted():
    split = make_split(make_index(balanced(12, 15)), group_by="slide")
    assert split.leaks == ()
    assert not split.promotable


def test_images_without_cases_cannot_be_promoted_and_that_is_said():
    split = make_split(make_index(balanced(30, 30), has_cases=False))
    assert not split.promotable
    assert "cases are unknown" in split.why_not_promotable
    assert split.why_not_promotable in split.warnings


def test_few_cases_of_a_class_in_a_fold_and_in_the_test_are_warned_of():
    warnings = make_split(make_index(balanced(10, 40))).warnings
    assert warnings == (
        "5 of 5 folds have fewer than 3 benign cases (minimum 1), so their AUC varies a lot by chance.",
        "The sealed test has fewer than 3 benign cases (2).",
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
    assert "--test-fraction 0.2 is not used" in split.warnings[0]
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
    with pytest.raises(
        DataError,
        match=r"has 3 benign and 0 malignant cases\. The whole data set has 10 benign .*--ignore-predefined-split",
    ):
        make_split(dataset)
