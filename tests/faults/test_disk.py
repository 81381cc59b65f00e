"""A disk that fills: a clear end, nothing half made, and the same command goes on when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bhsearch.runtime import cache as runtime_cache
from tests.faults.whole import assert_whole
from tests.studies import arguments, run

N_TRIALS = 30
MEGABYTES = 40


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill a file system up to some bytes."""
    ballast = folder / "ballast"
    size = shutil.disk_usage(folder).free - leave
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)
    return ballast


@pytest.mark.faults
@pytest.mark.parametrize("kilobytes", [1500, 4000])
def test_a_full_disk_is_said_and_the_same_command_goes_on(small_disk, kilobytes, monkeypatch):
    """Stores, outbox and cache lie on it, and fill it at another moment each time."""
    work = small_disk / "work"
    work.mkdir()
    cache = str(small_disk / "cache")
    words = arguments(trials=N_TRIALS, workers=1)
    first = run(work, *arguments(trials=2, workers=1), BHSEARCH_CACHE=cache)
    assert first.returncode == 0, first.stdout + first.stderr
    ballast = fill(small_disk, kilobytes << 10)
    full = run(work, *words, BHSEARCH_CACHE=cache)
    said = full.stdout + full.stderr
    assert full.returncode in (1, 2), said
    assert any(words in said for words in ("is full", "No space left", "are free there")), said
    assert "Traceback" not in said, said
    ballast.unlink()
    monkeypatch.setenv("BHSEARCH_CACHE", cache)
    for entry in (each for each in runtime_cache.entries() if each.kind != "digests"):  # lists, which hold no sums
        assert runtime_cache._is_intact(runtime_cache.cache_root() / entry.kind / entry.key), entry
    again = run(work, *words, BHSEARCH_CACHE=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_whole(work, N_TRIALS)
