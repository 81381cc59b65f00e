"""User, home folder and cache folders of a process in any environment, and disabled telemetry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bhsearch.runtime import environment
from tests.surroundings import UID, as_unknown_user, open_to_all

FACTS = """
import json, os, sys
import bhsearch
from bhsearch import environment
from bhsearch.runtime import cache as store
print(json.dumps({
    "user": environment.user_name(), "home": str(environment.home()), "cache": str(store.cache_root()),
    "keras": str(environment.keras_home()), "models": [str(place) for place in environment.keras_models()],
    "variables": {
        name: os.environ.get(name) for name in ("HOME", "KERAS_HOME", "MPLCONFIGDIR", "MLFLOW_DISABLE_TELEMETRY")
    },
    "silent": "openvino_telemetry" in sys.modules and sys.modules["openvino_telemetry"] is None,
    "notes": store.notes(),
}))
"""


def facts_of(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def facts(folder, **variables):
    kept = {
        k: v for k, v in os.environ.items() if k not in ("BHSEARCH_CACHE", "MLFLOW_DISABLE_TELEMETRY", "KERAS_HOME")
    }
    environ = kept | {"PYTHONPATH": ":".join(sys.path)} | variables
    return facts_of(
        subprocess.run(
            [sys.executable, "-c", FACTS], cwd=folder, env=environ, capture_output=True, text=True, timeout=60
        )
    )


def test_an_ordinary_user_is_left_where_he_is(tmp_path):
    found = facts(tmp_path, HOME=str(tmp_path), USER="ann")
    assert found["user"] == "ann"
    assert found["home"] == str(tmp_path)
    assert found["keras"] == str(tmp_path / ".keras")
    assert found["cache"].startswith(str(tmp_path))
    assert found["variables"]["KERAS_HOME"] is None
    assert found["variables"]["MPLCONFIGDIR"] is None
    assert found["notes"] == []


def test_a_user_without_entry_and_home_gets_private_folders(tmp_path):
    folder, temporary = open_to_all(tmp_path), tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    found = facts_of(as_unknown_user(folder, "-c", FACTS, TMPDIR=str(temporary)))
    private = temporary / f"bhsearch-{UID}"
    assert found["user"] == f"uid{UID}"
    assert found["home"] == found["variables"]["HOME"] == str(private / "home")
    assert Path(found["cache"]).is_relative_to(private)
    assert Path(found["keras"]).is_relative_to(private)
    assert private.stat().st_mode & 0o777 == 0o700
    (note,) = found["notes"]
    assert "BHSEARCH_CACHE=FOLDER" in note
    assert sorted(path.name for path in folder.iterdir()) == ["tmp"]  # and no folder called `~`


def test_a_home_that_cannot_be_written_is_still_read(tmp_path):
    folder, home, temporary = open_to_all(tmp_path), tmp_path / "home", tmp_path / "tmp"
    (home / ".keras" / "models").mkdir(parents=True)
    temporary.mkdir()
    temporary.chmod(0o1777)
    found = facts_of(as_unknown_user(folder, "-c", FACTS, TMPDIR=str(temporary), HOME=str(home)))
    assert found["variables"]["HOME"] == str(home)
    assert Path(found["cache"]).is_relative_to(temporary)
    assert Path(found["variables"]["KERAS_HOME"]).is_relative_to(temporary)
    assert Path(found["variables"]["MPLCONFIGDIR"]).is_relative_to(temporary)
    assert str(home / ".keras" / "models") in found["models"]


def test_folders_that_the_user_named_stay(tmp_path):
    folder, temporary = open_to_all(tmp_path), tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    named = {"BHSEARCH_CACHE": str(folder / "cache"), "KERAS_HOME": str(folder / "keras")}
    found = facts_of(as_unknown_user(folder, "-c", FACTS, TMPDIR=str(temporary), **named))
    assert found["cache"] == named["BHSEARCH_CACHE"]
    assert found["variables"]["KERAS_HOME"] == found["keras"] == named["KERAS_HOME"]
    assert found["notes"] == []


def test_a_private_folder_that_another_user_made_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = environment.private_folder()
    assert environment.private_folder() == first
    first.chmod(0o777)
    second = environment.private_folder()
    assert second != first
    assert second.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("given", "expected"), [({}, "true"), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "false")])
def test_telemetry_is_off_unless_the_user_turned_it_on(tmp_path, given, expected):
    found = facts(tmp_path, HOME=str(tmp_path), **given)
    assert found["variables"]["MLFLOW_DISABLE_TELEMETRY"] == expected
    assert found["silent"]


@pytest.mark.parametrize(("consent", "silent"), [("1", False), ("0", True)])
def test_consent_to_openvinos_telemetry_is_respected(tmp_path, consent, silent):
    """As its own `opt_in_out --opt_in` writes it."""
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "openvino_telemetry").write_text(consent)
    assert facts(tmp_path, HOME=str(tmp_path))["silent"] == silent


@pytest.mark.parametrize(
    "start", [pytest.param("import_backend", marks=pytest.mark.slow), "import_backend_for_inference"]
)
def test_openvino_is_imported_without_a_trace_in_the_home_folder(tmp_path, start):
    """Its telemetry makes a client id, counts, and sends an event when it is imported."""
    program = f"""
import sys
asked = []
events = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: asked.append((event, args)) if event in events else None)
from bhsearch.models import backend
backend.{start}()
import openvino
import openvino.tools.ovc.telemetry_utils as utils
assert utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub", utils.tm
assert not asked, asked
"""
    unset = ("CI", "TF_BUILD", "JENKINS_URL", "KERAS_BACKEND")  # where the first three are set it is silent by itself
    environ = {k: v for k, v in os.environ.items() if k not in unset} | {"HOME": str(tmp_path)}
    environ["PYTHONPATH"] = ":".join(sys.path)
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {".keras", ".cache", ".config"}
