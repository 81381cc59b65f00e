"""What a command says of its jobs, from the states that SLURM lists."""

from __future__ import annotations

import pytest

from bhsearch.errors import InputError, RunError
from bhsearch.study.workers.launchers.jobs import StudyJobs
from bhsearch.study.workers.launchers.slurm import placement as placement_module
from bhsearch.study.workers.launchers.slurm.placement import SlurmPlacement, last_message
from bhsearch.study.workers.launchers.slurm.queue import Task
from bhsearch.study.workers.launchers.slurm.scripts import JobFiles

F, W, S = 1, 2, 3  # ids of the jobs
SUMMARY = Task(S, None, "PENDING", 0, "Dependency")


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """Jobs whose ids scancel writes into a file, in place of SLURM's."""
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/cancelled\n')
    (tmp_path / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    variables = {"BHSEARCH_STORAGE": "journal:/shared/s.log", "PGPASSWORD": "secret", "KERAS_BACKEND": "jax"}
    jobs = StudyJobs("mine", 2, ["a"], {}, [], {}, variables, tmp_path / "jobs" / "mine")
    files = JobFiles(jobs, tmp_path)
    files.write()
    return SlurmPlacement(files, {"features": F, "workers": W, "summary": S}, [])


def log(placed, part, task, text):
    placed._files.log(part, task.job, task.index).write_text(text)


def cancelled(tmp_path):
    file = tmp_path / "cancelled"
    return file.read_text().split() if file.exists() else []


def workers(*states):
    return [Task(W, index, *state) for index, state in enumerate(states)]


DONE = Task(F, 0, "COMPLETED")


def test_lines_are_said_when_counts_or_reasons_are_new(placed):
    waiting = workers(("PENDING", 0, "Dependency"), ("PENDING", 0, "Dependency"))
    assert placed.update([Task(F, 0, "PENDING", 0, "Resources"), *waiting, SUMMARY]) == [
        "SLURM job 1 (features): 1 waiting (Resources)",
        "SLURM job 2 (workers): 2 waiting (Dependency)",
        "SLURM job 3 (summary): 1 waiting (Dependency)",
    ]
    assert placed.update([Task(F, 0, "PENDING", 0, "Priority"), *waiting, SUMMARY]) == [
        "SLURM job 1 (features): 1 waiting (Priority)"
    ]
    assert placed.update([Task(F, 0, "PENDING", 0, "Resources"), *waiting, SUMMARY]) == []
    assert placed.update([DONE, *workers(("RUNNING",), ("PENDING", 0, "Resources")), SUMMARY]) == [
        "SLURM job 1 (features): 1 ended",
        "SLURM job 2 (workers): 1 running, 1 waiting (Resources)",
    ]
    assert placed.n_running == 3


def test_a_requeued_worker_is_waiting_again(placed):
    placed.update([DONE, *workers(("RUNNING",), ("RUNNING",)), SUMMARY])
    lines = placed.update([DONE, *workers(("PENDING", 0, "BeginTime"), ("RUNNING",)), SUMMARY])
    assert lines == ["SLURM job 2 (workers): 1 running, 1 waiting (BeginTime)"]


def test_a_failed_worker_is_named_with_the_end_of_its_log(placed, tmp_path):
    failed, running = workers(("FAILED", 1), ("RUNNING",))
    log(placed, "workers", failed, "trial 1\nerror: The database is away.\n")
    lines = placed.update([DONE, failed, running, SUMMARY])
    file = tmp_path / "jobs" / "mine" / "logs" / "workers-2_0.log"
    assert lines[-1] == f"The worker 2_0 failed (exit code 1). Its log {file}: The database is away."
    assert placed.update([DONE, failed, running, SUMMARY]) == []
    assert cancelled(tmp_path) == []


@pytest.mark.parametrize(
    ("task", "how"),
    [
        (("CANCELLED", 143), "was cancelled"),
        (("TIMEOUT", 0), "reached its time limit"),
        (("OUT_OF_MEMORY", -9), "ended with the state OUT_OF_MEMORY"),
        (("FAILED", 143), "was stopped by SIGTERM, which SLURM sends before the time limit"),
        (("FAILED", 130), "stopped after --timeout"),
        (("FAILED", -11), "failed (signal SIGSEGV)"),
    ],
)
def test_how_a_worker_ended(placed, task, how):
    assert placed.update([DONE, *workers(task, ("RUNNING",)), SUMMARY])[-1].startswith(f"The worker 2_0 {how}.")


def test_a_refused_features_job_ends_all_with_its_sentence(placed, tmp_path):
    failed = Task(F, 0, "FAILED", 2)
    log(placed, "features", failed, "starting\nerror: Cannot read /data.\nMount it.\n")
    with pytest.raises(InputError, match=r"^Cannot read /data\.\nMount it\.\nThe features job 1_0 failed"):
        placed.update([failed, *workers(("PENDING", 0, "Dependency")), SUMMARY])
    assert cancelled(tmp_path) == ["1", "2", "3"]
    assert "cancelled" in placed.interrupt()
    assert placed.n_running == 0


@pytest.mark.parametrize("code", [1, 2])
def test_jobs_that_cannot_be_cancelled_go_on_and_are_named(placed, tmp_path, code):
    (tmp_path / "scancel").write_text("#!/bin/sh\necho 'scancel: error: Access denied' >&2\nexit 1\n")
    failed = Task(F, 0, "FAILED", code)
    log(placed, "features", failed, "error: Cannot read /data.\n")
    with pytest.raises((InputError, RunError), match=r"The other jobs could not be cancelled: Access denied\."):
        placed.update([failed, *workers(("PENDING", 0, "Dependency")), SUMMARY])
    assert placed.interrupt().endswith("cancel them: scancel 1 2 3")
    assert placed.n_running == 2


@pytest.mark.parametrize("state", [("FAILED", 1), ("TIMEOUT", 0), ("CANCELLED", 0)])
def test_features_that_fail_otherwise_end_all_but_are_no_wrong_input(placed, tmp_path, state):
    with pytest.raises(RunError, match="Repeat the command"):
        placed.update([Task(F, 0, *state), *workers(("PENDING", 0, "Dependency")), SUMMARY])
    assert cancelled(tmp_path) == ["1", "2", "3"]


def test_a_worker_that_refuses_ends_all_only_if_no_other_works(placed, tmp_path):
    """One machine without the data does not end a study that runs on the others."""
    refused, other = workers(("FAILED", 2), ("RUNNING",))
    log(placed, "workers", refused, "error: Cannot read /data.\n")
    assert "Cannot read /data." in placed.update([DONE, refused, other, SUMMARY])[-1]
    assert cancelled(tmp_path) == []
    other = Task(W, 1, "FAILED", 2)
    log(placed, "workers", other, "error: Cannot read /data.\n")
    with pytest.raises(InputError, match="Cannot read /data"):
        placed.update([DONE, refused, other, SUMMARY])
    assert cancelled(tmp_path) == ["1", "2", "3"]


def test_a_failed_summary_says_how_to_submit_it_again(placed, tmp_path):
    failed = Task(S, None, "FAILED", 1)
    log(placed, "summary", failed, "error: MLflow is away.\n")
    hidden = "env -u BHSEARCH_STORAGE -u PGPASSWORD sbatch"
    with pytest.raises(RunError, match=rf"MLflow is away\.\nSubmit it again: {hidden} \S*summary\.sh$"):
        placed.update([DONE, *workers(("COMPLETED",)), failed])
    assert placed.n_running == 0
    assert placed.interrupt() == "All jobs of this study have ended."
    assert placed.update([]) == []


def test_tasks_that_slurm_no_longer_lists_have_ended(placed):
    placed.update([DONE, *workers(("RUNNING",)), SUMMARY])
    placed.update([])
    assert placed.n_running == 0


def answer(tmp_path, text):
    """Let squeue print a text."""
    (tmp_path / "squeue").write_text(f"#!/bin/sh\nprintf '{text}'\n")
    (tmp_path / "squeue").chmod(0o755)


def be_away(tmp_path):
    """Let squeue fail, as without SLURM's controller."""
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    squeue.chmod(0o755)


def test_jobs_count_as_running_until_slurm_has_answered_for_a_while(placed, tmp_path, monkeypatch):
    monkeypatch.setattr(placement_module, "_LOOK_SECONDS", 0.0)
    answer(tmp_path, "")
    placed.look()
    assert placed.n_running == 3
    monkeypatch.setattr(placement_module, "_APPEAR_SECONDS", 0.0)
    assert placed.n_running == 0


def test_jobs_count_as_running_while_slurm_does_not_answer(placed, tmp_path, monkeypatch):
    """The command would say that they have ended, and delete their study."""
    monkeypatch.setattr(placement_module, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(placement_module, "_APPEAR_SECONDS", 0.0)
    assert placed.n_running == 3
    be_away(tmp_path)
    placed.look()
    assert placed.n_running == 3
    answer(tmp_path, "1 0 RUNNING 0 None")
    placed.look()
    assert placed.n_running == 1
    be_away(tmp_path)
    placed.look()
    assert placed.n_running == 3


def test_an_outage_of_the_controller_is_said_once_and_waited_for(placed, tmp_path, monkeypatch):
    monkeypatch.setattr(placement_module, "_LOOK_SECONDS", 0.0)
    be_away(tmp_path)
    (said,) = placed.look()
    assert "Unable to contact slurm controller. The jobs go on" in said
    assert placed.look() == []
    assert placed.n_running == 3
    answer(tmp_path, "1 0 RUNNING 0 None")
    assert placed.look() == ["SLURM answers again.", "SLURM job 1 (features): 1 running"]


def test_squeue_is_called_at_most_every_few_seconds(placed, tmp_path):
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\necho '1 0 RUNNING 0 None'\n")
    squeue.chmod(0o755)
    for _ in range(5):
        placed.look()
    assert (tmp_path / "calls").read_text().split() == ["called"]


def test_an_interrupt_leaves_the_jobs_and_says_how_to_cancel_them(placed, tmp_path):
    assert placed.interrupt().endswith("scancel 1 2 3")
    assert cancelled(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nerror: one\nerror: two\nmore\n\n", "two\nmore"),
        ("a\nb\n", "b"),
        ("", ""),
        (
            "error: one\nslurmstepd-n1: error: *** JOB 3 CANCELLED ***\n",
            "slurmstepd-n1: error: *** JOB 3 CANCELLED ***",
        ),
        ("x" * 100_000 + "\nlast", "last"),
    ],
)
def test_the_message_at_the_end_of_a_log(tmp_path, content, message):
    (tmp_path / "log").write_text(content)
    assert last_message(tmp_path / "log") == message


def test_a_log_that_is_missing_has_no_message(tmp_path):
    assert last_message(tmp_path / "nosuch") == ""
