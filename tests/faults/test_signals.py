"""SIGTERM, as a batch system sends it: the trial in hand is failed within seconds, and the next start goes on."""

from __future__ import annotations

import os
import signal
import time

import pytest
from optuna.trial import TrialState

from tests.faults.whole import assert_whole
from tests.studies import arguments, optuna_trials, run, started, trial_is_running, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.alone]

TIME = 10.0  # seconds that a batch system gives at least


@pytest.mark.parametrize(("workers", "whole_group"), [(1, True), (0, False)])
def test_a_terminated_study_fails_its_trial_at_once_and_goes_on(tmp_path, workers, whole_group):
    words = arguments(trials=500, workers=workers)
    with started(tmp_path, "-m", "bhsearch.run", *words) as process:
        assert any(line.startswith("trial   0") for line in process.stdout)
        wait_for(lambda: trial_is_running(tmp_path), process)
        asked = time.monotonic()
        if whole_group:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()
        wait_for(lambda: not trial_is_running(tmp_path))
        assert time.monotonic() - asked < TIME
        output = process.stdout.read()
        assert process.wait() == 143, output
    assert "Interrupted." in output
    assert "Traceback" not in output
    trials = optuna_trials(tmp_path)
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    done = sum(trial.state == TrialState.COMPLETE for trial in trials)
    end = run(tmp_path, *arguments(trials=done + 1, workers=0))
    assert end.returncode == 0, end.stdout + end.stderr
    assert_whole(tmp_path, done + 1)
