"""A journal: processes that write at once, one that dies with the lock, and files that are cut, full or gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from bhsearch.engines.optuna.storages import journal
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.optuna.storages.journal import JournalFile, JournalLock, end_trial, set_attributes
from bhsearch.engines.optuna.study_store import STORE
from bhsearch.errors import LostStorageError, MissingError, PlaceError, SettingsError, StudyError
from bhsearch.runtime.processes import this_process
from tests.surroundings import as_unknown_user

WRITERS, LINES = 4, 40
WRITE = """
import sys
from pathlib import Path
from bhsearch.engines.optuna.storages.journal import JournalFile

file = JournalFile(Path("studies.log"))
sys.stdin.readline()
for line in range(int(sys.argv[2])):
    file.append_logs([{"op_code": 0, "writer": int(sys.argv[1]), "line": line, "part": part} for part in range(3)])
"""
HOLD = """
from pathlib import Path
from bhsearch.engines.optuna.storages.journal import JournalLock

JournalLock(Path("studies.log")).acquire()
print("held", flush=True)
input()
"""


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def logs(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_processes_that_write_at_once_lose_nothing_and_keep_their_operations_together(tmp_path):
    writers = [python(WRITE, number, LINES) for number in range(WRITERS)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    found = logs(tmp_path / "studies.log")
    triples = [found[start : start + 3] for start in range(0, len(found), 3)]
    assert all([log["part"] for log in rows] == [0, 1, 2] for rows in triples)
    assert all(len({(log["writer"], log["line"]) for log in rows}) == 1 for rows in triples)
    for number in range(WRITERS):
        assert [rows[0]["line"] for rows in triples if rows[0]["writer"] == number] == list(range(LINES))
    assert not list(tmp_path.glob("*.lock"))


def test_a_process_that_is_killed_with_the_lock_blocks_nobody(tmp_path):
    holder = python(HOLD)
    assert holder.stdout.readline() == "held\n"
    waits = threading.Thread(target=JournalFile(tmp_path / "studies.log").append_logs, args=([{"op_code": 0}],))
    waits.start()
    waits.join(0.3)
    assert waits.is_alive()
    holder.kill()
    holder.communicate()
    waits.join(5)
    assert not waits.is_alive()
    assert len(logs(tmp_path / "studies.log")) == 1


def test_the_lock_of_another_machine_is_left_alone_until_it_counts_as_abandoned(tmp_path, monkeypatch):
    lock = JournalLock(tmp_path / "studies.log")
    (tmp_path / "studies.log.lock").symlink_to(json.dumps({**this_process(), "host": "elsewhere", "id": "1"}))
    monkeypatch.setattr(journal, "_GRACE_SECONDS", 0.5)
    begin = time.monotonic()
    assert lock.acquire()
    assert time.monotonic() > begin + 0.5
    lock.release()
    assert not os.path.lexists(tmp_path / "studies.log.lock")


def test_the_lock_of_a_living_process_of_this_machine_is_never_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_GRACE_SECONDS", 0.1)
    first, second = JournalLock(tmp_path / "studies.log"), JournalLock(tmp_path / "studies.log")
    first.acquire()
    waits = threading.Thread(target=second.acquire)
    waits.start()
    waits.join(0.5)
    assert waits.is_alive()
    first.release()
    waits.join(5)
    assert second.is_held()
    assert not first.is_held()
    second.release()


def test_a_writer_that_was_suspended_erases_nothing_that_others_wrote_meanwhile(tmp_path, monkeypatch):
    path = tmp_path / "studies.log"
    file, other = JournalFile(path), JournalFile(path)
    file.append_logs([{"op_code": 0, "number": 0}])
    with path.open("a") as stream:
        stream.write('{"cut')
    original, link, taken = journal._end_of_last_line, tmp_path / "studies.log.lock", []

    def suspended(descriptor):
        end = original(descriptor)
        if not taken:
            taken.append(link.readlink())
            link.unlink()  # as another machine does after the grace period
            other.append_logs([{"op_code": 0, "number": 1}])
        return end

    monkeypatch.setattr(journal, "_end_of_last_line", suspended)
    file.append_logs([{"op_code": 0, "number": 2}])
    assert [log["number"] for log in logs(path)] == [0, 1, 2]
    assert not link.is_symlink()


def test_a_new_lock_is_not_removed_in_the_place_of_an_abandoned_one(tmp_path, monkeypatch):
    """Another machine removes the abandoned lock, and a third process takes the lock, before this one acts."""
    lock, link = JournalLock(tmp_path / "studies.log"), tmp_path / "studies.log.lock"
    link.symlink_to("new")
    monkeypatch.setattr(lock, "_holder", lambda: "abandoned")
    lock._remove("abandoned")
    assert [str(file.readlink()) for file in tmp_path.iterdir()] == ["new"]
    link.unlink()
    lock._remove("abandoned")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_others_took_over_is_not_given_back(tmp_path):
    lock = JournalLock(tmp_path / "studies.log")
    lock.acquire()
    link = tmp_path / "studies.log.lock"
    link.unlink()
    link.symlink_to("another")
    lock.release()
    assert str(link.readlink()) == "another"


@pytest.mark.parametrize("cut", ['{"op_code"', "x" * 200_000])
def test_a_line_that_was_cut_short_is_removed_and_the_study_goes_on(tmp_path, cut):
    file = tmp_path / "studies.log"
    study = optuna.create_study(storage=connect(f"journal:{file}"), study_name="one")
    study.tell(study.ask(), 0.5)
    with file.open("a") as stream:
        stream.write(cut)
    again = optuna.load_study(storage=connect(f"journal:{file}"), study_name="one")
    again.tell(again.ask(), 0.6)
    assert [trial.value for trial in study.trials] == [0.5, 0.6]
    plain = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    assert len(optuna.load_study(storage=plain, study_name="one").trials) == 2


@pytest.mark.parametrize("text", ["no journal\nat all\n", '{"other": 1}\n', "[1]\n[2]\n"])
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_was(tmp_path, text):
    file = tmp_path / "studies.log"
    file.write_text(text)
    with pytest.raises(StudyError, match=f"{file} in --storage is damaged, or is no journal of Optuna"):
        STORE.open(f"journal:{file}", "one", {})
    assert file.read_text() == text


def test_a_journal_that_is_deleted_or_replaced_is_not_written_again(tmp_path):
    file = tmp_path / "studies.log"
    study = optuna.create_study(storage=connect(f"journal:{file}"), study_name="one")
    file.rename(tmp_path / "moved")
    with pytest.raises(LostStorageError, match=rf"journal {file} was deleted"):
        study.ask()
    assert not file.exists()
    file.write_text("")
    with pytest.raises(LostStorageError, match="replaced by another file"):
        _ = study.trials


def fill(study):
    for number in range(1000):
        study.set_user_attr("key", "x" * (1000 + number))


def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root alone")
    try:
        study = optuna.create_study(storage=connect(f"journal:{disk}/studies.log"), study_name="one")
        with pytest.raises(PlaceError, match=r"The disk with the study's journal .*studies\.log is full"):
            fill(study)
        held = logs(disk / "studies.log")
        assert len(held) > 20
        again = optuna.load_study(storage=connect(f"journal:{disk}/studies.log"), study_name="one")
        assert again.user_attrs["key"] == held[-1]["user_attr"]["key"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_journal_that_cannot_be_written_is_named(tmp_path):
    optuna.create_study(storage=connect(f"journal:{tmp_path}/studies.log"), study_name="one")
    for place in (tmp_path, *tmp_path.parents[:3]):  # up to pytest's own folder, which is closed to other users
        place.chmod(place.stat().st_mode | 0o055)
    find = "from bhsearch.engines.optuna.study_store import STORE; study = STORE.find('journal:studies.log', 'one')"
    code = f"{find}; study.save_settings({{}})"
    said = as_unknown_user(tmp_path, "-c", code).stderr
    assert f"journal {tmp_path}/studies.log cannot be written (Permission denied). Give write permission" in said


@pytest.mark.parametrize(
    ("storage", "error", "words"),
    [
        ("journal:", SettingsError, "must name a file, such as"),
        ("journal:no/studies.log", StudyError, "no does not exist"),
        ("journal:.", StudyError, "Is a directory"),
    ],
)
def test_a_place_where_no_journal_can_be_is_said(storage, error, words):
    def make():
        STORE.check(storage)
        STORE.open(storage, "one", {})

    with pytest.raises(error, match=words):
        make()


def test_looking_for_a_study_makes_no_journal(tmp_path):
    with pytest.raises(MissingError, match=rf"{tmp_path}/studies.log does not exist"):
        STORE.find(f"journal:{tmp_path}/studies.log", "one")
    assert STORE.names(f"journal:{tmp_path}/studies.log") == []
    assert list(tmp_path.iterdir()) == []


def test_attributes_of_a_trial_that_has_ended_are_refused_and_later_calls_are_not(tmp_path):
    storage = connect(f"journal:{tmp_path}/studies.log")
    study = optuna.create_study(storage=storage, study_name="one")
    trial = study.ask()
    study.tell(trial, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        set_attributes(storage, trial._trial_id, {"a": 1, "b": 2}, {"c": 3})
    assert study.ask().number == 1
    assert study.trials[0].user_attrs == study.trials[0].system_attrs == {}
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_a_trial_and_its_attributes_end_in_one_operation_of_the_file(tmp_path, monkeypatch):
    storage = connect(f"journal:{tmp_path}/studies.log")
    study = optuna.create_study(storage=storage, study_name="one")
    trial, appended = study.ask(), []
    append = JournalFile.append_logs
    monkeypatch.setattr(JournalFile, "append_logs", lambda self, rows: appended.append(len(rows)) or append(self, rows))
    end_trial(storage, trial._trial_id, TrialState.COMPLETE, [0.75], {"seconds": 1.5}, {"hidden": 1})
    assert appended == [3]
    plain = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "studies.log")))
    (found,) = optuna.load_study(storage=plain, study_name="one").trials
    assert (found.state, found.value, found.user_attrs, found.system_attrs["hidden"]) == (
        TrialState.COMPLETE,
        0.75,
        {"seconds": 1.5},
        1,
    )
    assert found.datetime_complete >= found.datetime_start
    with pytest.raises(UpdateFinishedTrialError):
        end_trial(storage, trial._trial_id, TrialState.FAIL, None, {"reason": "late"}, {})
    assert study.trials[0].user_attrs == {"seconds": 1.5}
