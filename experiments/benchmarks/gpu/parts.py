"""The parts of the GPU benchmark. Each runs in a process of its own and writes each result as soon as it has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.models import backend
from bhsearch.models.augmentation import device_transforms
from bhsearch.models.features import Cost, FeatureCache, batch_size
from bhsearch.models.training import hidden_heads
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import EVALS_PER_FOLD, FinetuneParams, FoldTask, train_fold
from bhsearch.models.training.heads import Moments
from bhsearch.objectives.base import IntermediateValue, Pruned
from bhsearch.objectives.finetune import FinetuneObjective
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import Parameter, default_batch_sizes, finetune_space, frozen_space, starting_point
from bhsearch.study.context import FINETUNE_PRUNER
from bhsearch.tasks.binary import BinaryTask
from experiments.benchmarks.gpu import networks
from experiments.benchmarks.gpu.bench import Bench
from experiments.benchmarks.gpu.compilation import compilation, compile_variant
from experiments.benchmarks.gpu.networks import MOST_BYTES, RandomBackbone, feature_speed, speed_of, training_of

N_TRIALS = 50  # of the studies that the figures are for
N_FOLDS = 5
_AT_ONCE = 4  # processes that compile: each needs memory of the device to try its kernels out


def device(bench: Bench) -> None:
    """The best matrix product and copy of this device."""
    dtype = bench.precision.removeprefix("mixed_")
    found = networks.measured_device(dtype, bench.options.side)
    bench.write(**asdict(found), backend=backend.name(), precision=bench.precision, dtype=dtype)


def _searched(names: Sequence[str], size: int) -> tuple[Parameter, ...]:
    """The space of fine-tuning that a study has on this device."""
    return finetune_space(names, (size,), batch_sizes=default_batch_sizes())


def prepare(bench: Bench) -> None:
    """Draw the images, and compile what the next parts need, all at once: each alone keeps one core busy."""
    _ = bench.pixels
    options = bench.options
    shapes = [(name, options.batch, "all") for name in options.backbones.split(",")]
    engine = _engine("finetune", _searched(options.finetune_backbones.split(","), options.image_size), EVALS_PER_FOLD)
    asked = [engine.ask().params for _ in range(0 if options.check else options.trials)]
    shapes += [(params["backbone"], params["batch"], params["depth"]) for params in asked]
    shapes += [
        (name, batch, "all") for name in options.profile_backbones.split(",") for batch in options.profile_batches
    ]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    shapes = list(dict.fromkeys(shapes))

    def compile_(shape: tuple[str, int, str]) -> int:
        return bench.run_within("compile", "--shape", *map(str, shape), environment=environment)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        bench.write(shapes=shapes, codes=list(pool.map(compile_, shapes)))


def compile_shape(bench: Bench) -> None:
    """Compile one network's features, a training step and a prediction."""
    name, batch, depth = bench.options.shape
    precision, size = bench.precision, bench.options.image_size
    (backbone,) = bench.backbones(name)
    feature_speed(backbone, bench.pixels, min(bench.pixels.shape[0], batch_size(size, backend.has_gpu())), "stain1")
    program, blank = training_of(backbone, size, int(batch), precision, depth)
    pixels = DevicePixels(bench.pixels, MOST_BYTES)
    *_, seconds = networks.training_speed(program, blank, pixels, bench.pixels.shape[0], EVALS_PER_FOLD * int(batch))
    bench.write(network=name, batch=int(batch), depth=depth, seconds=seconds)


def speeds(bench: Bench) -> None:
    """Images a second of each network, each in a process of its own for the sake of its peak memory."""
    for name in bench.options.backbones.split(","):
        code = bench.run_within("speed", "--network", name)
        if code:
            bench.write(network=name, error=f"exit code {code}")


def speed(bench: Bench) -> None:
    """Images a second of one network."""
    precision = bench.precision
    bench.part = "speeds"
    (backbone,) = bench.backbones(bench.options.network)
    found, work = speed_of(backbone, bench.pixels, bench.options.batch, bench.options.measured, precision)
    bench.write(network=backbone.name, speed=asdict(found), work=asdict(work))


