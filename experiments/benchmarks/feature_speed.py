"""Seconds of frozen features on a CPU: decoding, resizing, conversion, views and inference, before and after a change.

    python experiments/benchmarks/feature_speed.py --data path/to/idc --weights-dir path/to/weights --before CHECKOUT

CHECKOUT is a folder with another version of the repository. Each round measures both versions in turn, each in a
process of its own with an empty cache. Beside the seconds of the wall stand those of the processors, which other work
on the machine stretches less. Without --before, only this version is measured.

The last table compares each encoder with what this machine can do: the fastest float32 matrix product of OpenVINO and
the copy of an array. Its bytes are the images and the outputs of convolutions, matrix products and poolings, written
and read once, as if none stayed in a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
ENCODERS = "mobilenet-0.25,mobilenet-0.75,mobilenetv2-0.35,staintex-l"
VIEWS = ("dihedral1", "stain1", "colour1", "zoom1")
AFTER, BEFORE = "this version", "before"
_REPEATS = 5  # of a measurement of the machine, of which the fastest counts


@dataclass
class Parts:
    """Wall-clock and processor seconds by part, and the number of images.

    Attributes:
        seconds: Pairs of wall-clock and processor seconds by part.
        n_images: Number of images.
        work: Operations and bytes of an image by encoder; empty if they are not known.
    """

    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    n_images: int = 0
    work: dict[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block."""
        before, started = _processor_seconds(), time.perf_counter()
        yield
        self.seconds[name] = (time.perf_counter() - started, _processor_seconds() - before)


