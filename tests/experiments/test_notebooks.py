"""Test that the notebooks run from an empty folder, and that their stored outputs are those of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(file: Path) -> list[dict]:
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_promised_notebooks_are_there():
    assert [file.name for file in NOTEBOOKS] == ["01_synthetic.ipynb", "02_own_data.ipynb"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_cell_was_executed_without_an_error_and_the_file_is_small(file):
    found = cells(file)
    assert all(cell["execution_count"] for cell in found)
    assert [output for cell in found for output in cell["outputs"] if output["output_type"] == "error"] == []
    assert any(cell["outputs"] for cell in found)
    assert file.stat().st_size < 200_000


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_nothing_of_the_machine_that_executed_it_is_stored(file):
    text = file.read_text(encoding="utf-8")
    folders = (f"/{name}/" for name in ("tmp", "home", "root", "work", "Users"))
    assert [folder for folder in folders if folder in text] == []


@pytest.mark.slow
def test_they_run_from_an_empty_folder(tmp_path):
    """As processes: a kernel needs one of its own."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "execute.py"), "--check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BHSEARCH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("cells") == len(NOTEBOOKS)
