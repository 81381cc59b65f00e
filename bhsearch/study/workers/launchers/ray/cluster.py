"""The connection to a Ray cluster, and checks that its nodes can run workers."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bhsearch.errors import RunError, SettingsError
from bhsearch.models import backend
from bhsearch.study.workers.launchers.ray.actor import WorkerActor, versions
from bhsearch.study.workers.launchers.ray.options import LOCAL, RayOptions

NAMESPACE = "bhsearch"
_ADDRESS = "RAY_ADDRESS"
_REACH_SECONDS = 10.0
_ANSWER_SECONDS = 120.0  # Ray starts a process on each node first
_VERSIONS = re.compile(r"Ray: (?P<ray>\S+)\s+Python: (?P<python>\S+)")


def check_cluster(request: RayOptions, folder: Path) -> None:
    """Check that the nodes of a running cluster have the versions and the working directory of this process.

    A cluster that the command would start itself has one node, this machine, and is not checked.

    Args:
        request: Options of the launcher.
        folder: Working directory of the workers.

    Raises:
        SettingsError: If the cluster cannot be joined, or a node differs.
        RunError: If a node does not answer.
    """
    was_connected = ray.is_initialized()
    if request.address == LOCAL or not _joined(request.address):
        return
    try:
        _check_nodes(folder)
    finally:
        if not was_connected:
            ray.shutdown()


def connect(address: str | None) -> bool:
    """Join the cluster of an address, or start a local one; return whether a local one was started.

    Raises:
        SettingsError: If the cluster cannot be joined.
    """
    if address != LOCAL and _joined(address):
        return False
    error = _init(LOCAL, include_dashboard=False)
    if error is not None:
        raise RunError(f"Ray cannot start a local cluster: {_first_line(error)}") from error
    return True


def nodes() -> list[dict[str, Any]]:
    """Return the nodes of the cluster that are alive, as described by Ray."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def has_room_for(num_cpus: float, num_gpus: float) -> bool:
    """Return whether a node of the cluster has these resources, in use or not."""
    found = [node["Resources"] for node in nodes()]
    return any(each.get("CPU", 0) >= num_cpus and each.get("GPU", 0) >= num_gpus for each in found)


def _joined(address: str | None) -> bool:
    """Join a running cluster; return False if no address is given or found, so that a local one may be started.

    Raises:
        SettingsError: If the cluster of an address cannot be joined.
    """
    if ray.is_initialized():
        return True
    named = address or os.environ.get(_ADDRESS, "")
    if named == LOCAL:
        return False
    if named and named != "auto":
        _require_reachable(named)
    error = _init(address or "auto")
    if isinstance(error, ConnectionError) and not named:
        return False
    if error is not None:
        raise SettingsError(_refusal(error, named)) from error
    return True


def _init(address: str, **options: Any) -> Exception | None:
    """Connect to a cluster or start one, and return the error if that fails.

    Ray writes notes and, each second, the reason why it is not connected yet, to standard error; they are left out. The
    logs of lost nodes are printed by a thread that `ray.init` starts, and that no option turns off. Ray's handler of
    SIGTERM would end the command without its workers.
    """
    listen = ray_worker.listen_error_messages
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    ray_worker.listen_error_messages = lambda *_: None
    try:
        with backend.silence_stderr():
            try:
                ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
            except (RuntimeError, ValueError, OSError, RayError) as error:
                return error
        return None
    finally:
        ray_worker.listen_error_messages = listen
        if is_main:
            signal.signal(signal.SIGTERM, handler)


def _refusal(error: Exception, named: str) -> str:
    """Return the message for a cluster that cannot be joined."""
    found = [match.groupdict() for match in _VERSIONS.finditer(str(error))]
    if len(found) == 2:
        there, here = (f"Ray {each['ray']} and Python {each['python']}" for each in found)
        return (
            f"The Ray cluster {named or 'on this machine'} has {there}, but this command has {here}. Install the same "
            "versions on all machines."
        )
    return (
        f"Cannot join the Ray cluster {named or 'on this machine'}: {_first_line(error)} The command must run on a "
        "node of the cluster, see `ray status`, and with RAY_AUTH_MODE=token if the cluster requires a token."
    )


def _require_reachable(address: str) -> None:
    """Check that something listens at an address, because Ray itself tries for minutes.

    Raises:
        SettingsError: If nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(
            f"No Ray cluster can be reached at {address} ({error}). Give HOST:PORT of its head node with "
            f"--launcher-option address=HOST:PORT or {_ADDRESS}, or start one with `ray start --head`."
        ) from error


def _check_nodes(folder: Path) -> None:
    """Compare each node with this process; see `check_cluster`."""
    expected = versions()

    def look(
        folder: str, actor: str
    ) -> dict[str, Any]:  # pickled by value, since a node may have another bhsearch or none
        import platform
        from importlib import import_module
        from pathlib import Path

        version = ""
        try:
            version = import_module("bhsearch").__version__
            import_module(actor)
        except ImportError:
            version += " without the launcher ray" if version else ""
        return {"python": platform.python_version(), "bhsearch": version, "folder": Path(folder).is_dir()}

    remote = ray.remote(num_cpus=0)(look)
    asked = {}
    for node in nodes():
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        asked[remote.options(scheduling_strategy=place).remote(str(folder), WorkerActor.__module__)] = name
    for answer, name in asked.items():
        try:
            found = ray.get(answer, timeout=_ANSWER_SECONDS)
        except GetTimeoutError as error:
            raise RunError(f"The Ray node {name} did not answer within {_ANSWER_SECONDS:g} s.") from error
        except (TaskUnschedulableError, NodeDiedError):  # it has left the cluster
            continue
        except RayError as error:
            raise RunError(f"The Ray node {name} cannot run a task: {_first_line(error)}") from error
        require_equal(found, expected, name)
        if not found["folder"]:
            raise SettingsError(
                f"The Ray node {name} does not have the working directory {folder}. Run the command in a folder that "
                "all nodes share."
            )


def require_equal(found: dict[str, Any], expected: dict[str, str], node: str) -> None:
    """Check that a node has the versions of this process; Python's may differ in the last number.

    Raises:
        SettingsError: If it has not.
    """
    if not found["bhsearch"]:
        raise SettingsError(f"bhsearch is not installed on the Ray node {node}. Install it with the extra `ray` there.")
    short = {
        name: re.sub(r"^(\d+\.\d+)\.\d+.*", r"\1", each["python"])
        for name, each in (("there", found), ("here", expected))
    }
    if found["bhsearch"] != expected["bhsearch"] or short["there"] != short["here"]:
        raise SettingsError(
            f"The Ray node {node} has bhsearch {found['bhsearch']} and Python {found['python']}, but this command, on "
            f"{platform.node()}, has bhsearch {expected['bhsearch']} and Python {expected['python']}. Install the same "
            "versions on all machines."
        )


def last_line(error: Exception) -> str:
    """Return the last line of an error of an actor, which is that of its traceback, without colours."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if lines[0].endswith(".") else f"{lines[0]}."