def _processor_seconds() -> float:
    """Return the processor seconds of this process and of its processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured(options: argparse.Namespace) -> Parts:
    """Measure the parts in this process, with the version of bhsearch that it imports."""
    from bhsearch.data.images.decode import decode
    from bhsearch.data.images.pixel_cache import pixel_cache
    from bhsearch.data.open_data import open_data
    from bhsearch.models.backbones.registry import find_backbones
    from bhsearch.models.features import FeatureCache, on_host
    from bhsearch.models.openvino import BackgroundConversion
    from bhsearch.models.resize import make_resize

    found, size = Parts(), options.image_size
    dataset = open_data(options.data)
    chosen = np.zeros(len(dataset), bool)
    chosen[np.unique(np.linspace(0, len(dataset) - 1, min(options.images, len(dataset))).astype(int))] = True
    dataset = dataset.select(chosen)
    found.n_images, paths, resize = len(dataset), dataset.paths(), make_resize("crop", size)
    with found.part("decode"):
        images = [decode(path) for path in paths]
    with found.part("resize, first image (imports)"):
        resize.apply(images[0])
    with found.part("resize"):
        for image in images:
            resize.apply(image)
    with found.part("decode, resize, store, all threads"):
        pixels = pixel_cache(dataset, resize)
    with found.part("read"):
        for start in range(0, len(dataset), 16):
            pixels.read(start, start + 16)
    for view in VIEWS:
        with found.part(f"view {view}"):
            for start in range(0, len(dataset), 8):
                on_host(pixels.read(start, start + 8)[:, 0], view)
    backbones = find_backbones(options.backbones.split(","), options.weights_dir).backbones
    with found.part(f"convert {len(backbones)} networks"):
        conversion = BackgroundConversion(backbones, size)
        files = [conversion.program(backbone) for backbone in backbones]
    for backbone, file in zip(backbones, files, strict=True):
        features = FeatureCache(pixels, "openvino", conversion)
        with found.part(f"{backbone.name}, compile and tune"):
            features._network(backbone)
        for view in ("identity", "stain1"):
            with found.part(f"{backbone.name}, features of {view}"):
                features.get(backbone, view)
        batches = list(features._batches(backbone, "identity", _ignore))
        with found.part(f"{backbone.name}, inference alone"):
            features._network(backbone)[0](batches)
        if file is not None:
            found.work[backbone.name] = work_of(file)
    return found


def _ignore(_done: int, _total: int) -> None:
    """Report no progress."""


def work_of(file: Path) -> tuple[float, float]:
    """Return the operations and the bytes of one image; see the first lines of this file.

    Args:
        file: File of an OpenVINO model.
    """
    import openvino

    model = openvino.Core().read_model(file)
    model.reshape([1, *(dimension.get_length() for dimension in list(model.input(0).get_partial_shape())[1:])])
    operations = n_bytes = 0.0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        outputs = float(np.prod(node.get_output_shape(0)))
        if kind in ("Parameter", "Convolution", "GroupConvolution", "MatMul", "AvgPool", "MaxPool"):
            n_bytes += 8 * outputs
        if kind == "Convolution":
            operations += 2 * outputs * float(np.prod(node.get_input_shape(1)[1:]))
        elif kind == "GroupConvolution":
            operations += 2 * outputs * float(np.prod(node.get_input_shape(1)[2:]))
        elif kind == "MatMul":
            operations += 2 * outputs * float(node.get_input_shape(0)[-1])
    return operations, n_bytes


@dataclass(frozen=True)
class Machine:
    """What this machine can do.

    Attributes:
        float32: Operations a processor second of the fastest float32 matrix product.
        bfloat16: The same in bfloat16.
        copied: Bytes read and written a second by a copy of an array.
    """

    float32: float
    bfloat16: float
    copied: float


def machine(sides: Sequence[int] = (512, 1024)) -> Machine:
    """Measure the matrix products of some sizes, and the copy."""
    products = {precision: max(_product(side, precision) for side in sides) for precision in ("f32", "bf16")}
    source = np.ones(1 << 26, np.float32)
    target = np.empty_like(source)
    seconds = min(_timed(lambda: np.copyto(target, source), time.perf_counter) for _ in range(_REPEATS))
    return Machine(products["f32"], products["bf16"], 2 * source.nbytes / seconds)


def _product(side: int, precision: str) -> float:
    import openvino
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    left, right = (random.standard_normal((side, side)).astype(np.float32) for _ in range(2))
    entry = ops.parameter([side, side], np.float32)
    model = openvino.Model([ops.matmul(entry, ops.constant(right), False, False)], [entry])
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    request.infer({0: left})
    n_calls = max(1, (1 << 31) // side**3)

    def calls() -> None:
        for _ in range(n_calls):
            request.infer({0: left})

    return max(2 * side**3 * n_calls / _timed(calls, time.process_time) for _ in range(_REPEATS))


def _timed(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    call()
    return clock() - started


def child(options: argparse.Namespace, tree: Path) -> Parts:
    """Measure the parts with the version of bhsearch in a folder, in a process of its own with an empty cache."""
    words = ["--data", options.data, "--backbones", options.backbones, "--image-size", str(options.image_size)]
    words += ["--images", str(options.images), "--measure"]
    if options.weights_dir is not None:
        words += ["--weights-dir", str(options.weights_dir)]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPATH": str(tree), "BHSEARCH_CACHE": cache}
        command = [sys.executable, str(Path(__file__).resolve()), *words]
        done = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The measurement of {tree} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Parts({name: tuple(pair) for name, pair in found["seconds"].items()}, found["n_images"], found["work"])


def parts_table(rounds: dict[str, list[Parts]]) -> str:
    """Return the medians of the rounds as a table: milliseconds of wall and processors, and their ratios."""
    sides = [side for side in (BEFORE, AFTER) if side in rounds]
    names = list(rounds[AFTER][0].seconds)
    titles = [f"{side}, {kind}" for side in sides for kind in ("wall", "processors")]
    titles += ["ratio, wall", "ratio, processors"] if len(sides) == 2 else []
    lines = [f"| part | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    for name in names:
        fixed = any(word in name for word in ("first image", "convert", "compile"))
        unit = 1.0 if fixed else 1000.0 / rounds[AFTER][0].n_images
        cells = [
            f"{unit * statistics.median([one.seconds[name][k] for one in rounds[side]]):.{2 if fixed else 3}f}"
            for side in sides
            for k in (0, 1)
        ]
        if len(sides) == 2:
            cells += [f"{statistics.median(ratios(rounds, name, k)):.2f}" for k in (0, 1)]
        lines.append(f"| {name}{' (s)' if fixed else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(rounds: dict[str, list[Parts]], name: str, kind: int) -> list[float]:
    """Return how many times more seconds a part took before, by round; `kind` is 0 for wall and 1 for processors."""
    pairs = zip(rounds[BEFORE], rounds[AFTER], strict=True)
    return [one.seconds[name][kind] / max(other.seconds[name][kind], 1e-9) for one, other in pairs]


def shares_table(found: Sequence[Parts], able: Machine) -> str:
    """Return each encoder's share of the machine's peak and bandwidth, for inference alone."""
    lines = [
        f"A core multiplies matrices at {able.float32 / 1e9:.0f} GFLOP/s in float32 and {able.bfloat16 / 1e9:.0f} in "
        f"bfloat16, and copies at {able.copied / 1e9:.0f} GB/s.\n",
        "| encoder | MFLOP an image | images a core second | GFLOP/s | share of the peak | share of the copy |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, (operations, n_bytes) in found[0].work.items():
        seconds = statistics.median([one.seconds[f"{name}, inference alone"][1] / one.n_images for one in found])
        lines.append(
            f"| {name} | {operations / 1e6:.0f} | {1 / seconds:.0f} | {operations / seconds / 1e9:.0f} | "
            f"{operations / seconds / able.float32:.0%} | {n_bytes / seconds / able.copied:.0%} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="phantom:cases=40,images=4", help="(phantom:cases=40,images=4)")
    made.add_argument("--backbones", default=ENCODERS, help=f"comma between ({ENCODERS})")
    made.add_argument("--weights-dir", type=Path, help="folder of ImageNet weights")
    made.add_argument("--image-size", type=int, default=224, help="side in pixels (224)")
    made.add_argument("--images", type=int, default=512, help="at most, from all over the data (512)")
    made.add_argument("--rounds", type=int, default=3, help="(3)")
    made.add_argument("--before", type=Path, help="folder with another version of the repository")
    made.add_argument("--measure", action="store_true", help="measure in this process, and print JSON")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Parts]]:
    """Print the tables, and return the measurements by version."""
    options = parser().parse_args(arguments)
    if Path(options.data).exists():
        options.data = str(Path(options.data).resolve())
    options.weights_dir = options.weights_dir.resolve() if options.weights_dir else None
    if options.measure:
        found = measured(options)
        print(json.dumps({"seconds": found.seconds, "n_images": found.n_images, "work": found.work}))
        return {AFTER: [found]}
    trees = ({BEFORE: options.before.resolve()} if options.before else {}) | {AFTER: ROOT}
    rounds: dict[str, list[Parts]] = {side: [] for side in trees}
    for _ in range(options.rounds):
        for side, tree in trees.items():
            rounds[side].append(child(options, tree))
    print(f"{rounds[AFTER][0].n_images} images of {options.image_size} px; milliseconds an image\n")
    print(parts_table(rounds), "\n")
    print(shares_table(rounds[AFTER], machine()))
    return rounds


if __name__ == "__main__":
    main()