class _Drawn(FeatureCache):
    """Features that are there already: drawn, as wide as the network's."""

    def get(self, backbone: Any, view: str) -> Any:
        key = (backbone, view)
        if key not in self._memory:
            random = np.random.default_rng(len(self._memory))
            width = networks.REGISTRY[backbone.name].n_features
            self._memory[key] = random.normal(size=(self._pixels.shape[0], width)).astype(np.float32)
        return self._memory[key]

    def cost(self, backbone: Any) -> Cost:  # noqa: ARG002
        """Return a fixed cost, since a measured one would compute the features."""
        return Cost(milliseconds=1.0, megabytes=10.0)


def frozen(bench: Bench) -> None:
    """Fifty frozen trials of four encoders whose features are there: heads on the processor, then on the device."""
    for platform in ("cpu", ""):
        code = bench.run_within("frozen-study", environment={"JAX_PLATFORMS": platform} if platform else {})
        if code:
            bench.write(error=f"exit code {code}", heads=platform or "device")


def frozen_study(bench: Bench) -> None:
    """Fifty frozen trials in this process."""
    bench.part = "frozen"
    backend.import_backend()
    backbones = bench.backbones(bench.options.frozen_backbones)
    by_name, rows = {each.name: each for each in backbones}, bench.rows(N_FOLDS)
    features = _Drawn(bench.pixels, "keras")
    objective = FrozenObjective(features, by_name, rows.label, rows.fold, rows.group, 0, task=BinaryTask())
    engine = _engine("frozen", frozen_space(tuple(by_name)), 1)
    started, seconds = time.perf_counter(), []
    for _ in range(bench.options.frozen_trials):
        trial = engine.ask()
        outcome = objective(trial.params)
        engine.complete(trial.number, outcome.score, outcome.seconds)
        seconds.append(round(outcome.seconds, 3))
    whole = time.perf_counter() - started
    where = "device" if backend.has_gpu() else "processor"
    bench.write(
        heads=where, n_trials=len(seconds), seconds=whole, median=float(np.median(seconds)), longest=max(seconds)
    )


def hidden(bench: Bench) -> None:
    """One hidden head of all folds on the device and on the processor: the first fit, and another one of that shape."""
    backend.import_backend()
    rows, n_images = bench.rows(N_FOLDS), bench.options.n_images
    random = np.random.default_rng(0)
    views = random.normal(size=(2, n_images, networks.REGISTRY["mobilenetv2-1.0"].n_features)).astype(np.float32)
    fold = rows.fold[0][:, None] == np.arange(N_FOLDS)
    weights = (~fold).astype(np.float64)
    n_held_out = int(fold.sum(axis=0).max())
    held_out = np.stack([np.resize(np.flatnonzero(column), n_held_out) for column in fold.T])
    moments = [Moments.of(view, weights) for view in views]
    for units in bench.options.hidden_units:
        for on_device in (True, False):
            seconds = []
            for penalty in (1.0, 10.0):
                began = time.perf_counter()
                given = views, rows.label, weights, held_out, moments, units, penalty, 0
                hidden_heads.fit(*given, loss=BinaryTask.loss, on_device=on_device)
                seconds.append(time.perf_counter() - began)
            bench.write(units=units, on_device=on_device, first=seconds[0], second=seconds[1])


