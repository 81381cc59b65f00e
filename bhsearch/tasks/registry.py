"""The tasks by name: the choice of the task for a data set, and the record of a task in a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from bhsearch.data.dataset import CLASS_NAMES, Dataset
from bhsearch.errors import DataError, StudyError
from bhsearch.tasks.base import Task
from bhsearch.tasks.binary import BinaryTask


class TaskRecord(TypedDict):
    """The record of a task that studies and registered models store.

    Attributes:
        name: Name of the task, a key of `TASKS`.
        class_names: Names of the classes, in the order of their labels.
    """

    name: str
    class_names: list[str]


# Functions (class names) -> task by the name of the task.
TASKS: dict[str, Callable[[tuple[str, ...]], Task]] = {BinaryTask.name: BinaryTask}
# The task of studies and models from before tasks were stored.
_FIRST = TaskRecord(name=BinaryTask.name, class_names=list(CLASS_NAMES))


def task_of(index: Dataset) -> Task:
    """Return the task of a data set, which follows from the classes of the data set.

    Raises:
        DataError: If no task has this number of classes.
    """
    names = index.class_names
    if len(names) != 2:
        raise DataError(f"A data set must have two classes, but {index.name} has {len(names)}: {', '.join(names)}.")
    return BinaryTask(names)


def task_record(task: Task) -> TaskRecord:
    """Return the record of a task, from which `restore_task` restores the task."""
    return TaskRecord(name=task.name, class_names=list(task.class_names))


def restore_task(record: TaskRecord | None) -> Task:
    """Return the task of a stored study or model.

    Args:
        record: Record of the task; None if the study or the model was stored before tasks were recorded.

    Raises:
        StudyError: If this version of bhsearch does not have the task.
    """
    name, class_names = (record or _FIRST)["name"], (record or _FIRST)["class_names"]
    if name not in TASKS:
        raise StudyError(
            f"The task must be one of {', '.join(TASKS)}, but got {name!r}. Use the version of bhsearch that stored it."
        )
    return TASKS[name](tuple(class_names))
