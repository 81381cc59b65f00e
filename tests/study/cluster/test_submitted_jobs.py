"""A study whose jobs are in SLURM's queue: when it is kept without trials, when it is deleted, and what jobs are given.

Scripts stand in the place of SLURM's commands; no job starts.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from itertools import pairwise

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from bhsearch.errors import RunError
from bhsearch.study.cluster import placed
from bhsearch.study.cluster.checks import cluster_launcher
from bhsearch.study.cluster.placed import write_jobs
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.runner import optimize
from bhsearch.study.session import StudySession
from bhsearch.study.workers.launchers.slurm import placement
from tests.studies import settings
from tests.study.workers.launchers.slurm.programs import FakeSlurm


class Notes(ProgressReporter):
    """Keeps what is said, and calls a function after each sentence."""

    def __init__(self, after=lambda sentence: None):
        self.said, self._after = [], after

    def say(self, sentence):
        self.said.append(sentence)
        self._after(sentence)

    verbatim = say


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(placement, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(placed, "_LOOK_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    return fake


def wanted(**changes):
    storage = "journal:studies.log"
    given = {"launcher": "slurm", "tracking": False, "storage": storage, "workers": 2, "regime": "frozen"}
    return settings(**{**given, "study": "mine", "trials": 2, **changes})


def studies(tmp_path):
    file = tmp_path / "studies.log"
    if not file.exists():
        return []
    return optuna.get_all_study_names(optuna.storages.JournalStorage(JournalFileBackend(str(file))))


def submit(slurm):
    """Submit the jobs with a command that does not wait."""
    optimize(wanted(wait=False), ProgressReporter())
    assert slurm.words("submitted") == ["1", "2", "3"]


def test_the_jobs_of_a_controller_that_is_away_are_waited_for(slurm, tmp_path, monkeypatch):
    """As long as it may take; here, all jobs have been cancelled when SLURM answers again."""
    monkeypatch.setattr(placement, "_APPEAR_SECONDS", 0.0)
    slurm.put("away-after-3", "5")
    slurm.put("states", "1 0 CANCELLED 0 None\n")
    notes = Notes()
    with pytest.raises(RunError, match="The features job 1_0 was cancelled"):
        optimize(wanted(), notes)
    assert [sentence for sentence in notes.said if "waiting for SLURM" in sentence]
    assert notes.said[-1] == "The jobs of this study were cancelled."
    assert slurm.words("cancelled") == ["1", "2", "3"]
    assert studies(tmp_path) == []


@pytest.mark.parametrize("is_second", [False, True])
def test_an_error_while_jobs_wait_keeps_their_study(slurm, tmp_path, is_second):
    """Else workers that start later would find no study."""
    if is_second:
        submit(slurm)

    def fail(sentence):
        if "waiting (Resources)" in sentence:
            raise OSError("The terminal is gone.")

    slurm.put("states", "1 0 PENDING 0 Resources\n2 0 PENDING 0 None\n2 1 PENDING 0 None\n3 N/A PENDING 0 None\n")
    notes = Notes(fail)
    with pytest.raises(OSError, match="The terminal is gone"):
        optimize(wanted(), notes)
    assert notes.said[-1].startswith("The jobs go on.")
    assert slurm.words("cancelled") == []
    assert studies(tmp_path) == ["mine"]


def test_features_that_fail_but_whose_jobs_cannot_be_cancelled_keep_the_study(slurm, tmp_path):
    slurm.put("unkillable")
    slurm.put("states", "1 0 FAILED 256 None\n")
    with pytest.raises(RunError, match="could not be cancelled: Kill job error on job id 1: Access denied"):
        optimize(wanted(), ProgressReporter())
    assert studies(tmp_path) == ["mine"]


def test_a_refused_submission_deletes_the_study_unless_jobs_are_left(slurm, tmp_path):
    slurm.put("refused", "2")
    with pytest.raises(RunError, match="invalid partition"):
        optimize(wanted(), ProgressReporter())
    assert studies(tmp_path) == []
    (slurm.folder / "submitted").unlink()
    slurm.put("unkillable")
    with pytest.raises(RunError, match="may be left in the queue"):
        optimize(wanted(), ProgressReporter())
    assert studies(tmp_path) == ["mine"]


def test_a_controller_that_is_away_before_the_submission_leaves_no_study(slurm, tmp_path):
    slurm.put("away")
    with pytest.raises(RunError, match="Unable to contact slurm controller"):
        optimize(wanted(), ProgressReporter())
    assert studies(tmp_path) == []


def test_a_controller_that_is_lost_at_the_submission_keeps_the_study(slurm, tmp_path, monkeypatch):
    """Jobs of an earlier command may be in the queue."""
    submit(slurm)
    monkeypatch.setattr(ProgressReporter, "plan", lambda reporter, plan: slurm.put("away"))
    with pytest.raises(RunError, match=r"Unable to contact slurm controller\. No job was submitted"):
        optimize(wanted(), ProgressReporter())
    assert studies(tmp_path) == ["mine"]


# -- what jobs are given -----------------------------------------------------------------------------------------------


def options_in(tmp_path, part):
    """The options of `bhsearch` in a job script."""
    words = (tmp_path / "jobs" / "mine" / f"{part}.sh").read_text().splitlines()[-1].split()
    return dict(pairwise(words))


def test_limits_reach_the_workers_with_all_their_digits(slurm, tmp_path):
    optimize(wanted(dry_run=True, timeout=1234567.0, trial_timeout=0.1, budget=123456.75), ProgressReporter())
    options = options_in(tmp_path, "workers")
    found = [options[f"--{name}"] for name in ("timeout", "trial-timeout", "budget")]
    assert found == ["1234567", "0.1", "246913.5"]


@pytest.mark.parametrize("workers", [None, 3])
def test_command_and_workers_have_the_same_budget_whatever_gpus_the_login_node_has(
    slurm, tmp_path, monkeypatch, workers
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    given = wanted(budget=10.0, workers=workers, dry_run=True)
    optimize(given, ProgressReporter())
    minutes = float(options_in(tmp_path, "workers")["--budget"])
    assert minutes == 10 * (workers or 1)
    session = StudySession(StudyContext.build(replace(given, dry_run=False), ProgressReporter()), ProgressReporter())
    session.begin()
    assert session.criteria.budget_seconds == 60 * minutes


@pytest.mark.parametrize("launcher", ["slurm", "kubernetes"])
def test_the_job_that_creates_the_study_starts_from_the_other_studies(slurm, tmp_path, launcher):
    given = {"dry_run": True, "warm_start_from": ("one", "two")}
    if launcher == "slurm":
        optimize(wanted(**given), ProgressReporter())
        text = (tmp_path / "jobs" / "mine" / "settings.toml").read_text()
        assert tomllib.loads(text)["warm_start_from"] == ["one", "two"]
    else:
        options = ("image=bhsearch:1", "cache_claim=cache")
        asked = wanted(**given, launcher="kubernetes", launcher_option=options, storage="journal:/cache/s.log")
        write_jobs(asked, cluster_launcher(asked), ProgressReporter())
        assert 'warm_start_from = ["one", "two"]' in (tmp_path / "jobs" / "mine" / "job.yaml").read_text()
