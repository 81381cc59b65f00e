"""One configuration on published folds: what it learns from, and what it says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.layouts.breakhis_folds import ResolvedFold
from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.errors import DataError
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.protocols.breakhis_folds import OFFICIAL_NOTE, evaluate_folds, result_record


@pytest.fixture(scope="module")
def index():
    """Two magnifications by name only: even cases at one, odd cases at the other."""
    index = phantom_dataset("phantom:cases=30,images=4,difficulty=0")
    case = np.array([int(number) for number in index.column("case")])
    return replace(index, table=index.table.assign(magnification=np.where(case % 2, "40X", "100X")))


@pytest.fixture(scope="module")
def backbone():
    (found,) = find_backbones(["staintex-s"], None).backbones
    return found


def fold(index, number, test):
    return ResolvedFold(number, ~test, test, 0, {"1": (("a",), ("b",))}, (("p", "q"),))


def every_third(index, number):
    case = np.array([int(name) for name in index.column("case")])
    return fold(index, number, case // 2 % 3 == number)


def test_every_fold_is_tested_at_every_magnification_on_its_own_images(index, backbone):
    folds = [every_third(index, number) for number in (0, 1, 2)]
    found = evaluate_folds(index, folds, backbone, image_size=48)
    assert [(row.magnification, row.fold) for row in found] == [(key, k) for key in ("40X", "100X") for k in (0, 1, 2)]
    here = index.column("magnification")
    for row in found:
        inside = folds[row.fold].test & (here == row.magnification)
        assert row.n_images == inside.sum()
        assert row.n_patients == len(set(index.column("slide")[inside]))
    # Classes that are nearly apart: what is learned from the train images holds on the others.
    assert np.mean([row.image_rate for row in found]) > 0.7


def test_labels_of_test_images_and_other_magnifications_teach_nothing(index, backbone):
    """Turned over, they turn the rates of their own images over and change no head."""
    one = every_third(index, 0)
    labels = index.labels
    turned = replace(index, table=index.table.assign(label=np.where(one.test, 1 - labels, labels).astype(np.int8)))
    before = evaluate_folds(index, [one], backbone, image_size=48)
    after = evaluate_folds(turned, [one], backbone, image_size=48)
    assert [row.image_rate for row in after] == pytest.approx([1 - row.image_rate for row in before])
    other = index.column("magnification") == "40X"
    mixed = replace(index, table=index.table.assign(label=np.where(other, 1 - labels, labels).astype(np.int8)))
    assert evaluate_folds(mixed, [one], backbone, image_size=48)[1] == before[1]


def test_folds_of_different_sizes_do_not_touch_each_other(index, backbone):
    folds = [every_third(index, 0), fold(index, 5, np.arange(len(index)) < 30)]
    alone = [row for each in folds for row in evaluate_folds(index, [each], backbone, image_size=48)]
    together = evaluate_folds(index, folds, backbone, image_size=48)
    key = [(row.fold, row.magnification) for row in together]
    assert sorted(key) == sorted((row.fold, row.magnification) for row in alone)
    for row in together:
        (peer,) = [other for other in alone if (other.fold, other.magnification) == (row.fold, row.magnification)]
        assert row.image_rate == pytest.approx(peer.image_rate, abs=1.5 / row.n_images)


def test_train_images_of_one_class_are_an_error(index, backbone):
    benign_is_tested = fold(index, 1, index.labels == 0)
    with pytest.raises(DataError, match=r"fold 1 at 40X lack a class: 0 benign"):
        evaluate_folds(index, [benign_is_tested], backbone, image_size=48)


def test_the_record_is_json_and_lists_leaks_beside_the_numbers(index, backbone):
    folds = [every_third(index, 0)]
    made = result_record(evaluate_folds(index, folds, backbone, image_size=48), folds)
    assert json.loads(json.dumps(made, allow_nan=False))["summaries"][0]["image_rate"]["standard_deviation"] is None
    assert made["leaks"][0]["cases"] == {"1": {"train": ("a",), "test": ("b",)}}
    assert made["leaks"][0]["pictures"] == (("p", "q"),)
    assert made["note"] == OFFICIAL_NOTE
