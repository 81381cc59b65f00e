"""The file of a storage: through a write-ahead log where the disk can do it, without one where it cannot."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bhsearch.engines.optuna.storages.connection import connect
from tests.studies import environment, optuna_trials, search

SHIM = Path(__file__).resolve().parents[3] / "faults" / "noshm.c"
OPEN = """
import sys, optuna
from bhsearch.engines.optuna.storages import connection as optuna_storage
storage = optuna_storage.connect("sqlite:///optuna.db")
study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
study.optimize(lambda trial: trial.suggest_float("x", 0, 1), 2)
again = optuna_storage.reconnect("sqlite:///optuna.db")
print("TRIALS", len(optuna.load_study(study_name="s", storage=again).trials))
"""


@pytest.fixture(scope="module")
def no_shared_memory(tmp_path_factory):
    """A library that makes every disk one without shared memory for SQLite."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("it takes a C compiler and Linux to make a disk without shared memory")
    library = tmp_path_factory.mktemp("shim") / "noshm.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True)
    return library


def mode(file):
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


def work(folder, **variables):
    done = subprocess.run(
        [sys.executable, "-c", OPEN], cwd=folder, env=environment(**variables), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.rpartition("TRIALS ")[2])


def test_a_new_storage_has_a_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connect("sqlite:///optuna.db")
    assert mode("optuna.db") == "wal"


def test_a_disk_without_shared_memory_is_written_without_a_log(tmp_path, no_shared_memory):
    assert work(tmp_path, LD_PRELOAD=str(no_shared_memory)) == 2
    assert mode(tmp_path / "optuna.db") == "delete"
    assert [file.name for file in tmp_path.iterdir()] == ["optuna.db"]


def test_a_storage_that_was_made_on_another_disk_goes_on_there(tmp_path, no_shared_memory):
    assert work(tmp_path) == 2
    assert mode(tmp_path / "optuna.db") == "wal"
    assert work(tmp_path, LD_PRELOAD=str(no_shared_memory)) == 4
    assert mode(tmp_path / "optuna.db") == "delete"
    assert work(tmp_path) == 6


def test_the_log_keeps_what_a_killed_process_had_committed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(trials=2)
    assert len(optuna_trials(tmp_path)) == 2
    assert mode("optuna.db") == "wal"


def test_a_new_database_leaves_the_loggers_of_the_process_alone(tmp_path):
    # In a process of its own: pytest's handlers at the root logger keep Optuna from touching any.
    code = (
        "import logging\n"
        "from bhsearch.engines.optuna.storages.connection import connect\n"
        "logger = logging.getLogger('bhsearch.tracking.requests')\n"
        "connect('sqlite:///optuna.db')\n"
        "print('STATE', logger.disabled, logging.getLogger().handlers, logging.getLogger().level)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert "STATE False [] 30" in ran.stdout
