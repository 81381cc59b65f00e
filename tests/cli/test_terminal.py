"""Standard output that cannot be written is said in a sentence, with exit code 1, by whatever command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.studies import environment

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")

DATA = "phantom:cases=10,images=2"


def into_the_full(folder, *words):
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )


@pytest.mark.parametrize(
    "words",
    [
        ("bhsearch.predict", "--help"),
        ("bhsearch.dataset", "info", DATA),
        ("bhsearch.dataset", "info", DATA, "--json"),
    ],
)
def test_a_full_disk_behind_standard_output_is_said(tmp_path, words):
    done = into_the_full(tmp_path, *words)
    assert done.returncode == 1
    assert "The output could not be written completely: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_study_whose_plan_cannot_be_written_leaves_nothing(tmp_path):
    words = ("--data", DATA, "--backbones", "staintex-s", "--image-size", "48", "--folds", "2", "--trials", "1")
    done = into_the_full(tmp_path, "bhsearch.run", *words, "--workers", "0")
    assert done.returncode == 1, done.stderr
    assert "The output could not be written completely" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outbox").exists()


def test_a_reader_that_has_enough_is_not_told_of_it(tmp_path):
    command = f"{sys.executable} -m bhsearch.dataset info {DATA} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_characters_that_a_terminal_lacks_are_escaped(tmp_path):
    """The name of a folder, and the sign ± in the plan of a study, on a terminal that knows ASCII only."""
    for at, name in enumerate(["benign", "malignant"] * 10):
        file = tmp_path / "Präparate" / name / f"P{at}_1.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 5 * at, np.uint8)).save(file)
    data = ["Präparate", "--case-pattern", "(P[0-9]+)_"]
    small = ["--backbones", "staintex-s", "--image-size", "48", "--folds", "2", "--trials", "1", "--workers", "0"]
    done = [
        subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment(PYTHONIOENCODING="ascii:strict"),
            capture_output=True, text=True, timeout=120,
        )
        for words in (["bhsearch.dataset", "info", *data], ["bhsearch.run", "--no-tracking", "--data", *data, *small])
    ]  # fmt: skip
    assert [each.returncode for each in done] == [0, 0], done[-1].stderr
    assert r"Pr\xe4parate" in done[0].stdout
    assert r"\xb1" in done[1].stdout
