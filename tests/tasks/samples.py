"""The task of the tests: benign and malignant images."""

from __future__ import annotations

from bhsearch.tasks.binary import BinaryTask

BINARY = BinaryTask()
