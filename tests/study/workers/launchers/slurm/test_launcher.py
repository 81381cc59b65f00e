"""Submission of jobs, with scripts in the place of SLURM's commands: what is left in the queue after a failure."""

from __future__ import annotations

import pytest

from bhsearch.errors import RunError, SettingsError
from bhsearch.study.workers.launchers.jobs import JobsLeftError, StudyJobs
from bhsearch.study.workers.launchers.slurm import queue
from bhsearch.study.workers.launchers.slurm.launcher import LAUNCHER
from bhsearch.study.workers.launchers.slurm.queue import QueueAwayError
from tests.study.workers.launchers.slurm.programs import FakeSlurm


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def jobs(tmp_path):
    return jobs_in(tmp_path)


def jobs_in(folder, storage="journal:/shared/one.log"):
    return StudyJobs("mine", 2, ["a"], {}, [], {}, {"BHSEARCH_STORAGE": storage}, folder / "jobs" / "mine")


def test_jobs_are_submitted_once_and_found_by_the_next_command(slurm, jobs):
    assert LAUNCHER.submit(jobs).n_running == 3
    (said,) = LAUNCHER.submit(jobs).look()[:1]
    assert said.startswith("The SLURM jobs 1 (features), 2 (workers), 3 (summary) of this study are in the queue")
    assert slurm.words("submitted") == ["1", "2", "3"]


def test_a_refused_job_leaves_no_job_and_no_file(slurm, jobs, tmp_path):
    slurm.put("refused", "2")
    with pytest.raises(RunError, match="invalid partition specified: nosuch") as caught:
        LAUNCHER.submit(jobs)
    assert not isinstance(caught.value, JobsLeftError)
    assert slurm.words("cancelled") == ["1"]
    assert not (tmp_path / "jobs").exists()


def test_a_job_whose_id_comes_too_late_is_cancelled(slurm, jobs, monkeypatch):
    monkeypatch.setattr(queue, "_SECONDS", 2)
    slurm.put("slow", "2")
    with pytest.raises(RunError, match="sbatch did not end within 2 s") as caught:
        LAUNCHER.submit(jobs)
    assert not isinstance(caught.value, JobsLeftError)
    assert slurm.words("cancelled") == ["1", "2"]


def test_a_job_that_cannot_be_looked_for_is_named_and_its_files_are_kept(slurm, jobs, monkeypatch):
    monkeypatch.setattr(queue, "_SECONDS", 2)
    slurm.put("slow", "2")
    slurm.put("away-after-2")
    with pytest.raises(JobsLeftError, match=r"did not end within 2 s.*squeue --me, and cancel them: scancel 1\."):
        LAUNCHER.submit(jobs)
    assert (jobs.folder / "environment.sh").exists()


def test_jobs_that_cannot_be_cancelled_are_named_and_keep_their_files(slurm, jobs):
    slurm.put("refused", "3")
    slurm.put("unkillable")
    with pytest.raises(JobsLeftError, match=r"nosuch.*Access denied.*scancel 1 2\."):
        LAUNCHER.submit(jobs)
    assert (jobs.folder / "environment.sh").exists()


def test_without_an_answer_nothing_is_submitted(slurm, jobs, tmp_path):
    """Jobs of an earlier command may be in the queue."""
    slurm.put("away")
    with pytest.raises(QueueAwayError, match="Unable to contact slurm controller"):
        LAUNCHER.check({}, dry_run=False)
    LAUNCHER.check({}, dry_run=True)
    with pytest.raises(JobsLeftError, match=r"Unable to contact slurm controller\. No job was submitted"):
        LAUNCHER.submit(jobs)
    assert slurm.words("submitted") == []
    assert not (tmp_path / "jobs").exists()


def test_a_dry_run_replaces_no_file_that_jobs_in_the_queue_read(slurm, jobs, tmp_path):
    LAUNCHER.submit(jobs)
    before = (jobs.folder / "environment.sh").read_text()
    other = jobs_in(tmp_path, "journal:/shared/two.log")
    with pytest.raises(SettingsError, match=r"files that the SLURM jobs 1, 2, 3 of this study read.*scancel 1 2 3"):
        LAUNCHER.write(other)
    assert (jobs.folder / "environment.sh").read_text() == before
    queue.cancel([1, 2, 3])
    LAUNCHER.write(other)
    assert "two.log" in (jobs.folder / "environment.sh").read_text()


def test_a_dry_run_says_if_slurm_does_not_list_its_jobs(slurm, jobs):
    slurm.put("away")
    note = LAUNCHER.write(jobs)[1]
    assert note.startswith("# SLURM does not list its jobs: ")
    assert note.endswith("Jobs of this study that are in the queue would read the new files.")


def test_a_dry_run_needs_no_command_of_slurm(jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert len(LAUNCHER.write(jobs)) == 4
