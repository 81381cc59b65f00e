"""Follow the jobs of a study in SLURM's queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from bhsearch.config import FEATURES, SUMMARY
from bhsearch.errors import InputError, RunError
from bhsearch.runtime.processes import how_it_ended
from bhsearch.study.workers.launchers.jobs import TIME_IS_UP
from bhsearch.study.workers.launchers.slurm import queue
from bhsearch.study.workers.launchers.slurm.options import WORKERS
from bhsearch.study.workers.launchers.slurm.queue import QueueAwayError, Task
from bhsearch.study.workers.launchers.slurm.scripts import PARTS, JobFiles
from bhsearch.text import plural

_LOOK_SECONDS = 5.0  # smallest interval of calls of squeue
_APPEAR_SECONDS = 60.0  # after which a submitted job that SLURM does not list counts as ended
_TAIL_BYTES = 65536
_REFUSED = 2  # exit code for wrong input
_TERMINATED = 143  # exit code of a command that SIGTERM has ended
_ERROR = "error: "  # begins the message of a command that failed


class SlurmPlacement:
    """The jobs of a study in SLURM's queue; see `Placement`.

    Args:
        files: Files of the jobs.
        ids: Ids of the jobs by part.
        news: First lines for the user.
    """

    def __init__(self, files: JobFiles, ids: Mapping[str, int], news: Sequence[str]) -> None:
        self._files, self._ids, self._news = files, dict(ids), list(news)
        self._parts = {job: part for part, job in ids.items()}
        self._tasks: dict[tuple[int, int | None], Task] = {}
        self._listed_at: float | None = None  # monotonic time of SLURM's first answer
        self._next = time.monotonic()
        self._is_away = self._is_cancelled = False
        self._said: dict[str, tuple[object, set[str]]] = {}  # last counts, and all reasons said, by part

    @property
    def n_running(self) -> int:
        """Number of jobs, or tasks of job arrays, that are waiting or running.

        A job that SLURM has never listed counts as running until SLURM has answered for a while.
        """
        if self._is_cancelled:
            return 0
        listed = {task.job for task in self._tasks.values()}
        has_none = (
            self._listed_at is not None and not self._is_away and time.monotonic() >= self._listed_at + _APPEAR_SECONDS
        )
        n_unlisted = 0 if has_none else len(set(self._parts) - listed)
        return n_unlisted + sum(not task.has_ended for task in self._tasks.values())

    def look(self) -> Sequence[str]:
        """Return what is new, from at most one call of squeue in `_LOOK_SECONDS`.

        Raises:
            InputError: If the features job or all workers that began refused the settings or the data.
            RunError: If the features job or the summary job failed.
        """
        news, self._news = self._news, []
        if time.monotonic() < self._next:
            return news
        try:
            listed = queue.tasks_of(self._parts)
        except QueueAwayError as error:
            if not self._is_away:
                news.append(f"{error} The jobs go on; waiting for SLURM.")
            self._is_away = True
            return news
        finally:
            self._next = time.monotonic() + _LOOK_SECONDS
        if self._is_away:
            news.append("SLURM answers again.")
        self._is_away = False
        if self._listed_at is None:
            self._listed_at = time.monotonic()
        return [*news, *self.update(listed)]

    def update(self, listed: Sequence[Task]) -> list[str]:
        """Take over the tasks that SLURM lists, and return what is new.

        Args:
            listed: Tasks of the jobs; tasks that are missing have ended.

        Raises:
            InputError: See `look`.
            RunError: See `look`.
        """
        now = {(task.job, task.index): task for task in listed}
        before = self._tasks
        for key, task in before.items():
            if key not in now:  # SLURM forgets ended jobs after some minutes
                now[key] = task if task.has_ended else replace(task, state=queue.UNKNOWN)
        self._tasks = now
        ended = [task for key, task in now.items() if task.has_ended and not (key in before and before[key].has_ended)]
        lines = [line for part in PARTS if part in self._ids for line in self._counts(part)]
        for task in sorted(ended, key=lambda task: (task.job, task.index or 0)):
            if task.state not in (queue.COMPLETED, queue.UNKNOWN):
                lines += self._failed(task)
        return lines

    def interrupt(self) -> str:
        """Leave the jobs running, and return a sentence on how to follow or cancel them."""
        if self._is_cancelled:
            return "The jobs of this study were cancelled."
        if not self.n_running:
            return "All jobs of this study have ended."
        return f"The jobs go on. Repeat the command to follow them, or cancel them: {self.scancel()}"

    def close(self) -> None:
        """Do nothing, since a placement holds nothing in this process."""

    def scancel(self) -> str:
        """Return the command line that cancels the jobs."""
        return f"scancel {' '.join(map(str, self._ids.values()))}"

    def _of(self, part: str) -> list[Task]:
        return [task for task in self._tasks.values() if self._parts[task.job] == part]

    def _counts(self, part: str) -> list[str]:
        """Return how many tasks of a job wait, run and have ended, if that or the reason to wait is new."""
        tasks = self._of(part)
        if not tasks:
            return []
        n_ended = sum(task.has_ended for task in tasks)
        waiting = [task for task in tasks if task.is_waiting]
        n_running = len(tasks) - n_ended - len(waiting)
        reasons = Counter(task.reason for task in waiting if task.reason)
        counts = (n_running, len(waiting), n_ended)
        last, said = self._said.get(part, (None, set()))
        if counts == last and set(reasons) <= said:
            return []
        self._said[part] = (counts, said | set(reasons))
        why = f" ({', '.join(name for name, _ in reasons.most_common())})" if reasons else ""
        words = [f"{n_running} running"] * bool(n_running) + [f"{len(waiting)} waiting{why}"] * bool(waiting)
        words += [f"{n_ended} ended"] * bool(n_ended)
        return [f"SLURM job {self._ids[part]} ({part}): {', '.join(words)}"]

    def _failed(self, task: Task) -> list[str]:
        """Return lines on a task that did not complete.

        Raises:
            InputError: See `look`.
            RunError: See `look`.
        """
        part = self._parts[task.job]
        log = self._files.log(part, task.job, task.index)
        how = _how(task)
        if part == FEATURES:
            self._give_up(task, f"The features job {task} {how}", log)
        if part == SUMMARY:
            said = last_message(log) or "It is empty."
            raise RunError(
                f"The summary job {task} {how}; the trials are kept. Its log {log}: {said}\nSubmit it again: "
                f"{self._files.line(SUMMARY)}"
            )
        has_refused = task.state == queue.FAILED and task.exit_code == _REFUSED
        if has_refused and not any(each.state in (queue.RUNNING, queue.COMPLETED) for each in self._of(WORKERS)):
            self._give_up(task, f"The worker {task} {how}", log)
        said = (
            last_message(log) if task.state == queue.FAILED and task.exit_code not in (TIME_IS_UP, _TERMINATED) else ""
        )
        return [f"The worker {task} {how}." + (f" Its log {log}: {said}" if said else "")]

    def _give_up(self, task: Task, what: str, log: Path) -> NoReturn:
        """Cancel all jobs, because the others would fail, too, and raise the error."""
        problem = queue.cancel(self._parts)
        self._is_cancelled = not problem
        left = f"\nThe other jobs could not be cancelled: {problem}" if problem else ""
        said = last_message(log)
        if task.state == queue.FAILED and task.exit_code == _REFUSED and said:
            raise InputError(f"{said}\n{what}; its log is {log}.{left}")
        raise RunError(
            f"{what}. Its log {log}: {said or 'It is empty.'}{left}\nRepeat the command to continue the study."
        )


def last_message(log: Path) -> str:
    """Return the error message at the end of a log; without one, the last line; empty if the log has no lines."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(stream.tell() - _TAIL_BYTES, 0))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith(_ERROR)]
    # slurmstepd appends lines to the log of a job that it ends.
    if starts and not any(line.startswith("slurmstepd") for line in lines[starts[-1] :]):
        return "\n".join(lines[starts[-1] :]).removeprefix(_ERROR)
    return lines[-1] if lines else ""


