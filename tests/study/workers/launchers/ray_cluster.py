"""A Ray cluster of several nodes on this machine, with one CPU each, that a test can take nodes from."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

_SECONDS = 60  # time to find a trial that runs on a node


class RayCluster:
    """A running cluster.

    Args:
        n_nodes: Number of nodes, the head included.
    """

    def __init__(self, n_nodes: int = 2) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        self._more = [self._cluster.add_node(num_cpus=1) for _ in range(n_nodes - 1)]

    @property
    def address(self) -> str:
        """As `--launcher-option address=` takes it."""
        return str(self._cluster.address)

    @property
    def logs(self) -> str:
        """Folder of all files that Ray has written for this cluster."""
        return str(self._cluster.head_node.get_session_dir_path())

    def options(self, **more: Any) -> list[str]:
        """Arguments of the command for workers of this cluster."""
        given = {"address": self.address, **more}
        return [
            "--launcher",
            "ray",
            *(word for name in given for word in ("--launcher-option", f"{name}={given[name]}")),
        ]

    def add(self) -> None:
        """Add a node."""
        self._more.append(self._cluster.add_node(num_cpus=1))

    def lose(self, trials: Callable[[], list[Any]]) -> int:
        """Lose the node that was added last, at once, with all processes on it, while a trial runs there.

        Args:
            trials: Returns the trials of the study, quickly, because workers on other nodes go on meanwhile.

        Returns:
            Number of the trial.
        """
        node = self._more.pop()
        (info,) = node.all_processes["raylet"]
        raylet = psutil.Process(info.process.pid)
        end = time.monotonic() + _SECONDS
        while True:
            assert time.monotonic() < end, "no trial was seen running on the node"
            processes = [raylet, *raylet.children(recursive=True)]
            _signal(processes, signal.SIGSTOP)  # none may notice the end of another and do something about it
            pids = {process.pid for process in processes}
            running = [trial for trial in trials() if trial.state.name == "RUNNING" and trial.params]
            lost = [trial.number for trial in running if trial.system_attrs["bhsearch:owner"]["pid"] in pids]
            if lost:
                break
            _signal(processes, signal.SIGCONT)
            time.sleep(0.05)
        _signal(processes, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        return lost[0]

    def stop(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


@contextmanager
def ray_cluster(n_nodes: int = 2) -> Iterator[RayCluster]:
    """A running cluster, gone at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = RayCluster(n_nodes)
        try:
            yield cluster
        finally:
            cluster.stop()
