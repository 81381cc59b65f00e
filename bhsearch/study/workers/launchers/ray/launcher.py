"""The launcher `ray`; the package Ray is imported only when it is used."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from bhsearch.errors import MissingError
from bhsearch.study.workers.launchers.jobs import Placement, StudyJobs
from bhsearch.study.workers.launchers.ray.options import RayOptions

_STATISTICS = "RAY_USAGE_STATS_ENABLED"


class RayLauncher:
    """A launcher that places workers as detached actors; see `ClusterLauncher`."""

    concludes = False
    only_renders = False

    def check(self, options: Mapping[str, str], *, dry_run: bool) -> None:
        """Check the options, and that all nodes of a running cluster have the versions of this process."""
        request = RayOptions.of(options)
        if find_spec("ray") is None:
            raise MissingError(
                "--launcher ray requires the package Ray, which is not installed. Install the extra on all machines: "
                "pip install 'bhsearch[ray]'."
            )
        os.environ.setdefault(_STATISTICS, "0")  # nothing is sent unless the user wants it
        if not dry_run:
            from bhsearch.study.workers.launchers.ray.cluster import check_cluster

            check_cluster(request, Path.cwd())

    def write(self, jobs: StudyJobs) -> Sequence[str]:
        """Return what would be placed; Ray needs no files."""
        request = RayOptions.of(jobs.options)
        gpus = "1 GPU if the cluster has one" if request.num_gpus is None else f"num_gpus={request.num_gpus:g}"
        needs = f"with num_cpus={request.num_cpus:g} and {gpus}"
        several = f"{jobs.n_workers} actors, each {needs}, that run"
        variables = sorted(jobs.variables.keys() - {"OMP_NUM_THREADS"})  # set by num_cpus
        return [
            f"1 actor, {needs}, that runs" if jobs.n_workers == 1 else several,
            shlex.join(["bhsearch", *worker_arguments(jobs)]),
            f"with the variables {', '.join(variables)} of this command. Logs: {jobs.folder}",
        ]

    def submit(self, jobs: StudyJobs) -> Placement:
        """Place the workers, and return the placement."""
        from bhsearch.study.workers.launchers.ray.placement import RayPlacement

        return RayPlacement(jobs, RayOptions.of(jobs.options), worker_arguments(jobs))


def worker_arguments(jobs: StudyJobs) -> list[str]:
    """Return the arguments of `bhsearch` in an actor.

    The trials run in a child process of the command, which survives a crash of a framework, and enforces the limits on
    time and memory.
    """
    return [*jobs.worker(), "--workers", "1"]


LAUNCHER = RayLauncher()
