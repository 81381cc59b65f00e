"""The commands around the registry: exit codes, sentences, and what is printed."""

from __future__ import annotations

import re

import pytest

from bhsearch import predict, register, reproduce, terminal
from tests.registered import history_of_versions, working_in
from tests.studies import cache_of, import_mlflow
from tests.test_layers import loaded_by

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
def inside(tmp_path_factory):
    history = history_of_versions(tmp_path_factory)
    with working_in(history.folder, cache_of(tmp_path_factory)):
        yield history


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A folder without a study."""
    import_mlflow()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.mark.parametrize("module", [register, predict, reproduce])
def test_help_says_what_it_does(ends, module):
    code, out, _ = ends(module, "--help")
    assert code == 0
    assert len(out) > 400


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("register", ["--help"]),
        ("register", ["--why", "because"]),
        ("register", ["--force"]),
        ("register", ["--trial", "best"]),
        ("predict", ["--help"]),
        ("predict", ["nosuch"]),
        ("predict", ["--format", "xml", "."]),
        ("reproduce", ["--help"]),
        ("reproduce", []),
    ],
)
def test_help_and_wrong_words_load_no_slow_framework(module, words):
    code = (
        "import runpy, sys",
        f"sys.argv = ['bhsearch.{module}', *{words!r}]",
        "try:",
        f"    runpy.run_module('bhsearch.{module}', run_name='__main__')",
        "except SystemExit as end:",
        f"    assert end.code == {0 if words == ['--help'] else 2}, end.code",
    )
    assert loaded_by(*code) <= {"optuna"}  # 0.3 s; what takes seconds may not be there


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        (register, ("--force",), "--force must say why"),
        (register, ("--why", "because"), "--force is missing"),
        (register, (), "there is none. Make one with"),
        (reproduce, ("nosuch",), "RUN_ID must be a run of this MLflow store"),
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
    assert "must have one champion, but there is none" in err


def test_registering_prints_everything_that_must_be_known(ends, inside):
    code, out, _ = ends(register, "--study", "few")
    assert code == 0
    text = " ".join(out.split())
    for sentence in (
        "corrected AUC", "for having searched", "calibration slope", "threshold", "7 sealed cases",
        "before calibration",
        "times: before this", "Too few cases to decide", ": challenger", "Not for screening patients",
        "removes most of the optimism", "Synthetic data", "bhsearch.predict",
    ):  # fmt: skip
        assert sentence in text, sentence


def test_reproducing_prints_how_far_it_differs(ends, inside):
    code, out, _ = ends(reproduce, inside.few.trial.run_id)
    assert code == 0
    assert "P(malignant) differs by at most" in out
