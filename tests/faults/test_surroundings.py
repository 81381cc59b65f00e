"""Whole commands as a container or a cluster runs them: any user, any home, any disk, any keras.json, and no calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.whole import assert_whole
from tests.studies import Store, arguments, optuna_trials, run
from tests.surroundings import UID, as_unknown_user, open_to_all, without_flock

pytestmark = pytest.mark.faults

WORDS = arguments(trials=2, workers=1)
ROOT = Path(__file__).resolve().parents[2]
# Written by every Python process of a command, its children included.
LISTENER = """
import os, sys
def hear(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["CALLS"], "a") as stream:
            stream.write(f"{event} {args[-1] if event == 'socket.connect' else args[:2]} {sys.argv}\\n")
sys.addaudithook(hear)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder that any user can write, and a place for temporary files."""
    open_to_all(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "work").mkdir()
    (tmp_path / "work").chmod(0o777)
    return tmp_path


def succeeded(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def scores(folder):
    return [trial.value for trial in optuna_trials(folder)]


def test_a_user_without_an_entry_and_a_home_runs_registers_and_predicts(folder):
    """As `docker --user 12345` starts a command."""
    work = folder / "work"
    image = shutil.copy(ROOT / "experiments" / "pictures" / "engines.png", folder / "image.png")

    def command(name, *words):
        given = {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
        return succeeded(as_unknown_user(work, "-m", f"bhsearch.{name}", *words, **given))

    said = " ".join(command("run", *WORDS).stdout.split())
    assert "The home folder cannot be written" in said
    assert Store(work).parent().data.tags["mlflow.user"] == f"uid{UID}"
    assert "Research only" in command("register").stdout
    model = "models:/phantom-cases24-images3/1"
    predicted = command("predict", str(image), "--model", model, "--output", "deep/er/out.csv")
    assert "Traceback" not in predicted.stderr
    assert str(image) in (work / "deep" / "er" / "out.csv").read_text(encoding="utf-8")
    assert {path.name for path in work.iterdir()} == {"optuna.db", "mlflow.db", "mlruns", "deep"}
    assert [path.name for path in (folder / "tmp").iterdir()] == [f"bhsearch-{UID}"]


def test_a_folder_that_cannot_be_written_is_enough_where_all_else_has_a_place(folder):
    places, work = folder / "places", folder / "read-only"
    places.mkdir()
    places.chmod(0o777)
    work.mkdir(mode=0o755)
    given = {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT), "HOME": str(work)}
    storage = ("--storage", f"sqlite:///{places}/optuna.db")
    database = {"MLFLOW_TRACKING_URI": f"sqlite:///{places}/mlflow.db"}

    def refused(*words, **variables):
        done = as_unknown_user(work, "-m", "bhsearch.run", *WORDS, *words, **given, **variables)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    assert f"{work} is not writable" in refused(**database, BHSEARCH_OUTBOX=str(places / "outbox"))
    assert f"Cannot create MLflow's database {work / 'mlflow.db'}" in refused(
        *storage, BHSEARCH_OUTBOX=str(places / "outbox")
    )
    assert "BHSEARCH_OUTBOX=FOLDER" in refused(*storage, **database)
    more = database | {"BHSEARCH_OUTBOX": str(places / "outbox")}
    succeeded(as_unknown_user(work, "-m", "bhsearch.run", *WORDS, *storage, **given, **more))
    assert list(work.iterdir()) == []
    assert_whole(places, 2)


@pytest.mark.parametrize("also_fcntl", [False, True])
def test_a_study_on_a_disk_without_flock(tmp_path, also_fcntl):
    (tmp_path / "work").mkdir()
    shim = without_flock(tmp_path, also_fcntl=also_fcntl)
    done = succeeded(run(tmp_path / "work", *WORDS, BHSEARCH_CACHE=str(tmp_path / "cache"), **shim))
    assert ("has no file locks" in " ".join(done.stdout.split())) == also_fcntl
    assert_whole(tmp_path / "work", 2)


def test_nothing_in_keras_json_changes_a_score(tmp_path):
    odd = {"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first", "backend": "tensorflow"}
    words = arguments(trials=2, workers=1, backbones=("staintex-s",), feature_backend="keras")
    for name, content in (("plain", {}), ("odd", odd)):
        home = tmp_path / f"home-{name}"
        home.mkdir()
        (home / "keras.json").write_text(json.dumps(content))
        (tmp_path / name).mkdir()
        given = {"KERAS_HOME": str(home), "BHSEARCH_CACHE": str(tmp_path / f"cache-{name}"), "KERAS_BACKEND": ""}
        succeeded(run(tmp_path / name, *words, **given))
    assert scores(tmp_path / "odd") == pytest.approx(scores(tmp_path / "plain"), abs=1e-6)
    tags = Store(tmp_path / "odd").parent().data.tags
    assert {key: tags[f"bhsearch.{key}"] for key in ("floatx", "backend", "onednn", "data_format")} == {
        "floatx": "float32",
        "backend": "tensorflow",
        "onednn": "True",
        "data_format": "channels_last",
    }
    assert {"bhsearch.threads", "bhsearch.processors"} <= set(tags)


@pytest.mark.parametrize("command", ["run", "predict", "register", "reproduce"])
def test_an_unsupported_backend_ends_every_command_before_anything_is_made(tmp_path, command):
    words = {"run": WORDS, "predict": [sys.executable], "register": [], "reproduce": ["run-id"]}[command]
    environ = os.environ | {"KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-m", f"bhsearch.{command}", *words],
        cwd=tmp_path,
        env=environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/none.db"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "KERAS_BACKEND names 'torch'" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_no_command_calls_anybody_or_leaves_a_telemetry_id(tmp_path):
    for name in ("site", "work", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(LISTENER)
    silent = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "MLFLOW_DISABLE_TELEMETRY")
    given = {
        "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}",
        "HOME": str(tmp_path / "home"),
        "CALLS": str(tmp_path / "calls"),
        "BHSEARCH_CACHE": str(tmp_path / "cache"),
    }
    environ = {key: value for key, value in os.environ.items() if key not in silent} | given
    for words in (["bhsearch.run", *WORDS], ["bhsearch.register"]):
        command = [sys.executable, "-m", *words]
        succeeded(subprocess.run(command, cwd=tmp_path / "work", env=environ, capture_output=True, text=True))
    assert not (tmp_path / "calls").exists(), (tmp_path / "calls").read_text()
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {".keras", ".cache", ".config"}
