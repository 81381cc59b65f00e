"""Write the job scripts of a study, and the command lines that submit them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bhsearch.config import FEATURES, SUMMARY
from bhsearch.config.loading import to_toml
from bhsearch.errors import SettingsError
from bhsearch.runtime.environment import write_private
from bhsearch.runtime.processes import own_command
from bhsearch.study.workers.launchers.jobs import StudyJobs, make_private_folder, may_be_secret
from bhsearch.study.workers.launchers.slurm.options import WORKERS, directives, has_controls, max_running, setup

PARTS = (FEATURES, WORKERS, SUMMARY)  # one job each, in the order of their submission
ENVIRONMENT, SETTINGS, LOGS = "environment.sh", "settings.toml", "logs"
_ENCODER = "ENCODER"  # stands for the name of a backbone in a command line
# Jobs that a job waits for, and the condition on their end.
_CONDITIONS: dict[str, dict[str, str]] = {
    FEATURES: {},
    WORKERS: {FEATURES: "afterok"},
    SUMMARY: {FEATURES: "afterok", WORKERS: "afterany"},
}


@dataclass(frozen=True)
class JobFiles:
    """The files of a study's jobs.

    Attributes:
        jobs: The jobs.
        directory: Working directory of the jobs.
    """

    jobs: StudyJobs
    directory: Path

    def script(self, part: str) -> Path:
        """Return the path of the script of a job."""
        return self.jobs.folder / f"{part}.sh"

    def name(self, part: str) -> str:
        """Return the name of a job in SLURM's queue."""
        return f"{self.jobs.study}-{part}"

    def log(self, part: str, job: int, index: int | None) -> Path:
        """Return the path of the log of a job, or of a task of a job array."""
        return self.jobs.folder / LOGS / f"{part}-{job}{'' if index is None else f'_{index}'}.log"

    def write(self) -> None:
        """Write the scripts, the settings and the environment, and create the folder of the logs.

        Raises:
            SettingsError: If SLURM does not support the name of the study or of the folder, or the files cannot be
                written.
        """
        folder, jobs = self.jobs.folder, self.jobs
        _require_supported(folder, jobs.study)
        try:
            make_private_folder(folder, [ENVIRONMENT, f"{LOGS}/"])
            (folder / LOGS).mkdir(exist_ok=True)
            write_private(folder / ENVIRONMENT, _environment(jobs.variables))
            (folder / SETTINGS).write_text(to_toml(jobs.settings), encoding="utf-8")
            for part in PARTS:
                self.script(part).write_text(self._text(part), encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise SettingsError(f"Cannot write the job scripts to {folder}: {error.strerror}.") from error

    def remove(self) -> None:
        """Remove the files of jobs that were not submitted; logs and files of the user are kept."""
        for name in (ENVIRONMENT, ".gitignore", SETTINGS, *(self.script(part).name for part in PARTS)):
            (self.jobs.folder / name).unlink(missing_ok=True)
        for folder in (self.jobs.folder / LOGS, self.jobs.folder, self.jobs.folder.parent):
            try:
                folder.rmdir()
            except OSError:  # it contains other files
                return

    def command(self, part: str, ids: Mapping[str, int]) -> list[str]:
        """Return the command line that submits a job.

        Args:
            part: Part of the study that the job does.
            ids: Ids of the jobs that are submitted before, by part.
        """
        return ["sbatch", "--parsable", *_dependency(part, {other: str(job) for other, job in ids.items()}),
                str(self.script(part))]  # fmt: skip

    def line(self, part: str) -> str:
        """Return the line of shell code that submits one job at once; it contains no value of a variable."""
        return f"{self._program()} {shlex.quote(str(self.script(part)))}"

    def lines(self) -> list[str]:
        """Return the lines of shell code that submit all jobs; none contains the value of a variable."""
        program = self._program()
        ids = {part: f"${{{part}%;*}}" for part in PARTS}  # in a federation, sbatch adds `;CLUSTER` to the id
        lines = []
        for part in PARTS:
            waits = "".join(f' "{word}"' for word in _dependency(part, ids))
            lines.append(f"{part}=$({program} --parsable{waits} {shlex.quote(str(self.script(part)))})")
        return [*lines[:-1], f"{lines[-1]}; echo ${PARTS[-1]}"]

    def secret_names(self) -> list[str]:
        """Return the names of variables that SLURM must not store: the jobs read them from `environment.sh`."""
        return [name for name in _valid(self.jobs.variables) if may_be_secret(name)]

    def _program(self) -> str:
        """Return the call of sbatch without the variables that SLURM would store with the job."""
        hidden = "".join(f"-u {name} " for name in self.secret_names())
        return f"env {hidden}sbatch" if hidden else "sbatch"

    def _text(self, part: str) -> str:
        jobs, options = self.jobs, self.jobs.options
        config = str(jobs.folder / SETTINGS)
        n_tasks = {FEATURES: max(len(jobs.encoders), 1), WORKERS: jobs.n_workers}.get(part)
        most = f"%{max_running(options)}" if part == WORKERS and max_running(options) else ""
        own = {"job-name": self.name(part)}
        if n_tasks is not None:
            own["array"] = f"0-{n_tasks - 1}{most}"
        pattern = "%A_%a" if n_tasks is not None else "%j"
        own["output"] = f"{str(jobs.folder / LOGS).replace('%', '%%')}/{part}-{pattern}.log"
        own["chdir"] = str(self.directory)
        if _CONDITIONS[part]:
            own["kill-on-invalid-dep"] = "yes"
        lines = ["#!/bin/bash", *directives(part, options, own), "set -e"]
        lines.append(f"source {shlex.quote(str(jobs.folder / ENVIRONMENT))}")
        lines += setup(part, options)
        if part == FEATURES and jobs.encoders:
            lines.append(f"encoders=({shlex.join(jobs.encoders)})")
            words = jobs.features(config, _ENCODER)
        else:
            words = {FEATURES: lambda: jobs.features(config), WORKERS: jobs.worker, SUMMARY: jobs.summary}[part]()
        lines.append(f"exec {shlex.join(own_command())} {_command(words)}")
        return "\n".join(lines) + "\n"


def _dependency(part: str, ids: Mapping[str, str]) -> list[str]:
    waits = ",".join(f"{condition}:{ids[other]}" for other, condition in _CONDITIONS[part].items())
    return [f"--dependency={waits}"] if waits else []


def _command(words: Sequence[str]) -> str:
    index = f'"{FEATURES}:${{encoders[SLURM_ARRAY_TASK_ID]}}"'
    return " ".join(index if word == f"{FEATURES}:{_ENCODER}" else shlex.quote(word) for word in words)


def _environment(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(variables[name])}\n" for name in _valid(variables))


def _valid(variables: Mapping[str, str]) -> list[str]:
    """Return the names of variables that a shell can set, in alphabetical order."""
    return sorted(name for name in variables if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name))


def _require_supported(folder: Path, study: str) -> None:
    """Check that the paths and names can stand in a script.

    Raises:
        SettingsError: If they contain control characters, or the folder a backslash, with which SLURM does not insert
            the id of the job into the name of the log.
    """
    if has_controls(study):
        raise SettingsError(f"--launcher slurm requires a study name without control characters, but got {study!r}.")
    if has_controls(str(folder)) or "\\" in str(folder):
        raise SettingsError(
            f"--launcher slurm requires a folder without control characters and backslashes, but got {str(folder)!r}. "
            "Choose another working directory, or another name with --study."
        )
