"""Check that workers on other machines can take part in a study, before anything is read or submitted."""

from __future__ import annotations

import shlex
from dataclasses import replace

from bhsearch.config import ALL, Settings
from bhsearch.engines.optuna.storages.url import server_host
from bhsearch.engines.registry import ENGINES
from bhsearch.errors import SettingsError
from bhsearch.runtime.hosts import is_loopback
from bhsearch.study.context import FROZEN
from bhsearch.study.events import ProgressReporter
from bhsearch.study.workers.launchers.base import LAUNCHERS
from bhsearch.study.workers.launchers.jobs import ClusterLauncher, options_of
from bhsearch.tracking.connection import open_client, store_file, tracking_host


def cluster_launcher(settings: Settings) -> ClusterLauncher | None:
    """Return the launcher of a cluster that `--launcher` names; None if workers belong to the command itself.

    Raises:
        SettingsError: If workers on other machines could not reach the study, or an option applies to clusters only.
        MissingError: If the program or package of the launcher is not installed.
        StudyError: If the MLflow server does not answer.
    """
    launcher = LAUNCHERS.get(settings.launcher)
    if not isinstance(launcher, ClusterLauncher):
        _require_no_options(settings)
        return None
    name = settings.launcher
    if settings.only != ALL:
        raise SettingsError(f"--only {settings.only} cannot be used with --launcher {name}, whose jobs do all parts.")
    launcher.check(options_of(settings.launcher_option), dry_run=settings.dry_run)
    if launcher.only_renders and not settings.dry_run:
        raise SettingsError(f"--launcher {name} requires --dry-run: it writes files and submits nothing itself.")
    if launcher.only_renders and settings.study is None:
        raise SettingsError(
            f"--launcher {name} requires --study NAME, because the data, from which the name is derived, are not read."
        )
    if settings.workers == 0:
        raise SettingsError(f"--launcher {name} requires at least one worker, but got --workers 0.")
    if settings.workers_per_gpu != Settings.workers_per_gpu:
        raise SettingsError(
            f"--workers-per-gpu {settings.workers_per_gpu} cannot be used with --launcher {name}, whose jobs are one "
            "worker each. On Ray, workers share a GPU with --launcher-option num_gpus=0.5."
        )
    if launcher.concludes:
        _require_no_extras(settings)
    if not ENGINES.get(settings.engine).capabilities.uses_database:
        raise SettingsError(
            f"--launcher {name} requires --engine optuna, but got --engine {settings.engine}: only Optuna's studies "
            "can be shared by several machines."
        )
    if settings.storage.startswith("sqlite"):
        raise SettingsError(
            f"--launcher {name} cannot use the storage {settings.storage}, because several machines must not write to "
            "one SQLite file. Use --storage postgresql+psycopg://USER@HOST/NAME, or --storage journal:PATH in a "
            "folder that all machines share."
        )
    file = store_file() if settings.tracking else None
    if file is not None:
        raise SettingsError(
            f"--launcher {name} needs an MLflow server that all machines reach, but the store is the file {file}. "
            "Start `mlflow server`, and set MLFLOW_TRACKING_URI=http://HOST:5000, or use --no-tracking."
        )
    here = _own_addresses(settings)
    if here and launcher.only_renders:
        raise SettingsError(f"{here[0]} Give the address by which the jobs of --launcher {name} reach the server.")
    if settings.tracking and not settings.dry_run:
        open_client()  # so that no job waits in a queue to find that the server is down
    return launcher


def for_cluster(settings: Settings, reporter: ProgressReporter) -> Settings:
    """Return the settings with `--regime auto` resolved, which would depend on the device of each machine.

    Args:
        settings: Settings of the study.
        reporter: Receives notes on what other machines may not reach.
    """
    for sentence in _own_addresses(settings):
        reporter.say(sentence)
    if settings.regime != "auto":
        return settings
    reporter.say(
        "--regime auto is frozen on a cluster. For fine-tuning from its heads, run a second study with --regime "
        "finetune --init-from STUDY."
    )
    return replace(settings, regime=FROZEN)


def _require_no_extras(settings: Settings) -> None:
    """Check that nothing is to be computed after the search, because the job that ranks the trials does not do it."""
    extras = {
        "--robustness": settings.robustness,
        "--nested": settings.nested,
        f"--race-divisions {settings.race_divisions}": settings.race_divisions > 0,
    }
    given = [option for option, is_given in extras.items() if is_given]
    if given:
        words = " ".join(given)
        raise SettingsError(
            f"{words} cannot be used with --launcher {settings.launcher}, whose jobs do not compute it. Run the study "
            "without it, and then, on a machine with the data and the cache: bhsearch worker --study "
            f"{shlex.quote(settings.study or 'NAME')} --only summary {words}"
        )


def _own_addresses(settings: Settings) -> list[str]:
    """Return a sentence on each server whose address is, on another machine, that of the machine itself."""
    hosts = {"--storage": server_host(settings.storage)}
    if settings.tracking:
        hosts["MLFLOW_TRACKING_URI"] = tracking_host() or None
    sentences = []
    for name, host in hosts.items():
        if host == "":
            sentences.append(f"{name} names no host, so that each machine would look for the database on itself.")
        elif host is not None and is_loopback(host):
            sentences.append(f"{name} names {host}, which on another machine is that machine itself.")
    return sentences


def _require_no_options(settings: Settings) -> None:
    used = {
        "--launcher-option": settings.launcher_option,
        "--dry-run": settings.dry_run,
        "--no-wait": not settings.wait,
    }
    for option, value in used.items():
        if value:
            raise SettingsError(
                f"{option} requires the launcher of a cluster, such as --launcher slurm, but got --launcher "
                f"{settings.launcher}."
            )
