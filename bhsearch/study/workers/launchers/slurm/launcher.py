"""The launcher `slurm`: three jobs that compute features, run the workers, and log the summary of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bhsearch.runtime.cache import interprocess_lock
from bhsearch.runtime.interrupts import deferred
from bhsearch.study.workers.launchers.jobs import Placement, StudyJobs
from bhsearch.study.workers.launchers.slurm import queue
from bhsearch.study.workers.launchers.slurm.options import check_options
from bhsearch.study.workers.launchers.slurm.placement import SlurmPlacement, jobs_text, submitted_text
from bhsearch.study.workers.launchers.slurm.scripts import ENVIRONMENT, PARTS, JobFiles


class SlurmLauncher:
    """A launcher that submits the jobs of a study to SLURM; see `ClusterLauncher`."""

    concludes = True
    only_renders = False

    def check(self, options: Mapping[str, str], *, dry_run: bool) -> None:
        """Check the options, and that SLURM's commands are installed unless jobs are only written.

        Raises:
            SettingsError: If an option is unknown, reserved or has an invalid value.
            MissingError: If a command of SLURM is not in `PATH`.
        """
        check_options(options)
        if not dry_run:
            queue.require_programs()

    def write(self, jobs: StudyJobs) -> Sequence[str]:
        """Write the scripts of the jobs, and return the lines that submit them."""
        files = JobFiles(jobs, Path.cwd())
        files.write()
        return [
            f"# Job scripts are in {jobs.folder}. Its file {ENVIRONMENT} may contain passwords.",
            *files.lines(),
        ]

    def submit(self, jobs: StudyJobs) -> Placement:
        """Submit the jobs, or find those that an earlier command has submitted and that wait or run.

        Raises:
            RunError: If SLURM refuses a job; the jobs before it are cancelled.
        """
        files = JobFiles(jobs, Path.cwd())
        with interprocess_lock(f"the SLURM jobs in {jobs.folder}"):
            found, others = _queued(files)
            if found:
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
            except BaseException:
                if is_new:
                    files.remove()
                raise
        news = [submitted_text(ids, jobs.n_workers, jobs.folder)]
        if others:
            news.append(
                f"Other SLURM jobs with these names are in the queue ({', '.join(map(str, others))}), submitted from "
                "another folder. If they belong to the same study, it now has the workers of both."
            )
        return SlurmPlacement(files, ids, news)


def _queued(files: JobFiles) -> tuple[dict[str, int], list[int]]:
    """Return the jobs in the queue that were submitted from these files by part, and others with the same names."""
    names = {files.name(part): part for part in PARTS}
    same = [job for job in queue.queued_jobs() if job.name in names]
    ours = [job for job in same if job.script == str(files.script(names[job.name]))]
    found = {names[job.name]: job.job for job in ours}
    return {part: found[part] for part in PARTS if part in found}, [job.job for job in same if job not in ours]


def _submit_all(files: JobFiles) -> dict[str, int]:
    """Submit the jobs, and return their ids by part; if one is refused, or on Ctrl-C, none is left in the queue."""
    ids: dict[str, int] = {}
    try:
        with deferred() as interrupts:
            for part in PARTS:
                ids[part] = queue.submit(files.command(part, ids), files.secret_names())
                with interrupts.allowed():
                    pass
    except BaseException:
        if ids:
            queue.cancel(ids.values())
        raise
    return ids


LAUNCHER = SlurmLauncher()
