"""Eight processes that start at the same moment on fresh stores: none fails."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.studies import Store, environment, optuna_trials

N = 8
STARTED = """
import sys, time
from bhsearch.models import backend
from bhsearch.study.resume.open import open_engine
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from tests.studies import settings

prepared = StudyContext.build(settings(), ProgressReporter())
backend.import_backend_for_inference()
with backend.silence_stderr():
    import bhsearch.tracking.upload.writer
from bhsearch.tracking.connection import open_client, open_experiment


print("here", flush=True)
sys.stdin.readline()
facts, engine = open_engine(prepared)
trial = engine.ask()
engine.complete(trial.number, 0.5, 1.0)
open_experiment(open_client(), "phantom")
print(facts["uid"])
"""


@pytest.mark.faults
def test_eight_processes_make_one_study_and_one_experiment(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STARTED],
            cwd=tmp_path,
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
    assert len({out for out, _ in ends}) == 1
    assert sorted(trial.number for trial in optuna_trials(tmp_path)) == list(range(N))
    experiments = Store(tmp_path).client.search_experiments()
    assert sorted(experiment.name for experiment in experiments) == ["Default", "phantom"]
