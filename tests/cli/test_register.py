"""The commands around the registry: exit codes, sentences, and what is printed."""

from __future__ import annotations

import contextlib
import csv
import os
import pty
import re
import shlex
import subprocess
import sys

import pytest

from bhsearch import predict, register, report, reproduce
from bhsearch.cli import terminal
from bhsearch.data.open_data import open_data
from tests.registered import FEW, FEW_FRESH, FEW_PRINTED, FEW_TESTED
from tests.studies import environment, tracked_search
from tests.test_layers import command, loaded_after

OTHER = "phantom:cases=24,images=1"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def ends(monkeypatch, capsys):
    """Run a command in this process: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def main(module, *words):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            terminal.main(module.app, f"python -m {module.__name__}")
        shown = capsys.readouterr()
        return caught.value.code, shown.out, shown.err

    return main


@pytest.fixture
def nothing(here):
    """A folder with a store, but without a study."""
    return here


@pytest.mark.parametrize("module", [register, predict, reproduce])
def test_help_says_what_it_does(ends, module):
    code, out, _ = ends(module, "--help")
    assert code == 0
    assert len(out) > 400


HELP_AND_WRONG_WORDS = [
    ("register", ["--help"]),
    ("register", ["--reason", "because"]),
    ("register", ["--force"]),
    ("register", ["--trial", "best"]),
    ("predict", ["--help"]),
    ("predict", ["nosuch"]),
    ("predict", ["--format", "xml", "."]),
    ("reproduce", ["--help"]),
    ("reproduce", []),
]


def test_help_and_wrong_words_load_no_slow_framework():
    loaded = loaded_after(
        *(command(*words, code=0 if words == ["--help"] else 2, module=name) for name, words in HELP_AND_WRONG_WORDS)
    )
    slow = [names - {"optuna"} for names in loaded]  # 0.3 s; what takes seconds may not be there
    assert [(words, names) for words, names in zip(HELP_AND_WRONG_WORDS, slow, strict=True) if names] == []


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        (register, ("--force",), "--force requires a reason"),
        (register, ("--reason", "because"), "--reason is only used with --force"),
        (register, (), "The MLflow store contains no study"),
        (reproduce, ("nosuch",), "The MLflow store has no run 'nosuch'"),
    ],
)
def test_wrong_words_end_with_two_and_a_sentence(ends, nothing, module, words, sentence):
    code, out, err = ends(module, *words)
    assert code == 2
    # Nothing but steps that took a while, such as `starting TensorFlow: 3.5 s`.
    assert [line for line in out.splitlines() if not re.fullmatch(r"[a-z][\w ]+[:,] [\d.]+ s", line)] == []
    assert sentence in err
    assert "Traceback" not in err


def test_predicting_without_a_champion_says_so(ends, nothing):
    (nothing / "image.png").write_bytes(b"")
    code, _, err = ends(predict, "image.png")
    assert code == 2
    assert "has no model with the alias 'champion'" in err


def test_registering_prints_everything_that_must_be_known(ends, inside):
    code, out, _ = ends(register, "--study", "few", "--trial", FEW_PRINTED)
    assert code == 0
    text = " ".join(out.split())
    for sentence in (
        "corrected AUC", "for having searched", "calibration slope", "threshold", "7 sealed cases",
        "Brier score", "about half of the models with an AUC of", "expected calibration error",
        "times: before this", "Too few cases to decide", ": challenger", "Not for screening patients",
        "removes most of the optimism", "Synthetic data",
        "bhsearch.predict FILES_OR_FOLDERS --model models:/phantom-cases35-images1-difficulty0_2@challenger",
    ):  # fmt: skip
        assert sentence in text, sentence
    code, again, _ = ends(register, "--study", "few", "--trial", FEW_PRINTED)
    assert code == 0
    assert "opened nothing, this time" in " ".join(again.split())


def test_the_advice_of_a_refusal_works_as_it_is_printed(ends, inside, tmp_path):
    index = open_data(FEW)
    _, out, _ = ends(register, "--study", "few", "--trial", FEW_TESTED)
    words = shlex.split(out.rpartition("python -m bhsearch.predict")[2])
    assert words[0] == "FILES_OR_FOLDERS"
    code, rows, _ = ends(predict, index.paths()[0], *words[1:])
    assert code == 0
    (row,) = csv.DictReader(rows.splitlines())
    assert row["label"] in ("benign", "malignant")
    code, rows_again, _ = ends(predict, index.paths()[0], "--model", words[2].removeprefix("models:/"))
    assert (code, rows_again) == (0, rows)


def test_a_dry_run_opens_nothing(ends, inside):
    before = len(inside.client.search_model_versions())
    code, out, _ = ends(register, "--study", "few", "--trial", FEW_FRESH, "--dry-run")
    assert code == 0
    text = " ".join(out.split())
    for said in ("7 cases, 3 with benign and 4 with malignant", "opened before", "gate needs", "Nothing was opened."):
        assert said in text, said
    assert len(inside.client.search_model_versions()) == before


@pytest.mark.slow
def test_on_a_terminal_it_asks_before_the_first_opening(inside, tmp_path):
    """In a copy of the store whose sealed cases nobody has opened."""
    tracked_search(data=OTHER, trials=1, study="fresh", folds=2)
    answer, shown = terminal_says(inside.folder, "n\n", "--study", "fresh")
    assert answer == 1, shown
    assert "is unbiased. Open the sealed test now?" in shown
    assert "Nothing was opened." in shown
    assert "opened before" in shown
    assert not inside.client.search_model_versions("name = 'phantom-cases24-images1'")


def terminal_says(folder, typed, *words):
    """Run the command on a terminal and type something. Exit code, and what the terminal shows."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bhsearch.register", *words],
        cwd=folder, stdin=its, stdout=its, stderr=its, close_fds=True, start_new_session=True,
        env=environment(MLFLOW_TRACKING_URI=os.environ["MLFLOW_TRACKING_URI"]),
    )  # fmt: skip
    os.close(its)
    os.write(ours, typed.encode())
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is closed
        while more := os.read(ours, 4096):
            shown += more
    os.close(ours)
    return process.wait(), shown.decode()


@pytest.mark.parametrize(
    ("module", "words"),
    [(register, []), (register, ["--dry-run"]), (predict, ["image.png"]), (reproduce, ["run"]), (report, [])],
)
def test_an_empty_folder_stays_empty(ends, tmp_path, monkeypatch, module, words):
    (tmp_path / "image.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, out, err = ends(module, *words)
    assert code == 2, out + err
    assert "has no mlflow.db" in err
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]


def test_reproducing_prints_how_far_it_differs(ends, inside):
    code, out, _ = ends(reproduce, inside.few.trial.run_id)
    assert code == 0
    assert "P(malignant) differs by at most" in out