def start(bench: Bench) -> None:
    """The first step of a network in this process. Run twice with one cache, it shows what that saves."""
    precision = bench.precision
    backbone = bench.backbones(bench.options.network or "mobilenetv2-1.0")[0]
    small = networks.noise(bench.folder, 64, bench.options.image_size)
    _, features, _ = feature_speed(backbone, small, 64, "identity")
    program, blank = training_of(backbone, bench.options.image_size, bench.options.batch, precision)
    _, _, seconds = networks.training_speed(program, blank, DevicePixels(small, MOST_BYTES), 64, 64)
    cached = sum(1 for _ in Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", os.devnull)).glob("*"))
    bench.write(network=backbone.name, features_seconds=features, training_seconds=seconds, cache_entries=cached)


def finetune(bench: Bench) -> None:
    """A finetune study, heads and compiling included, without MLflow."""
    options, precision = bench.options, bench.precision
    backbones = bench.backbones(options.finetune_backbones)
    by_name, rows, size = {each.name: each for each in backbones}, bench.rows(options.folds), options.image_size
    heads = frozen_space(tuple(by_name))
    frozen_heads = FrozenObjective(
        _Drawn(bench.pixels, "keras"), by_name, rows.label, rows.fold, rows.group, 0, task=BinaryTask()
    )
    objective = FinetuneObjective(
        {size: bench.pixels},
        lambda _: frozen_heads,
        lambda name: starting_point(heads, name),
        by_name,
        rows,
        0,
        precision,
        print,
        task=BinaryTask(),
    )
    space = _searched(tuple(by_name), size)
    if options.check:
        space = tuple(replace(row, high=2) if row.name == "epochs" else row for row in space)
    if options.finetune_shape:
        batch, depth = options.finetune_shape
        only = {"batch": (int(batch),), "depth": (depth,)}
        space = tuple(replace(row, choices=only.get(row.name, row.choices)) for row in space)
    engine = _engine("finetune", space, EVALS_PER_FOLD, FINETUNE_PRUNER)
    for _ in range(options.trials):
        trial = engine.ask()

        def watch(report: IntermediateValue, number: int = trial.number) -> None:
            if engine.report(number, report):
                raise Pruned

        started = time.perf_counter()
        facts = {name: trial.params[name] for name in ("backbone", "batch", "epochs", "depth", "tta")}
        try:
            outcome = objective(trial.params, watch)
        except Pruned as pruned:
            engine.prune(trial.number, pruned.seconds)
            bench.write(**facts, folds=options.folds, pruned=True, seconds=time.perf_counter() - started)
            continue
        engine.complete(trial.number, outcome.score, outcome.seconds)
        images = outcome.cost["trained_images"]
        bench.write(
            **facts, folds=options.folds, pruned=False, seconds=time.perf_counter() - started, trained_images=images
        )


def profile(bench: Bench) -> None:
    """Where the time of a training step goes: milliseconds of its pieces, each alone, and the effect of a remedy."""
    _ = bench.precision
    pixels = DevicePixels(bench.pixels, MOST_BYTES)
    for backbone in bench.backbones(bench.options.profile_backbones):
        for batch in bench.options.profile_batches:
            _profile(bench, pixels, backbone, batch)


def _profile(bench: Bench, pixels: DevicePixels, backbone: RandomBackbone, batch: int) -> None:
    from keras import ops

    size, rows = bench.options.image_size, np.arange(bench.pixels.shape[0])
    n_steps = max(bench.options.measured // batch, 2 * EVALS_PER_FOLD)
    task = FoldTask(rows, rows[:1], (rows % 2).astype(np.float32), np.ones(len(rows), np.float32), n_steps)
    params = networks.params_of(size, batch)
    program, blank = training_of(backbone, size, batch, bench.precision)

    def step_milliseconds(program: Any) -> float:
        train_fold(program, pixels, task, blank, params, (0,), lambda _: None)
        began = time.perf_counter()
        train_fold(program, pixels, task, blank, params, (0,), lambda _: None)
        return (time.perf_counter() - began) / task.steps * 1e3

    def seen(some: Any, at: Any, how: Any) -> Any:
        raw = ops.reshape(ops.cast(ops.take(some, at, axis=0), "float32"), (-1, size, size, 3))
        return device_transforms.augment(raw, how)

    whole = step_milliseconds(program)
    state = program.inference_state(program.initial_state(blank))
    images, places = pixels.of(rows[:batch].astype(np.int32)[None])
    drawn, still = (
        device_transforms.draw_augmentation(np.random.default_rng(0), batch, "all", 0.5, size),
        device_transforms.dihedral(0, batch, size),
    )
    see = backend.compiled(seen)
    bench.write(
        network=backbone.name,
        batch=batch,
        step_ms=whole,
        augment_ms=_milliseconds(lambda: see(images, places[0], drawn)),
        forward_ms=_milliseconds(lambda: program.predict(state, images, places[0], still)),
        fixed_ms=_plan_milliseconds(program, task, params),
    )
    if backend.name() == "jax":
        several, _ = training_of(backbone, size, batch, bench.precision)
        several.steps_per_call = 16
        bench.write(network=backbone.name, batch=batch, steps_per_call=16, step_ms=step_milliseconds(several))


def _plan_milliseconds(program: Any, task: FoldTask, params: FinetuneParams) -> float:
    """Host time that a step's share of drawing an epoch takes."""
    from bhsearch.models.training.finetune import _epoch_inputs

    began = time.perf_counter()
    for _ in _epoch_inputs(task, params, program, np.random.default_rng(0)):
        pass
    return (time.perf_counter() - began) / task.steps * 1e3


def _milliseconds(call: Callable[[], Any], n_times: int = 20) -> float:
    """Mean time of calls that the device may overlap, after one that compiles."""
    np.asarray(call()).sum()
    began = time.perf_counter()
    results = [call() for _ in range(n_times)]
    np.asarray(results[-1]).sum()
    return (time.perf_counter() - began) / n_times * 1e3


def command(bench: Bench) -> None:
    """The main command with `--regime auto` on the phantom, tracked, then registered."""
    options, folder = bench.options, bench.folder / "command"
    folder.mkdir(exist_ok=True)
    regime = "auto" if backend.gpu_files() else "frozen"
    run = ["--data", options.phantom, "--image-size", str(options.command_size), "--trials", str(options.trials)]
    few = ["--feature-backend", "keras", "-q"]
    steps = {
        "run": ["bhsearch.run", *run, "--regime", regime, "--finetune-trials", str(options.trials), *few],
        "register": ["bhsearch.register"],
    }
    for name, words in steps.items():
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, env=_environment()
        )
        said = (done.stdout + done.stderr).strip().splitlines()
        bench.write(step=name, code=done.returncode, seconds=time.perf_counter() - began, said=said[-12:])
        if done.returncode:
            return


def workers(bench: Bench) -> None:
    """Finetune trials a minute of one, two and four workers that share the device."""
    options = bench.options
    for k in options.workers:
        folder = bench.folder / f"workers-{k}"
        folder.mkdir(exist_ok=True)
        environment = _environment() | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / (k + 1):.2f}"}
        words = ["--data", options.phantom, "--regime", "finetune", "--backbones", "cnn", "--image-size"]
        words += [
            str(options.command_size),
            "--trials",
            str(options.worker_trials),
            "--workers",
            str(k),
            "--no-tracking",
        ]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "bhsearch.run", *words, "-q"],
            cwd=folder,
            capture_output=True,
            text=True,
            env=environment,
        )
        said = (done.stdout + done.stderr).strip().splitlines()
        times = _trial_times(folder)
        bench.write(workers=k, code=done.returncode, seconds=time.perf_counter() - began, times=times, said=said[-3:])


