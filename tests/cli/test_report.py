from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from contextlib import closing

import pytest

from bhsearch import report
from tests.studies import STUDY, Store, command_here, environment, import_mlflow, working_in


def call(folder, *words):
    import_mlflow()
    from mlflow.tracking._tracking_service import utils

    with working_in(folder), pytest.MonkeyPatch.context() as patch:
        # MLflow keeps the place of a run's artifacts by the id of the run, which the original has, too.
        patch.setattr(utils, "_artifact_repos_cache", OrderedDict())
        return command_here(report, *words)


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
    kept = store.files(store.parent())
    assert kept["report.html"].is_relative_to(folder)
    assert kept["report.html"].read_text(encoding="utf-8") == page
    checklist = (folder / "new" / "page_checklist.md").read_text(encoding="utf-8")
    assert kept["checklist.md"].read_text(encoding="utf-8") == checklist
    assert "new/page_checklist.md: TRIPOD+AI: 27 items in 52 parts" in done.stdout
    assert checklist.startswith(f"# Reporting checklists of {STUDY}")


def test_figures_are_written_into_a_folder_that_is_made(folder):
    done = call(folder, "--figures", "for/paper")
    assert done.returncode == 0, done.stderr
    kinds = {file.suffix for file in (folder / "for" / "paper").iterdir()}
    assert kinds == {".svg", ".pdf", ".md"}
    assert "for/paper: " in done.stdout
    assert "figures as SVG and PDF" in done.stdout


def test_the_learning_curve_is_computed_on_request_and_shown_from_then_on(folder):
    assert call(folder, "--output", "before.html").returncode == 0
    assert "bhsearch report --learning-curve" in (folder / "before.html").read_text(encoding="utf-8")
    done = call(folder, "--learning-curve", "--figures", "curve")
    assert done.returncode == 0, done.stderr
    assert (folder / "curve" / "learning_curve.svg").exists()
    store = Store(folder)
    parent = store.parent()
    curve = store.record(parent, "learning_curve.json")["curve"]
    for name, value in (("gain", curve["gain"]), ("auc_at_twice_the_cases", curve["fitted"][-1])):
        assert parent.data.metrics[f"learning_curve/{name}"] == pytest.approx(value)
        assert f"learning_curve/{name}_low" in parent.data.metrics
    assert call(folder, "--output", "after.html").returncode == 0
    assert f"{curve['gain']:+.3f}" in (folder / "after.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "elsewhere"), "only used with --learning-curve"),
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
    done = subprocess.run(
        [sys.executable, "-m", "bhsearch.report"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "python -m" in done.stderr
    assert "bhsearch.run" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_slow():
    slow = ("pandas", "numpy", "keras", "mlflow", "matplotlib")
    code = f"import sys, bhsearch.report; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
