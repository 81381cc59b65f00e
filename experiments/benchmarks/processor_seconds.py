"""Processor seconds of a study by process, with an empty cache (cold) and with the features in the cache (warm).

    python experiments/benchmarks/processor_seconds.py --data path/to/BreaKHis_v1

Each study is a whole command in a folder of its own. The processor times of all its processes are read ten times a
second, and the row "all" is the sum of the operating system, so that what the rows above lack is known.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Processes of a study: the last part of the module that is on their command line.
PROCESSES = {
    "bhsearch.run": "command",
    "bhsearch.study.workers.process": "worker",
    "bhsearch.models.openvino": "conversion of backbones",
    "bhsearch.tracking.upload.uploader": "uploader",
}
OTHER = "other"
ALL = "all"
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Study:
    """What one study took.

    Attributes:
        wall: Wall-clock seconds of the command.
        processor: Processor seconds by process; `ALL` is the sum of the operating system.
    """

    wall: float
    processor: dict[str, float]


def kind_of(words: Sequence[str]) -> str:
    """Return the kind of a process from its command line."""
    return next((kind for module, kind in PROCESSES.items() if module in words), OTHER)


def run(command: Sequence[str], folder: Path, cache: Path) -> Study:
    """Run a study in a folder, and measure its processes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"BHSEARCH_CACHE": str(cache), "MLFLOW_DISABLE_TELEMETRY": "true"}
    before, started = _children_seconds(), time.monotonic()
    output = folder / "output.txt"
    with output.open("w") as stream:
        process = psutil.Popen(
            [sys.executable, "-m", "bhsearch.run", *command], cwd=folder, env=environment, stdout=stream, stderr=stream
        )
    kinds: dict[int, str] = {}
    seconds: dict[int, float] = {}
    while process.poll() is None:
        for each in [process, *_children(process)]:
            try:
                kinds[each.pid] = kind_of(each.cmdline())  # at first that of its parent, before it starts a program
                times = each.cpu_times()
                seconds[each.pid] = times.user + times.system
            except psutil.Error:  # it ended meanwhile
                continue
        time.sleep(_POLL_SECONDS)
    wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"The study ended with {process.returncode}:\n{output.read_text()[-2000:]}")
    found = {ALL: _children_seconds() - before}
    for pid, spent in seconds.items():
        found[kinds[pid]] = found.get(kinds[pid], 0.0) + spent
    return Study(wall, found)


def _children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(cold: Sequence[Study], warm: Sequence[Study]) -> str:
    """Return the medians over rounds as a table."""
    lines = ["| seconds | cold | warm |", "| --- | ---: | ---: |"]

    def cells(name: str) -> str:
        return " | ".join(
            f"{statistics.median([one.processor.get(name, 0.0) for one in studies]):.1f}" for studies in (cold, warm)
        )

    walls = " | ".join(f"{statistics.median([one.wall for one in studies]):.1f}" for studies in (cold, warm))
    names = [kind for kind in (*PROCESSES.values(), OTHER) if any(kind in one.processor for one in (*cold, *warm))]
    lines += [f"| processor, {name} | {cells(name)} |" for name in names]
    return "\n".join([*lines, f"| processor, {ALL} | {cells(ALL)} |", f"| wall clock | {walls} |"])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="phantom:cases=40,images=4", help="(phantom:cases=40,images=4)")
    made.add_argument("--backbones", default="staintex-s,staintex-l", help="comma between (staintex-s,staintex-l)")
    made.add_argument("--weights-dir", type=Path, help="folder of ImageNet weights")
    made.add_argument("--trials", type=int, default=50, help="of each study (50)")
    made.add_argument("--image-size", type=int, default=96, help="side in pixels (96)")
    made.add_argument("--workers", type=int, default=1, help="(1)")
    made.add_argument("--rounds", type=int, default=3, help="each with a cold and a warm study (3)")
    return made


def main(arguments: Sequence[str] | None = None) -> tuple[list[Study], list[Study]]:
    """Print the table, and return the cold and the warm studies."""
    options = parser().parse_args(arguments)
    data = str(Path(options.data).resolve()) if Path(options.data).exists() else options.data
    command = ["--data", data, "--backbones", options.backbones, "--trials", str(options.trials)]
    command += ["--image-size", str(options.image_size), "--workers", str(options.workers)]
    if options.weights_dir is not None:
        command += ["--weights-dir", str(options.weights_dir.resolve())]
    cold: list[Study] = []
    warm: list[Study] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as parent:
            cache = Path(parent) / "cache"
            for studies in (cold, warm):
                folder = Path(parent) / f"study{len(cold)}{len(warm)}"
                folder.mkdir()
                studies.append(run(command, folder, cache))
    print(table(cold, warm))
    return cold, warm


if __name__ == "__main__":
    main()
