"""Prediction tasks, which define the classes, the loss, the metrics and the decision rule."""

from bhsearch.tasks.base import Task
from bhsearch.tasks.registry import TaskRecord, restore_task, task_of, task_record

__all__ = ["Task", "TaskRecord", "restore_task", "task_of", "task_record"]
