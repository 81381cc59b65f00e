"""Eight processes that start at the same moment on fresh stores: none fails."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.faults.whole import trials_in
from tests.studies import Store, environment

N = 8
STARTED = """
import sys
from bhsearch.study.resume.open import open_engine
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from tests.studies import settings

prepared = StudyContext.build(settings(storage=sys.argv[1]), ProgressReporter())
IMPORTS
print("here", flush=True)
sys.stdin.readline()
facts, engine = open_engine(prepared)
trial = engine.ask()
engine.complete(trial.number, 0.5, 1.0)
EXPERIMENT
print(facts["uid"])
"""
TRACKED = {
    "IMPORTS": """
from bhsearch.models import backend
backend.import_backend_for_inference()
with backend.silence_stderr():
    import bhsearch.tracking.upload.writer
from bhsearch.tracking.connection import open_client, open_experiment
""",
    "EXPERIMENT": 'open_experiment(open_client(), "phantom")',
}


def started(storage, parts, folder):
    """What eight processes print that do the same at the same moment."""
    code = STARTED
    for name, lines in parts.items():
        code = code.replace(name, lines)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, storage],
            cwd=folder,
            env=environment(PYTHONPATH=":".join(sys.path)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(N)
    ]
    for process in processes:
        assert process.stdout.readline() == "here\n", process.stderr.read()
    time.sleep(0.1)
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * N, ends
    return [out for out, _ in ends]


@pytest.mark.faults
def test_eight_processes_make_one_study_and_one_experiment(tmp_path):
    storage = f"sqlite:///{tmp_path}/optuna.db"
    assert len(set(started(storage, TRACKED, tmp_path))) == 1
    assert sorted(trial.number for trial in trials_in(storage)) == list(range(N))
    experiments = Store(tmp_path).client.search_experiments()
    assert sorted(experiment.name for experiment in experiments) == ["Default", "phantom"]


@pytest.mark.faults
def test_eight_processes_make_one_study_in_a_journal(tmp_path):
    storage = f"journal:{tmp_path}/studies.log"
    assert len(set(started(storage, dict.fromkeys(TRACKED, ""), tmp_path))) == 1
    assert sorted(trial.number for trial in trials_in(storage)) == list(range(N))
