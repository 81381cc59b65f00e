"""The choice of a task for a data set, and its record in a store."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bhsearch.data.dataset import Dataset
from bhsearch.errors import DataError, StudyError
from bhsearch.tasks import restore_task, task_of, task_record
from bhsearch.tasks.binary import BinaryTask
from tests.data.factories import balanced, make_index


@pytest.fixture
def index() -> Dataset:
    return make_index(balanced(2, 2))


def test_two_classes_are_a_binary_task_with_the_names_of_the_data_set(index):
    assert task_of(index) == BinaryTask(("benign", "malignant"))
    assert task_of(replace(index, class_names=("normal", "tumour"))) == BinaryTask(("normal", "tumour"))


def test_no_task_has_three_classes(index):
    with pytest.raises(DataError, match="must have two classes, but made has 3: normal, benign, malignant"):
        task_of(replace(index, class_names=("normal", "benign", "malignant")))


def test_a_task_is_restored_from_its_record():
    task = BinaryTask(("normal", "tumour"))
    assert restore_task(json.loads(json.dumps(task_record(task)))) == task


def test_a_store_without_a_record_is_binary():
    assert restore_task(None) == BinaryTask()


def test_an_unknown_task_is_refused():
    with pytest.raises(StudyError, match="one of binary, but got 'ordinal'"):
        restore_task({"name": "ordinal", "class_names": ["0", "1", "2"]})