def _how(task: Task) -> str:
    if task.state == queue.CANCELLED:
        return "was cancelled"
    if task.state == queue.TIMEOUT:
        return "reached its time limit"
    if task.state == queue.FAILED and task.exit_code == TIME_IS_UP:
        return "stopped after --timeout"
    if task.state == queue.FAILED and task.exit_code == _TERMINATED:
        return "was stopped by SIGTERM, which SLURM sends before the time limit"
    if task.state == queue.FAILED:
        return f"failed ({how_it_ended(task.exit_code)})"
    return f"ended with the state {task.state}"


def jobs_text(ids: Mapping[str, int]) -> str:
    """Return the ids of jobs as text, such as `12 (features), 13 (workers), 14 (summary)`."""
    return ", ".join(f"{job} ({part})" for part, job in ids.items())


def submitted_text(placed: Mapping[str, int], n_workers: int, folder: Path) -> str:
    """Return the sentences for the user after the jobs were submitted."""
    ids = [str(job) for job in placed.values()]
    return (
        f"Submitted the SLURM jobs {jobs_text(placed)} with {plural(n_workers, 'worker')}. Scripts and logs are in "
        f"{folder}. To look: squeue --jobs={','.join(ids)}. To cancel: scancel {' '.join(ids)}"
    )
