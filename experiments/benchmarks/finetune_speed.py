"""What finetuning costs beside its own arithmetic: compiling, a trial's fixed cost, and feeding images to the device.

First table: a fresh network with its first step, against everything of a second trial of the same shape but its steps
and its passes over held-out rows. That trial is a real one, by the objective of `bhsearch.run`, of three folds; its
compiled step is exchanged for one that only takes its arrays to the device, so that what is left is the fixed cost.

Second table: seconds of an epoch. `bare loop` calls the compiled step again and again on random pixels with a plan that
lies ready; `train_fold` is what a trial does, its looks at a batch of held-out rows and its start and end included;
`keras` is `keras.utils.image_dataset_from_directory` and `model.fit` of the same network from the PNG files, `cached`
the same with decoded images kept in memory. All of it in turn, round by round; the first epoch of a `fit` is left out.
Beside the seconds of the wall stand those of the processors, which other work on the machine does not stretch. The
second pair of rows of each network augments: ours by the policy `all`, Keras by its own random layers.

    python experiments/benchmarks/finetune_speed.py --data phantom --weights-dir path/to/weights
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.dataset import CLASS_NAMES, Dataset
from bhsearch.data.images.pixel_cache import PixelCache, pixel_cache
from bhsearch.data.open_data import open_data
from bhsearch.errors import BhsearchError, DataError
from bhsearch.models import backend
from bhsearch.models.augmentation import device_transforms
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.resize import make_resize
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import FoldTask, train_fold
from bhsearch.models.training.optimizers import bias_corrections, learning_rates
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights, StepInputs, TrainerSpec
from bhsearch.objectives.finetune import DevelopmentRows, FinetuneObjective, finetune_params
from bhsearch.objectives.space import finetune_space, starting_point
from bhsearch.tasks.binary import BinaryTask

FOLDS = 3
MOST_BYTES = 1 << 30  # of pixels on the device
POLICIES = ("none", "all")


Seconds = np.ndarray  # of the wall, and of processors


def clock() -> Seconds:
    """Both now. On a machine that does other things, too, the second says more."""
    return np.array([time.perf_counter(), time.process_time()])


@dataclass(frozen=True, eq=False)
class Bench:
    """What is measured on.

    Attributes:
        index: As many images as fill whole batches, and one batch more, which is held out.
        pixels: The same images, resized.
        batch: Images in a step.
        epochs: Of a training.
    """

    index: Dataset
    pixels: PixelCache
    batch: int
    epochs: int

    @property
    def n_training(self) -> int:
        """Images that are trained on."""
        return len(self.index) - self.batch

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.n_training // self.batch

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return int(self.pixels.shape[2])

    def task(self) -> FoldTask:
        """The fold: the last batch is held out."""
        rows = np.arange(len(self.index))
        ones = np.ones(len(rows), np.float32)
        target = self.index.labels.astype(np.float32)
        return FoldTask(rows[: self.n_training], rows[self.n_training :], target, ones, self.steps)


def bench_of(options: argparse.Namespace) -> Bench:
    """Open the data, and take as many images as are asked for, from all over the index."""
    index = open_data(options.data)
    wanted = options.images // options.batch * options.batch + options.batch
    if wanted > len(index) or options.images < options.batch:
        raise DataError(
            f"--images and a batch more must be in the data, and one batch at least, but got {options.images} images "
            f"and batches of {options.batch}, with {len(index)} images in {options.data}."
        )
    chosen = np.zeros(len(index), bool)
    chosen[np.linspace(0, len(index) - 1, wanted).astype(int)] = True
    index = index.select(chosen)
    return Bench(index, pixel_cache(index, make_resize("squash", options.image_size)), options.batch, options.epochs)


def blank_head(program: CompiledTrainer) -> list[Any]:
    """A linear head of zeros."""
    head = [np.zeros((program.n_features, 1), np.float32), np.zeros(1, np.float32)]
    return [*head, np.ones(1, np.float32), np.zeros((), np.float32)]


def start_of(program: CompiledTrainer) -> ModelWeights:
    return ModelWeights(program.initial_weights(np.random.default_rng(0)), blank_head(program))


# -- the fixed cost of a trial ----------------------------------------------------------------------------------------


def fresh_seconds(shape: TrainerSpec, bench: Bench) -> Seconds:
    """Build and compile a network, and do its first step."""
    started = clock()
    program = CompiledTrainer(shape)
    state, facts, images, plan = ready(program, bench, "none", 1)
    _, loss = program.run(state, facts, images, plan)
    float(np.asarray(loss))
    return clock() - started


def fixed_seconds(shape: TrainerSpec, bench: Bench) -> Seconds:
    """Everything of the second trial of a shape but its steps and the passes over held-out rows."""
    n = len(bench.index)
    rows = DevelopmentRows(bench.index.labels, (np.arange(n) % FOLDS).astype(np.int8)[None], np.arange(n))
    objective = FinetuneObjective(
        {bench.size: bench.pixels},
        _no_frozen,
        dict,
        {shape.backbone.name: shape.backbone},
        rows,
        0,
        shape.precision,
        print,
        task=BinaryTask(),
    )
    objective._started[shape.backbone.name, bench.size] = None  # heads of zeros: frozen ones belong to the first trial
    point = starting_point(finetune_space((shape.backbone.name,), (bench.size,)), shape.backbone.name)
    point |= {"batch": shape.batch, "depth": shape.depth, "epochs": bench.epochs}
    with objective._pool.program(shape) as program:
        pass
    with without_steps(program):
        objective(point, _ignore)
        started = clock()
        objective(point, _ignore)
        return clock() - started


@contextmanager
def without_steps(program: CompiledTrainer) -> Iterator[None]:
    """In the block a program takes the arrays of its steps to the device, as ever, and computes nothing."""
    kept = program._run, program._predict
    program._run = backend.compiled(lambda moved, _below, _facts, _images, plan, _n_steps: (moved, plan[-2][0]))
    program._predict = lambda *arrays: np.zeros(len(arrays[4]), np.float32)
    try:
        yield
    finally:
        program._run, program._predict = kept


def _no_frozen(size: int) -> Any:
    raise AssertionError(f"nothing is computed at {size} px")


def _ignore(_: Any) -> None:
    """Of reports and looks."""


# -- epochs -----------------------------------------------------------------------------------------------------------


def ready(program: CompiledTrainer, bench: Bench, policy: str, steps: int) -> tuple[Any, Any, Any, StepInputs]:
    """State, facts, random pixels and a plan of some steps, all on the device."""
    from keras import ops

    random = np.random.default_rng(0)
    shape = (steps, bench.batch)
    task = bench.task()
    rows = random.integers(0, bench.n_training, shape).astype(np.int32)
    arrays = {
        "rows": rows,
        "positions": rows,
        "augmentation_params": device_transforms.draw_augmentation(
            random, steps * bench.batch, policy, 0.5, bench.size
        ).reshape(*shape, -1),
        "mixup_lambda": np.ones(shape, np.float32),
        "dropout_mask": np.ones((*shape, program.n_features), np.uint8),
        "dropout_scale": np.ones(steps, np.float32),
        "learning_rates": learning_rates(3e-4, "constant", steps),
        "bias_corrections": bias_corrections(np.arange(steps)),
    }
    plan = StepInputs(**{name: ops.convert_to_tensor(array) for name, array in arrays.items()})
    images = random.integers(0, 256, (len(bench.index), bench.size, bench.size, 3), np.uint8)
    facts = program.step_constants(task.target, task.weight, "adamw", 1.0, 0.01)
    return program.initial_state(start_of(program)), facts, ops.convert_to_tensor(images), plan


def bare_loop(program: CompiledTrainer, bench: Bench, policy: str) -> Callable[[], Seconds]:
    """Seconds of an epoch of nothing but compiled steps."""
    at_once = min(bench.steps, program.steps_per_call)
    state, facts, images, plan = ready(program, bench, policy, at_once)

    def measure() -> Seconds:
        nonlocal state
        started = clock()
        for _ in range(bench.epochs * (bench.steps // at_once)):
            state, loss = program.run(state, facts, images, plan)
        float(np.asarray(loss))
        return (clock() - started) / bench.epochs

    return measure


def our_epoch(program: CompiledTrainer, bench: Bench, policy: str) -> Callable[[], Seconds]:
    """Seconds of an epoch of `train_fold`: of the whole call, by its epochs."""
    pixels, task, start = DevicePixels(bench.pixels, MOST_BYTES), bench.task(), start_of(program)
    point = starting_point(finetune_space(("",), (bench.size,)), "")
    chosen = {"batch": bench.batch, "epochs": bench.epochs, "policy": policy, "layer_decay": 1.0}
    params = finetune_params(point | chosen)

    def measure() -> Seconds:
        started = clock()
        train_fold(program, pixels, task, start, params, (0,), _ignore)
        return (clock() - started) / bench.epochs

    return measure


def keras_epoch(backbone: Backbone, bench: Bench, folder: Path, augmented: bool, cached: bool) -> Callable[[], Seconds]:
    """Seconds of a steady epoch of `fit` from the files."""
    import keras
    from keras import layers

    dataset = keras.utils.image_dataset_from_directory(
        folder, label_mode="binary", image_size=(bench.size, bench.size), batch_size=bench.batch, seed=0, verbose=False
    )
    if cached:
        dataset = dataset.cache()
    if augmented:
        changes = keras.Sequential(
            [
                layers.RandomFlip(),
                layers.RandomRotation(0.25),
                layers.RandomZoom(0.2),
                layers.RandomBrightness(0.15),
                layers.RandomContrast(0.2),
            ]
        )
        dataset = dataset.map(lambda images, labels: (changes(images, training=True), labels), num_parallel_calls=-1)
    dataset = dataset.prefetch(-1)
    network = backbone.build(bench.size)
    for layer in network.layers:  # `network.trainable = True` would pass nothing on to the layers of its own network
        layer.trainable = True
    images = keras.Input((bench.size, bench.size, 3))
    features = network(images, training=None if backbone.from_scratch else False)  # as ours: ImageNet's moments stay
    model = keras.Model(images, layers.Dense(1, activation="sigmoid")(features))
    model.compile(keras.optimizers.AdamW(3e-4, weight_decay=0.01, clipnorm=1.0), "binary_crossentropy")
    ends: list[Seconds] = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(clock()))
    model.fit(dataset, epochs=1, verbose=0, shuffle=False)  # compiles

    def measure() -> Seconds:
        ends.clear()
        model.fit(dataset, epochs=bench.epochs, verbose=0, shuffle=False, callbacks=[watch])
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    return measure


def class_folders(bench: Bench, folder: Path) -> Path:
    """The training images as Keras wants them, by links to the files."""
    for row, (path, label) in enumerate(zip(bench.index.paths(), bench.index.labels, strict=True)):
        place = folder / CLASS_NAMES[label]
        place.mkdir(exist_ok=True)
        if row < bench.n_training:
            (place / f"{row}{path.suffix}").symlink_to(path.resolve())
    return folder


def epochs_of(backbone: Backbone, bench: Bench, folder: Path, rounds: int) -> Iterator[str]:
    """Rows of the second table, the rounds of all kinds of one network in turn."""
    program = CompiledTrainer(shape_of(backbone, bench))
    for policy in POLICIES:
        augmented = policy != "none"
        kinds = {
            "bare": bare_loop(program, bench, policy),
            "ours": our_epoch(program, bench, policy),
            "keras": keras_epoch(backbone, bench, folder, augmented, cached=False),
            "cached": keras_epoch(backbone, bench, folder, augmented, cached=True),
        }
        for measure in kinds.values():
            measure()
        seconds: dict[str, list[Seconds]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            order = list(kinds) if number % 2 == 0 else list(kinds)[::-1]
            for kind in order:
                seconds[kind].append(kinds[kind]())
        yield epoch_rows(backbone.name, policy, seconds)


def shape_of(backbone: Backbone, bench: Bench) -> TrainerSpec:
    return TrainerSpec(backbone, bench.size, bench.batch, "all", 0, loss=BinaryTask.loss)


# -- tables -----------------------------------------------------------------------------------------------------------

KINDS = ("wall", "processors")
FIXED_HEAD = (
    "| network | seconds of | fresh network and first step | second trial but its steps | times smaller |\n"
    "| --- | --- | --- | --- | --- |"
)
EPOCH_HEAD = (
    "| network | augmentation | seconds of | bare loop | train_fold | over bare | keras | times faster | cached "
    "| times faster |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def fixed_rows(name: str, fresh: Sequence[Seconds], fixed: Sequence[Seconds]) -> str:
    """Medians over rounds, and the median of the rounds' ratios."""
    return "\n".join(
        f"| {name} | {kind} | {middle(fresh, which):.2f} | {middle(fixed, which):.3f} "
        f"| {ratio(fresh, fixed, which):.0f} |"
        for which, kind in enumerate(KINDS)
    )


