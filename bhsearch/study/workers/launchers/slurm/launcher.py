"""The launcher `slurm`: three jobs that compute features, run the workers, and log the summary of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bhsearch.errors import SettingsError
from bhsearch.runtime.cache import interprocess_lock
from bhsearch.runtime.interrupts import deferred
from bhsearch.study.workers.launchers.jobs import JobsLeftError, Placement, StudyJobs
from bhsearch.study.workers.launchers.slurm import queue
from bhsearch.study.workers.launchers.slurm.options import check_options
from bhsearch.study.workers.launchers.slurm.placement import SlurmPlacement, jobs_text, submitted_text
from bhsearch.study.workers.launchers.slurm.queue import QueueAwayError, QueuedJob
from bhsearch.study.workers.launchers.slurm.scripts import ENVIRONMENT, PARTS, JobFiles


class SlurmLauncher:
    """A launcher that submits the jobs of a study to SLURM; see `ClusterLauncher`."""

    concludes = True
    only_renders = False

    def check(self, options: Mapping[str, str], *, dry_run: bool) -> None:
        """Check the options, and that SLURM's commands are installed and answer unless jobs are only written.

        Raises:
            SettingsError: If an option is unknown, reserved or has an invalid value.
            MissingError: If a command of SLURM is not in `PATH`.
            RunError: If SLURM's controller does not answer.
        """
        check_options(options)
        if not dry_run:
            queue.require_programs()
            queue.queued_jobs()  # so that no study is created that cannot be submitted

    def write(self, jobs: StudyJobs) -> Sequence[str]:
        """Write the scripts of the jobs, and return the lines that submit them.

        Raises:
            SettingsError: If the files cannot be written, or jobs in the queue read them.
        """
        files = JobFiles(jobs, Path.cwd())
        with _lock(files):
            notes = _require_unused(files)
            files.write()
        return [
            f"# Job scripts are in {jobs.folder}. Its file {ENVIRONMENT} may contain passwords.",
            *notes,
            *files.lines(),
        ]

    def submit(self, jobs: StudyJobs) -> Placement:
        """Submit the jobs, or find those that an earlier command has submitted and that wait or run.

        Raises:
            RunError: If SLURM refuses a job; the jobs before it are cancelled.
            JobsLeftError: If they cannot be cancelled, or SLURM does not say whether there are jobs of an earlier
                command.
        """
        files = JobFiles(jobs, Path.cwd())
        with _lock(files):
            try:
                ours, others = _queued(files)
            except QueueAwayError as error:
                raise JobsLeftError(f"{error} No job was submitted. Repeat the command when SLURM answers.") from error
            if ours:
                found = _by_part(ours)
                placed = SlurmPlacement(files, found, [])
                return SlurmPlacement(
                    files,
                    found,
                    [
                        f"The SLURM jobs {jobs_text(found)} of this study are in the queue since an earlier command. "
                        f"They are followed, and nothing else is submitted. To cancel: {placed.scancel()}"
                    ],
                )
            is_new = not jobs.folder.exists()
            files.write()
            try:
                ids = _submit_all(files)
            except JobsLeftError:  # they read the files
                raise
            except BaseException:
                if is_new:
                    files.remove()
                raise
        news = [submitted_text(ids, jobs.n_workers, jobs.folder)]
        if others:
            news.append(
                f"Other SLURM jobs with these names are in the queue ({_ids_text(others)}), submitted from "
                "another folder. If they belong to the same study, it now has the workers of both."
            )
        return SlurmPlacement(files, ids, news)


def _lock(files: JobFiles) -> AbstractContextManager[None]:
    return interprocess_lock(f"the SLURM jobs in {files.jobs.folder}")


def _queued(files: JobFiles) -> tuple[list[QueuedJob], list[QueuedJob]]:
    """Return the jobs in the queue that were submitted from these files, and others with the same names."""
    names = {files.name(part): part for part in PARTS}
    same = [job for job in queue.queued_jobs() if job.name in names]
    ours = [job for job in same if job.script == str(files.script(names[job.name]))]
    return ours, [job for job in same if job not in ours]


def _by_part(ours: Sequence[QueuedJob]) -> dict[str, int]:
    """Return the ids of jobs of a study by part, in the order of their submission."""
    found = {Path(job.script).stem: job.job for job in ours}
    return {part: found[part] for part in PARTS if part in found}


def _ids_text(jobs: Sequence[QueuedJob]) -> str:
    return ", ".join(str(job.job) for job in jobs)


def _require_unused(files: JobFiles) -> list[str]:
    """Check that no job in the queue reads the files, and return a note, in a list, if SLURM does not say so.

    Raises:
        SettingsError: If jobs in the queue read the files.
    """
    if not queue.is_installed():
        return []
    try:
        ours, _ = _queued(files)
    except QueueAwayError as error:
        return [f"# {error} Jobs of this study that are in the queue would read the new files."]
    if ours:
        raise SettingsError(
            f"--dry-run would replace files that the SLURM jobs {_ids_text(ours)} of this study read. Wait until they "
            f"have ended, cancel them with scancel {' '.join(str(job.job) for job in ours)}, or give the study another "
            "name with --study."
        )
    return []


def _submit_all(files: JobFiles) -> dict[str, int]:
    """Submit the jobs, and return their ids by part; if one is refused, or on Ctrl-C, none is left in the queue.

    Raises:
        RunError: If SLURM refuses a job.
        JobsLeftError: If some of the jobs may be left in the queue.
    """
    ids: dict[str, int] = {}
    try:
        with deferred() as interrupts:
            for part in PARTS:
                ids[part] = queue.submit(files.command(part, ids), files.secret_names())
                with interrupts.allowed():
                    pass
    except BaseException as error:
        _withdraw(files, ids, error)
        raise
    return ids


def _withdraw(files: JobFiles, ids: Mapping[str, int], error: BaseException) -> None:
    """Cancel jobs after an error, also those in the queue whose id sbatch did not print, for example in time.

    Raises:
        JobsLeftError: If it is not certain that all jobs are cancelled.
    """
    left, problem = set(ids.values()), ""
    try:
        left |= {job.job for job in _queued(files)[0]}
    except QueueAwayError as away:
        problem = str(away)
    problem = (queue.cancel(sorted(left)) if left else "") or problem
    if problem:
        known = f", and cancel them: scancel {' '.join(map(str, sorted(left)))}" if left else " and scancel"
        raise JobsLeftError(
            f"{str(error) or 'The submission was interrupted.'} Jobs of this study may be left in the queue, because "
            f"they could not be cancelled: {problem} Look for them with squeue --me{known}."
        ) from error


LAUNCHER = SlurmLauncher()
