"""Columns of a data set that are joined to probabilities."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from bhsearch.data.open_data import open_data
from bhsearch.data.splits import make_split
from bhsearch.errors import DataError
from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.augmentation.shifts import SHIFTS


def columns() -> ImageColumns:
    index = open_data("phantom:cases=24,images=2")
    split = make_split(index, n_folds=3, n_repeats=2)
    return ImageColumns.select(index, split, split.development, split.folds[:, split.development])


def test_the_columns_are_all_fields_of_predictions_but_the_probabilities():
    names = {field.name for field in fields(Predictions)}
    assert {field.name for field in fields(ImageColumns)} == names - {"probability", "shifted"}


def test_predictions_have_the_columns_of_the_chosen_images():
    index = open_data("phantom:cases=24,images=2")
    split = make_split(index, n_folds=3)
    rows = split.test
    n = int(rows.sum())
    chosen = ImageColumns.select(index, split, rows, np.zeros((1, n), np.int8))
    probability = np.linspace(0, 1, n)[None]
    predictions = chosen.predictions(probability)
    assert len(chosen) == n
    assert predictions.probability is probability
    assert np.array_equal(predictions.path, index.column("path")[rows])
    assert np.array_equal(predictions.case, index.column("case")[rows])
    assert np.array_equal(predictions.label, index.labels[rows])
    assert np.array_equal(predictions.group, split.groups[rows])
    assert np.array_equal(predictions.stratum, split.strata[rows])


def test_the_training_part_of_a_fold_has_the_other_folds_of_the_repeat_from_0():
    whole = columns()
    part = whole.without_fold(1, 0)
    kept = whole.fold[1] != 0
    assert part.fold.tolist() == [(whole.fold[1, kept] - 1).tolist()]
    assert part.path.tolist() == whole.path[kept].tolist()
    middle = whole.without_fold(0, 1)
    assert middle.fold.tolist() == [np.where(whole.fold[0] == 2, 1, 0)[whole.fold[0] != 1].tolist()]


def test_saved_columns_are_read_again(tmp_path):
    saved = columns()
    np.savez(tmp_path / "columns.npz", **saved.arrays())
    with np.load(tmp_path / "columns.npz") as arrays:  # strings that need pickling would be refused
        read = ImageColumns.from_arrays(arrays)
    for field in fields(ImageColumns):
        one, other = getattr(saved, field.name), getattr(read, field.name)
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.array_equal(one, other)


def test_the_weight_of_the_shifts_is_saved_and_kept_with_parts_of_the_images():
    whole = replace(columns(), shift_weight=0.25)
    assert ImageColumns.from_arrays(whole.arrays()).shift_weight == 0.25
    assert whole.without_fold(0, 1).shift_weight == 0.25
    earlier = {name: array for name, array in whole.arrays().items() if name != "shift_weight"}
    assert ImageColumns.from_arrays(earlier).shift_weight == 0.0  # written before there were mixed scores


def test_probabilities_under_shifts_follow_those_of_the_unchanged_images():
    whole = replace(columns(), shift_weight=0.25)
    n_repeats, n_images = whole.fold.shape
    rows = np.random.default_rng(0).random((n_repeats * (1 + len(SHIFTS)), n_images))
    mixed = whole.predictions(rows)
    assert np.array_equal(mixed.probability, rows[:n_repeats])
    assert mixed.shifts == tuple(SHIFTS)
    for place, probability in enumerate(mixed.shifted.values(), start=1):
        assert np.array_equal(probability, rows[place * n_repeats : (place + 1) * n_repeats])
    assert mixed.shift_weight == 0.25
    assert np.array_equal(mixed.out_of_fold, rows)
    alone = whole.predictions(rows[:n_repeats])
    assert (alone.shifted, alone.shift_weight) == ({}, 0.0)
    with pytest.raises(DataError, match="must have the same shape"):
        whole.predictions(rows[:-1])