def epoch_rows(name: str, policy: str, seconds: dict[str, list[Seconds]]) -> str:
    """Medians over rounds; each ratio is the median of the rounds' own, since a machine is slower in some of them."""
    rows = []
    for which, kind in enumerate(KINDS):
        cells = [name, policy, kind, *(f"{middle(seconds[part], which):.3f}" for part in ("bare", "ours"))]
        cells.append(f"{ratio(seconds['ours'], seconds['bare'], which) - 1:+.1%}")
        for part in ("keras", "cached"):
            cells += [f"{middle(seconds[part], which):.3f}", f"{ratio(seconds[part], seconds['ours'], which):.1f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def middle(seconds: Sequence[Seconds], which: int) -> float:
    return statistics.median(float(each[which]) for each in seconds)


def ratio(above: Sequence[Seconds], below: Sequence[Seconds], which: int) -> float:
    return statistics.median(float(a[which] / b[which]) for a, b in zip(above, below, strict=True))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="phantom", help="as for bhsearch.run (phantom)")
    made.add_argument("--weights-dir", type=Path, help="folder of Keras weight files")
    made.add_argument("--backbones", default="cnn,mobilenet-0.25", help="comma between (cnn,mobilenet-0.25)")
    made.add_argument("--image-size", type=int, default=64, help="side in pixels (64)")
    made.add_argument("--batch", type=int, default=16, help="images in a step (16)")
    made.add_argument("--images", type=int, default=192, help="to train on (192)")
    made.add_argument("--epochs", type=int, default=6, help="of a training (6)")
    made.add_argument("--rounds", type=int, default=5, help="times that everything is measured (5)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        backend.import_backend()
        bench = bench_of(options)
        backbones = find_backbones(options.backbones.split(","), options.weights_dir, trainable=True).backbones
        print(f"{bench.n_training} images of {bench.size} px, batches of {bench.batch}, {options.rounds} rounds\n")
        print(FIXED_HEAD, flush=True)
        for backbone in backbones:
            shape = shape_of(backbone, bench)
            fresh_seconds(shape, bench)  # the framework's own first time is not the network's
            fresh = [fresh_seconds(shape, bench) for _ in range(options.rounds)]
            fixed = [fixed_seconds(shape, bench) for _ in range(options.rounds)]
            print(fixed_rows(backbone.name, fresh, fixed), flush=True)
        print(f"\n{EPOCH_HEAD}", flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = class_folders(bench, Path(name))
            for backbone in backbones:
                for row in epochs_of(backbone, bench, folder, options.rounds):
                    print(row, flush=True)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"\n{os.cpu_count()} cores, load at the end {load:.1f}")


if __name__ == "__main__":
    main()
