"""The workers of a study on a Ray cluster: places them, follows them, and ends them."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError

from bhsearch.errors import InputError, RunError, SettingsError
from bhsearch.runtime.processes import how_it_ended
from bhsearch.study.workers.gpus import memory_variables
from bhsearch.study.workers.launchers.jobs import TIME_IS_UP, StudyJobs
from bhsearch.study.workers.launchers.ray.actor import WorkerActor, versions
from bhsearch.study.workers.launchers.ray.cluster import (
    NAMESPACE,
    connect,
    has_room_for,
    last_line,
    nodes,
    require_equal,
)
from bhsearch.study.workers.launchers.ray.options import RayOptions
from bhsearch.study.workers.launchers.ray.supervisor import DONE
from bhsearch.text import plural

_MOST_RESTARTS = 20  # of one actor, by Ray, also while no command follows the study
_MOST_DEATHS = 3  # of actors in a row that said nothing
_ANSWER_SECONDS = 0.5
_STOP_SECONDS = 30.0  # time for workers to fail their trials and to log what is finished
_STEP_SECONDS = 0.1
_NOTE_SECONDS = 30.0  # time after which a worker that waits for resources is mentioned


@dataclass(eq=False)
class _PlacedWorker:
    """A worker, as known to the command."""

    slot: int
    handle: Any
    since: float  # monotonic time at which it was placed or lost
    asked: Any = None  # reference to the pending answer of the actor
    node: str = ""  # where it runs; empty while it waits for resources
    n_deaths: int = 0
    has_waited: bool = False  # whether the user knows that it waits


class RayPlacement:
    """The placed workers of a study; see `Placement`.

    Workers that an earlier command has placed, and that are still running, are followed instead of placing others.

    Args:
        jobs: Jobs of the study.
        request: Options of the launcher.
        arguments: Arguments of `bhsearch` in each actor.

    Raises:
        SettingsError: If a local cluster is too small for a worker, or would end with the command while workers should
            go on.
    """

    def __init__(self, jobs: StudyJobs, request: RayOptions, arguments: list[str]) -> None:
        self._jobs, self._arguments = jobs, arguments
        self._owns_connection = not ray.is_initialized()
        self._is_local = connect(request.address)
        try:
            self._options = self._options_of(request)
            self._lines = [self._welcome()]
            storage = hashlib.sha256(jobs.storage_name().encode()).hexdigest()[:8]
            self._prefix = f"{jobs.study}/{storage}/"
            self._workers = self._found()
            taken = {worker.slot for worker in self._workers}
            self._workers += [self._place(slot) for slot in range(jobs.n_workers) if slot not in taken]
        except BaseException:
            self.close()
            raise

    @property
    def n_running(self) -> int:
        """Number of workers that are waiting or running."""
        return len(self._workers)

    def look(self) -> Sequence[str]:
        """Ask all actors how their workers are, and return what is new for the user."""
        lines, self._lines = self._lines, []
        for worker in self._answered():
            if worker in self._workers:  # one that has ended may have made others unnecessary
                lines += self._heard(worker)
        return lines + [line for worker in self._workers for line in self._waiting(worker)]

    def interrupt(self) -> str:
        """End the workers: those with a trial fail it, and log what is finished."""
        for worker in self._workers:
            if worker.node:
                worker.handle.stop.remote(_STOP_SECONDS)
            else:
                self._kill(worker)
        running = [worker for worker in self._workers if worker.node]
        deadline = time.monotonic() + _STOP_SECONDS + 2 * _ANSWER_SECONDS
        while running and time.monotonic() < deadline:
            answered = self._answered(running)
            running = [worker for worker in running if worker not in answered or _running_report(worker) is not None]
            time.sleep(_STEP_SECONDS)
        for worker in self._workers:
            self._kill(worker)
        self._workers = []
        if running:
            return f"{plural(len(running), 'worker')} on Ray did not end within {_STOP_SECONDS:g} s and got killed."
        return "The workers on Ray have ended."

    def close(self) -> None:
        """Leave the cluster; one that this command started ends."""
        if self._owns_connection:
            ray.shutdown()

    def _options_of(self, request: RayOptions) -> dict[str, Any]:
        """Return the options of an actor."""
        num_gpus = request.num_gpus
        if num_gpus is None:
            num_gpus = float(has_room_for(0, 1))
        if self._is_local and not self._jobs.waits:
            raise SettingsError(
                "--no-wait requires a running Ray cluster, because a cluster that the command starts ends with it. "
                "Start one with `ray start --head`."
            )
        if self._is_local and not has_room_for(request.num_cpus, num_gpus):
            raise SettingsError(
                f"This machine does not have the resources of one worker, num_cpus={request.num_cpus:g} and "
                f"num_gpus={num_gpus:g}. Set --launcher-option num_cpus=... or num_gpus=..., or join a Ray cluster."
            )
        return {"num_cpus": request.num_cpus, "num_gpus": num_gpus}

    def _welcome(self) -> str:
        if self._is_local:
            return "No Ray cluster is running here: a local one was started, which ends with this command."
        return f"Joined a Ray cluster of {plural(len(nodes()), 'node')}."

    def _found(self) -> list[_PlacedWorker]:
        """Return the workers of earlier commands that have not ended."""
        found = []
        for row in ray.util.list_named_actors(all_namespaces=True):
            name = str(row["name"])
            if row["namespace"] != NAMESPACE or not name.startswith(self._prefix):
                continue
            try:
                handle = ray.get_actor(name, namespace=NAMESPACE)
            except ValueError:  # it has ended meanwhile
                continue
            slot = int(name.removeprefix(self._prefix).partition("-")[0])
            found.append(_PlacedWorker(slot, handle, time.monotonic()))
        for worker in self._answered(found):
            report = _running_report(worker)
            if report is not None:
                worker.node = report["node"]
            else:
                self._kill(worker)
                found.remove(worker)
        if found:
            self._lines.append(f"Follows {plural(len(found), 'worker')} of an earlier command.")
        return found

    def _place(self, slot: int) -> _PlacedWorker:
        num_cpus, num_gpus = self._options["num_cpus"], self._options["num_gpus"]
        variables = {"OMP_NUM_THREADS": str(max(1, int(num_cpus)))}
        if num_gpus == 0:  # Ray hides no GPU from an actor that has asked for none
            variables["CUDA_VISIBLE_DEVICES"] = ""
        elif num_gpus < 1:
            variables |= memory_variables(num_gpus)
        log = self._jobs.folder / f"worker-{slot}.log"
        kind = ray.remote(WorkerActor).options(
            name=f"{self._prefix}{slot}-{secrets.token_hex(4)}",
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=_MOST_RESTARTS,
            scheduling_strategy="SPREAD",
            **self._options,
        )
        handle = kind.remote(self._arguments, {**self._jobs.variables, **variables}, str(Path.cwd()), str(log))
        return _PlacedWorker(slot, handle, time.monotonic())

    def _answered(self, workers: list[_PlacedWorker] | None = None) -> list[_PlacedWorker]:
        """Ask workers, all by default, how they are, and return those whose answer has come."""
        workers = list(self._workers if workers is None else workers)
        for worker in workers:
            if worker.asked is None:
                worker.asked = worker.handle.look.remote()
        if not workers:
            return []
        asked = [worker.asked for worker in workers]
        ready = set(ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)[0])
        return [worker for worker in workers if worker.asked in ready]

    def _heard(self, worker: _PlacedWorker) -> list[str]:
        """Handle the answer of an actor, and return what is new for the user.

        Raises:
            InputError: If the worker refused its settings or its data.
            RunError: If workers or actors failed repeatedly.
        """
        name = f"worker {worker.slot}: "
        try:
            report = _report(worker)
        except ActorDiedError as error:
            return [name + self._replaced(worker, error)]
        except RayActorError:  # Ray starts the actor again
            worker.since = time.monotonic()
            was_running, worker.node = bool(worker.node), ""
            return [f"{name}its node or its process was lost; Ray starts it again where there is room"] * was_running
        except RayError as error:
            raise RunError(f"The Ray cluster does not answer: {last_line(error)}") from error
        lines = [name + line for line in report["lines"]]
        if not worker.node:
            require_equal(report, versions(), report["node"])
            worker.node, worker.n_deaths, worker.has_waited = report["node"], 0, False
            lines.insert(0, f"{name}runs on {worker.node}")
        if report["code"] is not None:
            self._finished(worker, report)
        return lines

    def _finished(self, worker: _PlacedWorker, report: dict[str, Any]) -> None:
        """Release the actor of a worker that has ended; see `_heard` for the errors."""
        self._workers.remove(worker)
        self._kill(worker)
        code = report["code"]
        log = self._jobs.folder / f"worker-{worker.slot}.log"
        reason = next((line for line in reversed(report["lines"]) if line.startswith("error: ")), "")
        if code == InputError.exit_code:
            raise InputError(f"{reason.removeprefix('error: ') or 'A worker refused its input.'} Its log: {log}")
        if code not in (DONE, TIME_IS_UP):
            raise RunError(
                f"Worker {worker.slot} failed repeatedly, the last time with {how_it_ended(code)}. "
                f"{reason.removeprefix('error: ')} Its log: {log}".replace("  ", " ")
            )
        for other in [each for each in self._workers if not each.node]:  # the study is finished, or its time is up
            self._workers.remove(other)
            self._kill(other)

    def _replaced(self, worker: _PlacedWorker, error: Exception) -> str:
        """Place a new actor for one that has ended for good, and return a sentence for the user.

        Raises:
            RunError: If several actors in a row ended before they answered.
        """
        n_deaths = worker.n_deaths + 1
        if n_deaths >= _MOST_DEATHS:
            raise RunError(
                f"{n_deaths} Ray actors in a row ended before their worker ran. The last one: {last_line(error)}"
            )
        fresh = self._place(worker.slot)
        fresh.n_deaths = n_deaths
        self._workers[self._workers.index(worker)] = fresh
        return "its actor was ended by Ray; a new one waits for room"

    def _waiting(self, worker: _PlacedWorker) -> list[str]:
        """Return a note on a worker that has been waiting for resources for long."""
        if worker.node or worker.has_waited or time.monotonic() < worker.since + _NOTE_SECONDS:
            return []
        worker.has_waited = True
        needs = f"num_cpus={self._options['num_cpus']:g} and num_gpus={self._options['num_gpus']:g}"
        missing = "" if has_room_for(**self._options) else ", which no node of the cluster has now"
        return [f"worker {worker.slot}: waits for a node with {needs}{missing}"]

    @staticmethod
    def _kill(worker: _PlacedWorker) -> None:
        with suppress(RayError, ValueError):  # ValueError: the actor has ended before it was placed
            ray.kill(worker.handle)


def _report(worker: _PlacedWorker) -> dict[str, Any]:
    """Return the answer of an actor, which has come."""
    asked, worker.asked = worker.asked, None
    report: dict[str, Any] = ray.get(asked)
    return report


def _running_report(worker: _PlacedWorker) -> dict[str, Any] | None:
    """Return the answer of an actor, which has come; None if its worker has ended."""
    try:
        report = _report(worker)
    except RayError:
        return None
    return report if report["code"] is None else None
