"""The interface of cluster launchers, which place whole `bhsearch worker` commands on other machines.

Unlike the workers of `launchers.base`, these have no channel to a pool: each joins the study through its storage, logs
its own trials, and goes on if the command that placed it ends.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bhsearch.config import FEATURES, SUMMARY, TRIALS
from bhsearch.engines.optuna.storages.url import journal_file
from bhsearch.errors import RunError
from bhsearch.tracking.store_uri import shown

STORAGE_VARIABLE = "BHSEARCH_STORAGE"
TIME_IS_UP = 130  # exit code of a worker whose `--timeout` is over
# Environment variables that a worker needs; some contain passwords. HF_ and HUGGING are those of Hugging Face.
_PREFIXES = ("BHSEARCH_", "MLFLOW_", "PG", "AWS_", "KERAS_", "HF_", "HUGGING")
_NAMES = ("OMP_NUM_THREADS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")  # in either case
_SECRET = re.compile(r"STORAGE|URI|PASS|TOKEN|SECRET|KEY|AUTH|CREDENTIAL")  # in names of environment variables


class JobsLeftError(RunError):
    """The submission of a study's jobs failed, and some of the jobs may wait or run all the same."""


@dataclass(frozen=True)
class StudyJobs:
    """What a cluster launcher places: the commands of a study, their environment, and the user's options.

    Attributes:
        study: Name of the study.
        n_workers: Number of workers to place.
        encoders: Names of the backbones whose features are computed before the first trial; empty if there are none,
            and for a launcher that only renders, because no data are read for it.
        settings: Settings of the study by TOML key, without the storage.
        worker_options: Further options of each worker, such as `--trial-timeout`.
        options: Values of `--launcher-option` by name.
        variables: Environment variables of all jobs. Values may be secret: they must not be written to a script, a
            command line or a log.
        folder: Folder for scripts and logs. It may not exist yet.
        waits: Whether the command waits for the end of the jobs.
    """

    study: str
    n_workers: int
    encoders: Sequence[str]
    settings: Mapping[str, Any]
    worker_options: Sequence[str]
    options: Mapping[str, str]
    variables: Mapping[str, str]
    folder: Path
    waits: bool = True

    def features(self, config: str, encoder: str = "") -> list[str]:
        """Return the arguments of `bhsearch` that create the study and compute features.

        Args:
            config: Path of a TOML file of `settings`, as seen by the job.
            encoder: Name of a backbone; empty for all backbones.
        """
        only = f"{FEATURES}:{encoder}" if encoder else FEATURES
        return ["run", "--config", config, "--only", only, "--workers", "0", *self._tracking()]

    def worker(self) -> list[str]:
        """Return the arguments of `bhsearch` that run trials of the study, which must exist."""
        return ["worker", "--study", self.study, "--only", TRIALS, *self.worker_options]

    def summary(self) -> list[str]:
        """Return the arguments of `bhsearch` that rank the trials of the study and log the summary."""
        return ["worker", "--study", self.study, "--only", SUMMARY, "--workers", "0", *self._tracking()]

    def storage_name(self) -> str:
        """Return what is the same for all commands that mean the same storage, without its password."""
        storage = self.variables[STORAGE_VARIABLE]
        journal = journal_file(storage)
        return str(journal.absolute()) if journal is not None else shown(storage)

    def _tracking(self) -> list[str]:
        return ["--no-tracking"] if "--no-tracking" in self.worker_options else []


def job_variables(storage: str) -> dict[str, str]:
    """Return the environment variables of jobs: the storage, and those of this process that a worker uses."""
    found = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in _NAMES}
    proxies = {name: value for name, value in os.environ.items() if is_proxy(name)}
    return found | proxies | {STORAGE_VARIABLE: storage}


def is_proxy(variable: str) -> bool:
    """Return whether an environment variable names a proxy, or the hosts that need none."""
    return variable.lower() in _PROXIES


def may_be_secret(variable: str) -> bool:
    """Return whether the value of an environment variable may be secret, judged by the name of the variable."""
    return _SECRET.search(variable) is not None or is_proxy(variable)


def make_private_folder(folder: Path, ignored: Sequence[str]) -> None:
    """Create the folder of a study's jobs, which only its owner can read, with a `.gitignore`.

    Args:
        folder: Folder to create. One that exists, and that others can read, is made private.
        ignored: Files and folders in it that must not get into a repository, in the format of `.gitignore`.

    Raises:
        OSError: If the folder cannot be created or changed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    (folder / ".gitignore").write_text("".join(f"{name}\n" for name in ignored), encoding="utf-8")


class Placement(Protocol):
    """The workers of a study that a cluster launcher has placed."""

    @property
    def n_running(self) -> int:
        """Number of jobs that are waiting or running; 0 after the last one has ended or was cancelled.

        While it is not 0, the study of the jobs is not deleted, even if the command fails before the first trial.
        """

    def look(self) -> Sequence[str]:
        """Replace workers that were lost, and return what is new for the user, such as lines of their logs.

        Raises:
            InputError: If a worker refused its settings or its data, as each other worker would.
            RunError: If workers fail repeatedly.
        """

    def interrupt(self) -> str:
        """Called when the command ends early: end the workers or leave them running, and return a sentence on it."""

    def close(self) -> None:
        """Release what the placement holds in this process; workers are not ended."""


@runtime_checkable
class ClusterLauncher(Protocol):
    """A launcher that places `bhsearch worker` commands on the machines of a cluster.

    Attributes:
        concludes: Whether a job of the launcher logs the summary of the study, so that the command need not.
        only_renders: Whether the launcher writes files for another program but submits nothing itself. The command then
            reads no data, and the paths in the settings are those of the cluster's machines.
    """

    concludes: bool
    only_renders: bool

    def check(self, options: Mapping[str, str], *, dry_run: bool) -> None:
        """Check before any data are read that jobs can be submitted.

        Args:
            options: Values of `--launcher-option` by name.
            dry_run: Whether jobs are only written, not submitted.

        Raises:
            SettingsError: If an option is unknown or has an invalid value.
            MissingError: If the program or package of the launcher is not installed.
        """

    def write(self, jobs: StudyJobs) -> Sequence[str]:
        """Write the files of the jobs, and return the lines that tell the user how to submit them.

        Raises:
            SettingsError: If the files cannot be written.
        """

    def submit(self, jobs: StudyJobs) -> Placement:
        """Submit the jobs, and return the placement.

        Raises:
            RunError: If a job is refused. Jobs of the same study that were submitted before are withdrawn.
            JobsLeftError: If jobs could not be withdrawn, or may be in the queue since an earlier command. The study
                is then kept, even without trials.
        """


def options_of(pairs: Sequence[str]) -> dict[str, str]:
    """Return the values of `--launcher-option` by name, from pairs such as `partition=gpu`."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
