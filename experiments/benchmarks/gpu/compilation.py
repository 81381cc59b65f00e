"""What compiling a training step costs, under several flags of XLA, and what a fold costs outside its steps."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import numpy as np

from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import EVALS_PER_FOLD, FoldTask, train_fold
from experiments.benchmarks.gpu import networks
from experiments.benchmarks.gpu.bench import Bench

# Flags of XLA by name. The default ones use the cache of compiled programs of the other parts.
VARIANTS = {
    "default": "",
    "default, again": "",
    "fusions not autotuned": "--xla_gpu_experimental_enable_fusion_autotuner=false",
    "no autotuning": "--xla_gpu_experimental_enable_fusion_autotuner=false --xla_gpu_autotune_level=0",
}


def compilation(bench: Bench) -> None:
    """Compile the step of each network with each variant, one process after another."""
    for name in bench.options.compiled_backbones.split(","):
        for variant in bench.options.variants.split(";"):
            environment = {}
            if VARIANTS[variant]:
                folder = (bench.folder / "flags" / variant.replace(" ", "-")).resolve()
                environment = {"JAX_COMPILATION_CACHE_DIR": str(folder), "XLA_FLAGS": VARIANTS[variant]}
            options, limit = ("--network", name, "--variant", variant), bench.options.variant_seconds
            try:
                code = bench.run_within("compile-variant", *options, environment=environment, limit=limit)
                said = f"exit code {code}"
            except subprocess.TimeoutExpired:
                code, said = 1, f"stopped after {limit} s"
            if code:
                bench.write(network=name, variant=variant, error=said)


def compile_variant(bench: Bench) -> None:
    """Compile the step of one network in this process, time its parts, then time the step."""
    bench.part = "compilation"
    precision, options = bench.precision, bench.options
    seconds = _compile_seconds()
    (backbone,) = bench.backbones(options.network)
    program, blank = networks.training_of(backbone, options.image_size, options.batch, precision)
    before, began = time.process_time(), time.perf_counter()
    pixels = DevicePixels(bench.pixels, networks.MOST_BYTES)
    images_a_second, predicted, whole = networks.training_speed(
        program, blank, pixels, bench.pixels.shape[0], options.measured
    )
    fold = _fold_seconds(program, blank, pixels, options.batch)
    bench.write(
        network=backbone.name,
        variant=options.variant,
        first_steps_seconds=whole,
        processor_seconds=time.process_time() - before,
        measured_seconds=time.perf_counter() - began,
        compiler=seconds,
        images_a_second=images_a_second,
        predicted_a_second=predicted,
        fold=fold,
    )


def _compile_seconds() -> dict[str, float]:
    """Return a table that fills with JAX's own seconds of tracing, lowering and compiling, empty without JAX."""
    from bhsearch.models import backend

    seconds: dict[str, float] = {}
    if backend.name() == "jax":
        import jax

        def add(event: str, duration: float, **_: Any) -> None:
            if "compil" in event:
                name = event.rpartition("/")[2]
                seconds[name] = round(seconds.get(name, 0.0) + duration, 3)

        jax.monitoring.register_event_duration_secs_listener(add)
    return seconds


def _fold_seconds(program: Any, blank: Any, pixels: DevicePixels, batch: int) -> dict[str, float]:
    """Return the seconds of the pieces of a fold of a few steps, each finished before the next begins."""
    rows = np.arange(pixels.of(np.zeros((1, 1), np.int32))[0].shape[0])
    target, weight = (rows % 2).astype(np.float32), np.ones(len(rows), np.float32)
    params = networks.params_of(program.spec.size, batch)
    task = FoldTask(rows, rows[:1], target, weight, EVALS_PER_FOLD)
    seconds: dict[str, float] = {}

    def timed(name: str, call: Any) -> Any:
        began = time.perf_counter()
        result = call()
        networks.wait_for(result)
        seconds[name] = round(time.perf_counter() - began, 4)
        return result

    timed("initial_weights", lambda: program.initial_weights(np.random.default_rng(0)))
    state = timed("initial_state", lambda: program.initial_state(blank))
    timed("step_constants", lambda: program.step_constants(target, weight, "adamw", 0.8, 0.01))
    timed("weights_of", lambda: program.weights_of(state))
    timed("fold_of_4_steps", lambda: train_fold(program, pixels, task, blank, params, (0,), networks.ignore))
    return seconds
