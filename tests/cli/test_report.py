from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.studies import STUDY, Store, environment


def call(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "bhsearch.report", *map(str, words)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A finished study of its own to write into; the shared one is for looking only."""
    original = finished.folder
    copy = tmp_path_factory.mktemp("reported") / "study"
    shutil.copytree(original, copy)
    with closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            # Artifacts are found by whole paths, which are those of the original.
            query = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            database.execute(query, (original.as_uri(), copy.as_uri()))
    return copy


def test_a_page_is_written_and_kept_beside_the_study(folder):
    done = call(folder, "--study", STUDY, "--output", "new/page.html")
    assert done.returncode == 0, done.stderr
    page = (folder / "new" / "page.html").read_text(encoding="utf-8")
    assert done.stdout.startswith(f"{STUDY}: new/page.html") or f"\n{STUDY}: new/page.html" in done.stdout
    assert page.startswith("<!doctype html>")
    store = Store(folder)
    kept = store.files(store.parent())["report.html"]
    assert kept.is_relative_to(folder)
    assert kept.read_text(encoding="utf-8") == page


def test_figures_are_written_into_a_folder_that_is_made(folder):
    done = call(folder, "--figures", "for/paper")
    assert done.returncode == 0, done.stderr
    kinds = {file.suffix for file in (folder / "for" / "paper").iterdir()}
    assert kinds == {".svg", ".pdf", ".md"}
    assert "for/paper: " in done.stdout
    assert "figures as SVG and PDF" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--study", "nosuch"), STUDY),
        (("--output", "mlruns"), "is a folder"),
        (("--figures", "mlflow.db"), "is a file"),
        (("--nosuch",), "No such option"),
    ],
)
def test_wrong_input_ends_with_two_and_a_sentence(folder, words, said):
    done = call(folder, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_a_study_says_how_to_make_one(tmp_path):
    done = call(tmp_path)
    assert done.returncode == 2
    assert "python -m" in done.stderr
    assert "bhsearch.run" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_slow():
    slow = ("pandas", "numpy", "keras", "mlflow", "matplotlib")
    code = f"import sys, bhsearch.report; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
