"""What a GPU makes of the networks: images a second for features and for finetuning, and the time of a whole study.

All weights here are RANDOM: speed does not depend on them, and nothing that is computed with them means anything. The
images are noise, 7,909 of them as in BreakHis, in 82 cases.

`features` runs a network as the frozen regime does on a GPU, `finetune` trains all of its layers as the finetune regime
does, with pixels that stay on the device. `peak` is the share of the best matrix product that this device was seen to
do in the same precision, `bandwidth` that of the best copy; both are lower bounds, as the work is counted from the
layers: two operations for a weight and output, and every output of a layer with weights, sum or concatenation written
and read once; a training step three times that.

    KERAS_BACKEND=jax python experiments/benchmarks/gpu.py --data noise:7909 --trials 10
    python experiments/benchmarks/gpu.py --data noise:7909 --check

`--check` runs everything with tiny settings, on a processor in a minute, to see that it runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.pixels import PixelCache
from bhsearch.errors import BhsearchError, DataError
from bhsearch.networks import backend
from bhsearch.networks.backbones import REGISTRY, Backbone, scale
from bhsearch.networks.features import FeatureCache, batch_size, keras_forward
from bhsearch.networks.finetune import N_SHARES, FoldTask, train_fold
from bhsearch.networks.pixels_on_device import DevicePixels
from bhsearch.networks.program import Member, Program, Shape
from bhsearch.search.engine import Pruned, Report
from bhsearch.search.finetune_objective import FinetuneObjective, Rows, finetune_params
from bhsearch.search.objective import FrozenObjective
from bhsearch.search.optuna_engine import OptunaEngine, open_study
from bhsearch.search.preparation import FINETUNE_PRUNER
from bhsearch.search.space import finetune_space, frozen_space, starting_point

BACKBONES = "mobilenetv2-1.0,efficientnetb0,densenet121,resnet50v2"
N_CASES = 82
CHECK = {
    "backbones": "mobilenet-0.25",
    "image_size": 32,
    "batch": 8,
    "measured": 16,
    "trials": 1,
    "folds": 2,
    "side": 256,
}
CHECK_IMAGES, CHECK_EPOCHS = 48, 2
TRAINING = 3  # passes that a training step is worth: forward, and backward by data and by weights
MOST_BYTES = 4 << 30  # of pixels on the device
BLOCK_ROWS = 256  # images that are drawn at once


class RandomBackbone(Backbone):
    """An architecture of the registry with random weights, the same at each building."""

    def build(self, size: int) -> Any:
        """See `Backbone.build`."""
        import keras

        keras.utils.set_random_seed(0)
        facts = REGISTRY[self.name]
        options = {} if facts.alpha is None else {"alpha": facts.alpha}
        network = getattr(keras.applications, facts.builder)(
            include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg", **options
        )
        network.trainable = False
        images = keras.Input((size, size, 3), dtype="float32")
        return keras.Model(images, network(scale(images, facts.scaling)), name=facts.name.replace(".", "_"))


@dataclass(frozen=True)
class Work:
    """What one image costs, counted from the layers.

    Attributes:
        operations: Of a forward pass, a multiplication and an addition being two.
        values: That layers with weights, sums and concatenations give out.
    """

    operations: float
    values: float


@dataclass(frozen=True)
class Device:
    """The best that was seen of it.

    Attributes:
        name: As the driver calls it.
        operations: Of a matrix product, a second.
        bytes: Of a copy, a second, read and written.
    """

    name: str
    operations: float
    bytes: float


@dataclass(frozen=True)
class Speed:
    """Of one network.

    Attributes:
        features: Images a second.
        finetune: Images a second.
        compile_seconds: To the end of the first step.
        peak_mb: Memory of the device; None without a GPU.
    """

    features: float
    finetune: float
    compile_seconds: float
    peak_mb: float | None


# -- counting ---------------------------------------------------------------------------------------------------------


def work_of(network: Any) -> Work:
    """Count the operations and outputs of an image."""
    operations, values = 0.0, 0.0
    for layer in network._flatten_layers(include_self=False):
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            places = int(np.prod(layer.output.shape[1:-1]))  # where the kernel is applied; 1 for a dense layer
            operations += 2.0 * places * int(np.prod(kernel.shape))
        if kernel is not None or type(layer).__name__ in ("Add", "Concatenate"):
            values += float(np.prod(layer.output.shape[1:]))
    return Work(operations, values)


def shares(speed: float, passes: int, work: Work, device: Device, value_bytes: int) -> tuple[float, float]:
    """Share of the peak and of the bandwidth at a speed in images a second."""
    return (
        speed * passes * work.operations / device.operations,
        speed * passes * work.values * 2 * value_bytes / device.bytes,
    )


def table(rows: Sequence[tuple[str, Speed, Work]], device: Device, value_bytes: int) -> str:
    """The Markdown table; `value_bytes` are those of an activation in training, features being float32."""
    lines = [
        "| network (random weights) | features, images/s | peak | bandwidth | finetune, images/s | peak | bandwidth "
        "| compile, s | memory, GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, speed, work in rows:
        cells = [name]
        for per_second, passes, n_bytes in ((speed.features, 1, 4), (speed.finetune, TRAINING, value_bytes)):
            peak, bandwidth = shares(per_second, passes, work, device, n_bytes)
            cells += [f"{per_second:,.0f}", f"{peak:.1%}", f"{bandwidth:.1%}"]
        memory = "" if speed.peak_mb is None else f"{speed.peak_mb / 1000:.1f}"
        lines.append(f"| {' | '.join([*cells, f'{speed.compile_seconds:.1f}', memory])} |")
    return "\n".join(lines)


# -- the device -------------------------------------------------------------------------------------------------------


def device_name() -> str:
    """As the driver calls it, or the processor."""
    if backend.has_gpu() and shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip().replace("\n", ", ")
    return f"no GPU, {os.cpu_count()} cores of {platform.processor() or platform.machine()}"


def measured_device(dtype: str, side: int) -> Device:
    """Time matrix products and copies of squares, many in a call, so that calling costs nothing."""
    from keras import ops

    square = np.random.default_rng(0).normal(0, side**-0.5, (side, side)).astype(np.float32)
    n_times = 20

    def products(first: Any) -> Any:
        start = ops.cast(first, dtype)
        return ops.cast(ops.fori_loop(0, n_times, lambda _, x: ops.matmul(x, start), start), "float32")[0, 0]

    def copies(first: Any) -> Any:
        return ops.fori_loop(0, n_times, lambda _, x: x + 1.0, first)[0, 0]

    operations = n_times * 2.0 * side**3 / best_seconds(products, square)
    moved = n_times * 2.0 * square.nbytes / best_seconds(copies, square)
    return Device(device_name(), operations, moved)


def best_seconds(function: Callable[[Any], Any], argument: Any) -> float:
    """The shortest of some calls, after one that compiles."""
    from keras import ops

    program, there = backend.compiled(function), ops.convert_to_tensor(argument)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        np.asarray(program(there))
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


# -- networks ---------------------------------------------------------------------------------------------------------


def noise(folder: Path, n_images: int, size: int) -> PixelCache:
    """Images of noise, one file of them as the pixel cache has it."""
    file, random = folder / f"noise-{size}.u8", np.random.default_rng(0)
    with file.open("wb") as stream:
        for first in range(0, n_images, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, n_images - first)
            stream.write(random.integers(0, 256, (rows, size, size, 3), np.uint8).tobytes())
    return PixelCache(f"noise-{n_images}-{size}", file, (n_images, 1, size, size, 3))


def speed_of(backbone: Backbone, pixels: PixelCache, options: argparse.Namespace, precision: str) -> tuple[Speed, Work]:
    """Features and finetuning of one network, the second time of each."""
    n_images, size = min(options.measured, pixels.shape[0]), pixels.shape[2]
    network = backbone.build(size)
    forward, step = keras_forward(network), min(batch_size(size), n_images)
    images = pixels.read(0, n_images)[:, 0].astype(np.float32)
    batches = [images[first : first + step] for first in range(0, n_images // step * step, step)]
    forward(batches[:1])
    started = time.perf_counter()
    forward(batches)
    features = len(batches) * step / (time.perf_counter() - started)

    batch, on_device = options.batch, DevicePixels(pixels, MOST_BYTES)
    rows = np.arange(pixels.shape[0])
    steps = max(n_images // batch, N_SHARES)
    target, weight = (rows % 2).astype(np.float32), np.ones(len(rows), np.float32)
    one, all_ = (FoldTask(rows, rows[:batch], target, weight, n) for n in (N_SHARES, steps))
    point = starting_point(finetune_space(("",), (size,)), "")
    params = finetune_params(point | {"batch": batch, "epochs": 1, "policy": "all", "layer_decay": 1.0})
    started = time.perf_counter()
    program = Program(Shape(backbone, size, batch, "all", 0, precision))
    start = Member(program.origin(np.random.default_rng(0)), _blank_head(program.n_features))
    train_fold(program, on_device, one, start, params, (0,), _ignore)
    compile_seconds = time.perf_counter() - started
    started = time.perf_counter()
    train_fold(program, on_device, all_, start, params, (0,), _ignore)
    finetune = steps * batch / (time.perf_counter() - started)
    peak = backend.peak_memory_bytes()
    return Speed(features, finetune, compile_seconds, None if peak is None else peak / 1e6), work_of(network)


def _blank_head(n_features: int) -> list[Any]:
    head = [np.zeros((n_features, 1), np.float32), np.zeros(1, np.float32)]
    return [*head, np.ones(1, np.float32), np.zeros((), np.float32)]


def _ignore(_: Any) -> None:
    """Of looks."""


# -- a study ----------------------------------------------------------------------------------------------------------


def study(backbones: Sequence[Backbone], pixels: PixelCache, options: argparse.Namespace, precision: str) -> str:
    """Run a finetune study on the noise, without MLflow; its time and its trials in a sentence."""
    n_images, size = pixels.shape[0], pixels.shape[2]
    case = np.arange(n_images) * N_CASES // n_images
    label, fold = (case % 3 > 0).astype(np.int8), (case // 3 % options.folds).astype(np.int8)[None]
    by_name = {backbone.name: backbone for backbone in backbones}
    frozen = FrozenObjective(FeatureCache(pixels, "keras"), by_name, label, fold, case, 0)
    heads = frozen_space(tuple(by_name))
    objective = FinetuneObjective(
        {size: pixels},
        lambda _: frozen,
        lambda name: starting_point(heads, name),
        by_name,
        Rows(label, fold, case),
        0,
        precision,
        print,
    )
    space = finetune_space(tuple(by_name), (size,))
    if options.check:
        space = tuple(replace(row, high=CHECK_EPOCHS) if row.name == "epochs" else row for row in space)
    from optuna.storages import InMemoryStorage

    engine = OptunaEngine(open_study(InMemoryStorage(), "gpu", {}), space, "random", 0, FINETUNE_PRUNER, N_SHARES)
    started, n_pruned, trained = time.perf_counter(), 0, 0.0
    for _ in range(options.trials):
        trial = engine.ask()

        def watch(report: Report, number: int = trial.number) -> None:
            if engine.report(number, report):
                raise Pruned

        try:
            outcome = objective(trial.params, watch)
        except Pruned as pruned:
            engine.prune(trial.number, pruned.seconds)
            n_pruned += 1
            continue
        engine.complete(trial.number, outcome.score, outcome.seconds)
        trained += outcome.cost["trained_images"]
    return (
        f"A study of {options.trials} trials ({n_pruned} pruned by {FINETUNE_PRUNER}), {options.folds} folds, "
        f"{n_images:,} images of {size} px, heads and compiling included, without MLflow: "
        f"{time.perf_counter() - started:.0f} s; {trained:,.0f} images trained on in whole trials."
    )


# -- the command ------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="noise:7909", help="noise:N, so many images (noise:7909)")
    made.add_argument("--backbones", default=BACKBONES, help=f"comma between ({BACKBONES})")
    made.add_argument("--image-size", type=int, default=224, help="side in pixels (224)")
    made.add_argument("--batch", type=int, default=32, help="images in a step of finetuning, for the table (32)")
    made.add_argument("--precision", default="auto", help="as for bhsearch.run (auto)")
    made.add_argument("--measured", type=int, default=2048, help="images that a speed is measured on (2048)")
    made.add_argument("--side", type=int, default=8192, help="of the squares that the device is measured with (8192)")
    made.add_argument("--trials", type=int, default=10, help="of the study; 0 for none (10)")
    made.add_argument("--folds", type=int, default=5, help="of the study (5)")
    made.add_argument("--check", action="store_true", help="tiny settings, to see that it runs")
    return made


def images_of(data: str) -> int:
    """How many images `noise:N` says.

    Raises:
        DataError: If it says something else.
    """
    kind, _, number = data.partition(":")
    if kind != "noise" or not number.isdigit() or int(number) < 1:
        raise DataError(f"--data must be noise:N with a number of images, but got {data!r}.")
    return int(number)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        n_images = images_of(options.data)
        if options.check:
            vars(options).update(CHECK)
            n_images = min(n_images, CHECK_IMAGES)
        unknown = [name for name in options.backbones.split(",") if name not in REGISTRY]
        if unknown:
            raise DataError(f"--backbones must be of {', '.join(REGISTRY)}, but got {', '.join(unknown)}.")
        backend.start()
        precision = backend.precision(options.precision)
        dtype = precision.removeprefix("mixed_")
        backbones = [RandomBackbone(name, None, "random-0") for name in options.backbones.split(",")]
        device = measured_device(dtype, options.side)
        print(
            f"{device.name}; {backend.name()}, {precision}; best matrix product {device.operations / 1e12:.2f} TFLOP/s "
            f"in {dtype}, best copy {device.bytes / 1e9:.0f} GB/s; {options.image_size} px, batches of "
            f"{options.batch}\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            pixels = noise(Path(folder), n_images, options.image_size)
            rows = [(each.name, *speed_of(each, pixels, options, precision)) for each in backbones]
            print(table(rows, device, 4 if precision == "float32" else 2), flush=True)
            if options.trials:
                print(f"\n{study(backbones, pixels, options, precision)}")
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
