"""SLURM's commands: submit jobs, list the jobs in the queue, cancel jobs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from bhsearch.errors import MissingError, RunError

PROGRAMS = ("sbatch", "squeue", "scancel")
PENDING, RUNNING, COMPLETED, CANCELLED, FAILED, TIMEOUT = (
    "PENDING", "RUNNING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT",
)  # fmt: skip
UNKNOWN = "UNKNOWN"  # state of a task that SLURM no longer lists
_ENDED = (
    COMPLETED, CANCELLED, FAILED, TIMEOUT, UNKNOWN, "BOOT_FAIL", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
)  # fmt: skip
_WAITING = (PENDING, "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
_SECONDS = 120  # limit of one command, which itself waits for the controller
_FIELDS = "ArrayJobID:24,ArrayTaskID:24,State:24,exit_code:24,Reason:80"
_SEPARATOR = "\x1f"
_ID = re.compile(r"[0-9]+(;\S*)?")


class QueueAwayError(RunError):
    """SLURM's controller does not answer."""


@dataclass(frozen=True)
class Task:
    """A job in SLURM's queue, or one task of a job array.

    Attributes:
        job: Id of the job, or of the job array.
        index: Index in the job array; None for a job without tasks.
        state: State in SLURM's words, such as `PENDING`.
        exit_code: Exit code as in `subprocess`, where a negative code is the number of a signal.
        reason: Why the task waits, in SLURM's words, such as `Resources`.
    """

    job: int
    index: int | None
    state: str
    exit_code: int = 0
    reason: str = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the task waits for its start or its next start."""
        return self.state in _WAITING

    @property
    def has_ended(self) -> bool:
        """Whether the task has ended, and SLURM has not put it into the queue again."""
        return self.state in _ENDED

    def __str__(self) -> str:
        return str(self.job) if self.index is None else f"{self.job}_{self.index}"


@dataclass(frozen=True)
class QueuedJob:
    """A job of the user that waits or runs.

    Attributes:
        job: Id of the job, or of the job array.
        name: Name of the job.
        script: Path of its script.
    """

    job: int
    name: str
    script: str


def is_installed() -> bool:
    """Return whether SLURM's command that lists jobs is in `PATH`."""
    return shutil.which("squeue") is not None


def require_programs() -> None:
    """Check that SLURM's commands are installed.

    Raises:
        MissingError: If one is not in `PATH`.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise MissingError(
                f"--launcher slurm needs SLURM's command {program}, which is not in PATH. Run the command on a login "
                "node of the cluster, or use --dry-run, which only writes the job scripts."
            )


def submit(words: Sequence[str], hidden: Collection[str]) -> int:
    """Submit a job, and return its id.

    Args:
        words: Command line of sbatch with `--parsable`.
        hidden: Names of environment variables that SLURM must not store with the job.

    Raises:
        RunError: If sbatch refuses the job, with its message, or prints no id. SLURM may have taken the job all the
            same, for example if its answer came too late.
    """
    done = _run(words, {name: value for name, value in os.environ.items() if name not in hidden})
    if done.returncode != 0:
        raise RunError(f"SLURM refused the job {words[-1]}: {_message(done)}")
    # Sites print notes before or after the id, and a federation appends the cluster to it.
    found = [line for line in done.stdout.splitlines() if _ID.fullmatch(line.strip())]
    if len(found) != 1:
        raise RunError(f"sbatch must print one id for the job {words[-1]}, but printed {done.stdout.strip()!r}.")
    return int(found[0].strip().partition(";")[0])


def cancel(jobs: Iterable[int]) -> str:
    """Cancel jobs, and return the message of scancel if it failed; empty if not."""
    done = _run(["scancel", *map(str, jobs)])
    return _message(done) if done.returncode else ""


def tasks_of(jobs: Collection[int]) -> list[Task]:
    """Return the tasks of jobs, as long as SLURM lists them; it lists ended ones for some minutes (MinJobAge).

    Raises:
        QueueAwayError: If SLURM's controller does not answer.
    """
    return [
        task for task in parsed_tasks(_squeue("--states=all", "--array", f"--Format={_FIELDS}")) if task.job in jobs
    ]


def parsed_tasks(text: str) -> list[Task]:
    """Return the tasks in the output of `squeue --noheader --array --Format=...`."""
    found = []
    for line in text.splitlines():
        job, index, state, status, *reason = line.split()
        number = int(index) if index.isdigit() else None
        why = " ".join(reason).strip("()")
        found.append(
            Task(int(job), number, state, os.waitstatus_to_exitcode(int(status)), "" if why == "None" else why)
        )
    return found


def queued_jobs() -> list[QueuedJob]:
    """Return the jobs of the user that wait or run.

    Raises:
        QueueAwayError: If SLURM's controller does not answer.
    """
    found = {}
    for line in _squeue(f"--format={_SEPARATOR.join(('%F', '%j', '%o'))}").splitlines():
        job, name, script = line.split(_SEPARATOR)
        found[job] = QueuedJob(int(job), name, script)
    return list(found.values())


def _squeue(*words: str) -> str:
    done = _run(["squeue", "--noheader", f"--user={os.getuid()}", *words])
    if done.returncode != 0:
        raise QueueAwayError(f"SLURM does not list its jobs: {_message(done)}")
    return done.stdout


def _run(words: Sequence[str], variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM in its own session, so that Ctrl-C does not end it half-way."""
    try:
        return subprocess.run(
            words,
            env=variables,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = (
            f"{words[0]} did not end within {_SECONDS} s"
            if isinstance(error, subprocess.TimeoutExpired)
            else str(error)
        )
        return subprocess.CompletedProcess(words, 1, "", reason)


def _message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error message of a command of SLURM as one line."""
    program = done.args[0]
    lines = [line.removeprefix(f"{program}: ").removeprefix("error: ").strip() for line in done.stderr.splitlines()]
    text = "; ".join(line.rstrip(".") for line in lines if line and not line.startswith("Try "))
    return f"{text or f'exit code {done.returncode} of {program}'}."