def _trial_times(folder: Path) -> list[list[float]]:
    """Start and end of each trial in seconds since the first start."""
    import optuna

    if not (folder / "optuna.db").exists():
        return []
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
    trials = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage).trials
    ended = [trial for trial in trials if trial.datetime_start and trial.datetime_complete]
    first = min(trial.datetime_start for trial in ended) if ended else None
    return [
        [round((when - first).total_seconds(), 2) for when in (trial.datetime_start, trial.datetime_complete)]
        for trial in ended
    ]


def _environment() -> dict[str, str]:
    return os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}


def _engine(name: str, space: Sequence[Any], steps: int, pruner: str = "none") -> OptunaEngine:
    from optuna.storages import InMemoryStorage

    return OptunaEngine(open_study(InMemoryStorage(), name, {}), tuple(space), "random", 0, pruner, steps)


# In the order that they run in, with the seconds that each may take on a GPU.
PARTS: dict[str, tuple[Callable[[Bench], None], int]] = {
    "device": (device, 40),
    "compilation": (compilation, 240),
    "prepare": (prepare, 200),
    "speeds": (speeds, 150),
    "frozen": (frozen, 90),
    "hidden": (hidden, 60),
    "start": (start, 60),
    "finetune": (finetune, 150),
    "command": (command, 120),
    "profile": (profile, 120),
    "workers": (workers, 120),
}
# What the parts above call in processes of their own.
WITHIN = {
    "compile": compile_shape,
    "speed": speed,
    "compile-variant": compile_variant,
    "frozen-study": frozen_study,
}
