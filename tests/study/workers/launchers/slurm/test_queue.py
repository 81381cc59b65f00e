"""What squeue prints, as SLURM 22.05 printed it, and what is said where SLURM is not."""

from __future__ import annotations

import os

import pytest

from bhsearch.errors import MissingError, RunError
from bhsearch.study.workers.launchers.slurm import queue
from bhsearch.study.workers.launchers.slurm.launcher import LAUNCHER
from bhsearch.study.workers.launchers.slurm.queue import QueueAwayError, Task, parsed_tasks

PRINTED = """\
1                 1                 CANCELLED               36608                   NonZeroExitCode
1                 0                 FAILED                  512                     NonZeroExitCode
1                 2                 PENDING                 0                 BeginTime
4                 1                 CANCELLED               9                 None
4                 2                 RUNNING                 0                 None
5                 N/A                     PENDING                 0                 ReqNodeNotAvail, May be reserved
"""


def test_the_tasks_that_squeue_prints():
    assert parsed_tasks(PRINTED) == [
        Task(1, 1, "CANCELLED", 143, "NonZeroExitCode"),
        Task(1, 0, "FAILED", 2, "NonZeroExitCode"),
        Task(1, 2, "PENDING", 0, "BeginTime"),
        Task(4, 1, "CANCELLED", -9, ""),
        Task(4, 2, "RUNNING", 0, ""),
        Task(5, None, "PENDING", 0, "ReqNodeNotAvail, May be reserved"),
    ]


def test_a_requeued_or_completing_task_has_not_ended():
    states = ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "CONFIGURING"]
    assert not any(Task(1, 0, state).has_ended for state in states)
    assert all(Task(1, 0, state).has_ended for state in ("COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"))


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put shell scripts into a folder that is the first of PATH, in place of SLURM's commands."""

    def put(**scripts):
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_without_sbatch_only_a_dry_run_is_possible(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    LAUNCHER.check({"partition": "gpu"}, dry_run=True)
    with pytest.raises(MissingError, match=r"sbatch, which is not in PATH.*login node.*--dry-run") as caught:
        LAUNCHER.check({"partition": "gpu"}, dry_run=False)
    assert caught.value.exit_code == 2


def test_the_id_is_read_without_the_cluster_that_a_federation_adds(programs, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret")
    programs(sbatch='[ -z "$PGPASSWORD" ] && echo "17;north"')
    assert queue.submit(["sbatch", "--parsable", "x.sh"], ["PGPASSWORD"]) == 17


@pytest.mark.parametrize("printed", ["17\\nYour project has 5 h left.\\n", "Welcome 1\\n17;north\\n\\n", " 17 \\n"])
def test_notes_of_a_site_are_not_taken_for_the_id(programs, printed):
    programs(sbatch=f"printf '{printed}'")
    assert queue.submit(["sbatch", "--parsable", "x.sh"], []) == 17


@pytest.mark.parametrize("printed", ["", "Submitted batch job 17", "17\\n18"])
def test_an_answer_without_one_id_is_an_error(programs, printed):
    programs(sbatch=f"printf '{printed}'")
    with pytest.raises(RunError, match=r"sbatch must print one id for the job x\.sh, but printed '"):
        queue.submit(["sbatch", "--parsable", "x.sh"], [])


def test_a_refusal_has_the_message_of_sbatch(programs):
    programs(
        sbatch="echo 'sbatch: error: invalid partition specified: gpu' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2\nexit 1"
    )
    with pytest.raises(RunError) as caught:
        queue.submit(["sbatch", "--parsable", "x.sh"], [])
    assert str(caught.value) == (
        "SLURM refused the job x.sh: invalid partition specified: gpu; "
        "Batch job submission failed: Invalid partition name specified."
    )


def test_a_controller_that_does_not_answer_is_no_empty_queue(programs):
    programs(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2\nexit 1")
    for look in (lambda: queue.tasks_of([1]), queue.queued_jobs):
        with pytest.raises(QueueAwayError, match="Unable to contact slurm controller"):
            look()


def test_each_queued_job_is_listed_once_with_its_script(programs):
    programs(squeue=r"printf '7\037a b|c-workers\037/x y/workers.sh\n7\037a b|c-workers\037/x y/workers.sh\n'")
    assert queue.queued_jobs() == [queue.QueuedJob(7, "a b|c-workers", "/x y/workers.sh")]


def test_commands_of_slurm_run_in_a_session_of_their_own(programs):
    """Ctrl-C does not reach them: a job would be submitted without its id being known."""
    programs(scancel="ps -o sid= -p $$ >&2; exit 1")
    assert int(queue.cancel([1]).rstrip(".")) not in (0, os.getsid(0))
