"""Options of the launcher `slurm`: check them, and write them as directives of sbatch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from bhsearch.config import FEATURES, SUMMARY
from bhsearch.config.option import did_you_mean
from bhsearch.errors import SettingsError

WORKERS = "workers"
_PARTS = (FEATURES, WORKERS, SUMMARY)
_MAX_RUNNING, _SETUP = "max_running", "setup"
# Options of sbatch that the launcher sets itself, or with which it could not follow the jobs.
_RESERVED = (
    "array", "chdir", "clusters", "dependency", "error", "gid", "help", "job-name", "kill-on-invalid-dep", "output",
    "parsable", "test-only", "uid", "usage", "version", "wait", "wrap",
)  # fmt: skip
# The signal lets a worker end its trial before the time limit. A user's option replaces the default.
_DEFAULTS = {"requeue": "", "open-mode": "append", "signal": "B:TERM@60"}
# Long names of the other options of sbatch, of SLURM 22.05 to 25.05.
_KNOWN = (
    "account", "acctg-freq", "batch", "bb", "bbf", "begin", "cluster-constraint", "comment",
    "consolidate-segments", "constraint", "container", "container-id", "contiguous", "core-spec",
    "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "deadline", "delay-boot", "distribution",
    "exclude", "exclusive", "export", "export-file", "extra", "extra-node-info", "get-user-env", "gpu-bind",
    "gpu-freq", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "gres-flags", "hint", "hold",
    "ignore-pbs", "input", "licenses", "mail-type", "mail-user", "mcs-label", "mem", "mem-bind", "mem-per-cpu",
    "mem-per-gpu", "mincpus", "network", "nice", "no-kill", "no-requeue", "nodefile", "nodelist", "nodes", "ntasks",
    "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket", "oom-kill-step", "open-mode",
    "overcommit", "oversubscribe", "partition", "power", "prefer", "priority", "profile", "propagate", "qos",
    "quiet", "reboot", "requeue", "reservation", "resources", "segment", "signal", "sockets-per-node", "spread-job",
    "stepmgr", "switches", "thread-spec", "threads-per-core", "time", "time-min", "tmp", "tres-bind",
    "tres-per-task", "use-min-nodes", "verbose", "wait-all-nodes", "wckey",
)  # fmt: skip
_PLAIN = re.compile(r"[\w=:,.@%/+-]*", re.ASCII)


def check_options(options: Mapping[str, str]) -> None:
    """Check the names and values of options; whether a cluster has a partition, for example, only sbatch knows.

    Raises:
        SettingsError: If a name is unknown or reserved, or a value is invalid.
    """
    for name, value in options.items():
        part, _, bare = name.rpartition(".")
        shown = f"--launcher-option {name}={value}"
        if part and part not in _PARTS:
            raise SettingsError(
                f"{part!r} in {shown!r} is no job of a study.{did_you_mean(part, _PARTS)} The jobs are "
                f"{', '.join(_PARTS)}; without a job and a dot, an option applies to all of them."
            )
        if has_controls(value):
            raise SettingsError(f"{shown!r} must not contain line breaks or other control characters.")
        if bare == _MAX_RUNNING:
            if part or not re.fullmatch(r"[1-9][0-9]*", value):
                raise SettingsError(
                    f"{_MAX_RUNNING} must be a number of workers of at least 1, such as {_MAX_RUNNING}=8, but got "
                    f"{shown!r}."
                )
        elif bare in _RESERVED:
            raise SettingsError(
                f"--launcher slurm sets or excludes the option --{bare} of sbatch itself, but got {shown!r}."
            )
        elif bare not in (_SETUP, *_KNOWN):
            raise SettingsError(
                f"Unknown option in {shown!r}.{did_you_mean(bare, [*_KNOWN, _SETUP, _MAX_RUNNING])} It must be "
                f"{_MAX_RUNNING}, {_SETUP}, or the long name of an option of sbatch, such as partition=gpu or "
                "workers.cpus-per-task=4."
            )


def has_controls(text: str) -> bool:
    """Return whether a text contains line breaks or other control characters."""
    return any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in text)


def max_running(options: Mapping[str, str]) -> str:
    """Return the largest number of workers that run at the same time; empty for no limit."""
    return options.get(_MAX_RUNNING, "")


def setup(part: str, options: Mapping[str, str]) -> list[str]:
    """Return the line of shell code to run before a job's command, in a list, which is empty without one."""
    line = options.get(f"{part}.{_SETUP}", options.get(_SETUP, ""))
    return [line] if line else []


def directives(part: str, options: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """Return the lines of a script with its options for sbatch.

    Args:
        part: Part of the study that the job does; its options, such as `workers.gres`, replace those of all jobs.
        options: Options of the user by name.
        own: Options of the launcher by name.
    """
    general = {name: value for name, value in options.items() if "." not in name}
    special = {name.partition(".")[2]: value for name, value in options.items() if name.startswith(f"{part}.")}
    given = {name: value for name, value in (general | special).items() if name not in (_MAX_RUNNING, _SETUP)}
    defaults = {name: value for name, value in _DEFAULTS.items() if f"no-{name}" not in given}
    values = {**own, **defaults, **given}
    return [_directive(name, value) for name, value in values.items() if value != "false"]


def _directive(name: str, value: str) -> str:
    """Return one directive; sbatch has its own rules of quoting, which differ from those of a shell."""
    if value in ("", "true"):  # an option without a value, such as --exclusive
        return f"#SBATCH --{name}"
    if not _PLAIN.fullmatch(value):
        value = '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return f"#SBATCH --{name}={value}"
