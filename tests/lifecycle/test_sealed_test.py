"""The images of the sealed test can be read through a logged access, and in no other way."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import bhsearch
from bhsearch.data.open_data import open_data
from bhsearch.data.splits import make_split
from bhsearch.lifecycle.restore import sealed_digest
from bhsearch.lifecycle.sealed_test import SealedTest
from tests.studies import import_mlflow

PACKAGE = Path(bhsearch.__file__).parent
HOME = PACKAGE / "lifecycle" / "sealed_test.py"


@pytest.fixture
def data():
    index = open_data("phantom:cases=24,images=2")
    return index, make_split(index, n_folds=3)


@pytest.fixture
def accesses(monkeypatch):
    """The module of accesses, and a function that makes one as `log_access` does."""
    import_mlflow()
    from bhsearch.tracking import access_log

    return access_log, lambda digest: access_log.LoggedAccess(access_log._TOKEN, "run", digest)


@pytest.mark.parametrize("access", [None, "run", True, object()])
def test_it_cannot_be_made_without_a_logged_access(data, accesses, access):
    with pytest.raises(TypeError, match="must be a LoggedAccess from `log_access`"):
        SealedTest(*data, access)


@pytest.mark.parametrize("token", [None, object(), "token"])
def test_nothing_but_the_log_makes_an_access(accesses, token):
    access_log, _ = accesses
    with pytest.raises(TypeError, match="only with `log_access`"):
        access_log.LoggedAccess(token, "run", "digest")


def test_an_access_to_other_images_opens_nothing(data, accesses):
    _, logged = accesses
    with pytest.raises(ValueError, match="was logged for another test set"):
        SealedTest(*data, logged("another digest"))


def test_it_holds_the_images_of_the_test_and_no_others(data, accesses):
    index, split = data
    _, logged = accesses
    test = SealedTest(index, split, logged(sealed_digest(index, split)))
    predictions = test.predictions(np.full(len(test), 0.5, np.float32))
    assert predictions.path.tolist() == index.column("path")[split.test].tolist()
    assert (predictions.label == index.labels[split.test]).all()
    assert test.image(0).dtype == np.uint8
    lineage = test.lineage()
    assert len(lineage["test"]["case"]) == len(test) == int(split.test.sum())
    assert not set(lineage["test"]["pixels_digest"]) & set(lineage["development"]["pixels_digest"])


def selections_of_the_test(file: Path) -> list[int]:
    """Lines that select rows of a data set, or its files, by the mask of the test."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        arguments = node.args if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else []
        if arguments and node.func.attr == "select":
            found += [
                node.lineno
                for each in ast.walk(arguments[0])
                if isinstance(each, ast.Attribute) and each.attr == "test"
            ]
        if isinstance(node, ast.Subscript) and "paths()" in ast.unparse(node.value):
            found += [
                node.lineno for each in ast.walk(node.slice) if isinstance(each, ast.Attribute) and each.attr == "test"
            ]
    return found


def test_no_other_module_selects_the_files_of_the_test():
    assert selections_of_the_test(HOME)  # the check itself works
    others = {file: selections_of_the_test(file) for file in PACKAGE.rglob("*.py") if file != HOME}
    assert {file.name: lines for file, lines in others.items() if lines} == {}
