"""Locks between processes, on disks with and without lock support."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bhsearch.runtime import locks
from tests.surroundings import without_flock

PROGRAM = """
import json, os, subprocess, sys, threading
from pathlib import Path
from bhsearch.runtime import leases; from bhsearch.runtime import locks; from bhsearch.runtime import cache as store
from bhsearch.runtime.locks import lock, lock_within

OTHER = "import sys; from pathlib import Path; from bhsearch.runtime.locks import lock_within\\n"
OTHER += "with lock_within(Path(sys.argv[1])) as held: print(held)"

def other(file):
    command = [sys.executable, "-c", OTHER, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

file = Path("a.lock")
found = {}
with lock(file):
    found["while held"] = other(file)
    with lock_within(file) as again:
        found["again in this process"] = again
    found["after that"] = other(file)
found["when free"] = other(file)
os.environ["BHSEARCH_CACHE"] = str(Path("cache").resolve())
made = []
def fill(folder):
    made.append(1)
    (folder / "file").write_text("content")
threads = [threading.Thread(target=lambda: store.get_or_create("kind", {"a": 1}, fill)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
found["times made"] = len(made)
found["in use"] = sorted(leases.in_use(Path("cache").resolve()))
found["found again"] = store.lookup("kind", {"a": 1}) is not None
found["notes"] = len(store.notes())
print(json.dumps(found))
"""
KEPT = {
    "while held": "False",
    "again in this process": False,
    "after that": "False",
    "when free": "True",
    "times made": 1,
    "found again": True,
}


def found_under(folder, **variables):
    import json

    environ = os.environ | {"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(folder)} | variables
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_lock_keeps_others_out(tmp_path):
    assert found_under(tmp_path) == KEPT | {"in use": [f"kind/{key()}"], "notes": 0}


@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_disk_without_flock_is_locked_in_another_way(tmp_path, error):
    """Lustre by default, some mounts of NFS and FUSE: everything works as where there is one, and nothing is said."""
    assert found_under(tmp_path, **without_flock(tmp_path, error)) == KEPT | {"in use": [f"kind/{key()}"], "notes": 0}


def test_where_there_are_no_locks_at_all_the_work_goes_on_and_it_is_said(tmp_path):
    """Not even in the temporary folder: two processes may do the same work, and one whole result is kept."""
    found = found_under(tmp_path, **without_flock(tmp_path, also_fcntl=True))
    assert found["while held"] == "True"
    assert found["times made"] >= 1
    assert found["found again"]
    assert found["in use"] == [f"kind/{key()}"]  # nobody can tell whether its process lives, so it is spared
    assert found["notes"] == 1


def test_a_disk_without_locks_is_locked_in_the_temporary_folder(tmp_path, monkeypatch):
    """Then processes of this machine are still kept from one another."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "lustre").mkdir()
    monkeypatch.setattr(locks, "_without", set())
    file, real = tmp_path / "lustre" / "a.lock", locks._acquire
    monkeypatch.setattr(
        locks, "_acquire", lambda stream, wait=False: None if "lustre" in stream.name else real(stream, wait)
    )
    with locks.lock(file), locks.lock_within(file) as held:
        assert not held
    with locks.lock_within(file) as held:
        assert held
    assert locks.without_locks() == [file.parent]


def test_what_is_no_lack_of_locks_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"), locks.lock(tmp_path / "nosuch" / "a.lock"):
        pass


def key():
    from bhsearch.runtime.cache import cache_key

    return cache_key({"a": 1})
