"""`kill -9` of a worker or of its supervisor, at any moment: the same command goes on, and nothing is lost.

Three kills for each kind of storage; `BHSEARCH_KILLS=20 pytest -n0 tests/faults/test_kills.py` for twenty.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.whole import assert_gone, assert_whole, workers_of
from tests.studies import arguments, run, started

pytestmark = [pytest.mark.faults, pytest.mark.alone]

N_TRIALS = 30
N_KILLS = int(os.environ.get("BHSEARCH_KILLS", "3"))
SECONDS = 14.0  # about what a study here takes from its start to its end
LEFT_ALONE = 5.0  # seconds in which a worker ends when its supervisor is gone


def words_of(storage: str) -> list[str]:
    """The arguments of the command."""
    return [*arguments(trials=N_TRIALS, workers=2, quiet=True), "--storage", storage]


def kill_one(folder: Path, storage: str, chance: random.Random) -> str:
    """Start the command, and kill its supervisor or a worker at a random moment; a supervisor may go on for a while."""
    with started(folder, "-m", "bhsearch.run", *words_of(storage)) as process:
        end = time.monotonic() + chance.uniform(0.5, SECONDS)
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        if process.poll() is not None:
            return "the study was done"
        workers = workers_of(process.pid)
        if workers and chance.random() < 0.5:
            victim = chance.choice(workers)
            victim.kill()
            end = time.monotonic() + chance.uniform(1.0, SECONDS)
            while time.monotonic() < end and process.poll() is None:
                time.sleep(0.02)
            if process.poll() is not None:
                assert process.returncode == 0, process.stdout.read()
                return "a worker, and the study went on to its end"
            workers = workers_of(process.pid)
            process.kill()
            process.wait()
            assert_gone(workers, LEFT_ALONE)
            return "a worker, and later the supervisor"
        process.kill()
        process.wait()
        assert_gone(workers, LEFT_ALONE)
        return "the supervisor"


@pytest.mark.parametrize("storage", ["sqlite:///optuna.db", "journal:studies.log"])
def test_whatever_is_killed_when_the_same_command_ends_with_everything(tmp_path, storage):
    chance = random.Random(os.environ.get("BHSEARCH_KILLS_SEED", "0"))
    kills, n_study = 0, 0
    while kills < N_KILLS:
        folder = tmp_path / str(n_study)
        folder.mkdir()
        n_study += 1
        what = ""
        while kills < N_KILLS and "done" not in what and "to its end" not in what:
            what = kill_one(folder, storage, chance)
            kills += what.startswith(("a worker", "the supervisor")) + what.endswith("supervisor") * what.startswith(
                "a w"
            )
            print(f"{kills:>3} killed: {what}")
        end = run(folder, *words_of(storage))
        assert end.returncode == 0, end.stdout + end.stderr
        kind, _, file = storage.rpartition(":" if storage.startswith("journal") else "///")
        assert_whole(folder, N_TRIALS, f"journal:{folder}/{file}" if kind == "journal" else None)
    assert [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in process.info["cmdline"]] == []
