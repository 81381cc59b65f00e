"""Networks of random weights, images of noise, and how fast the device runs them.

Speed does not depend on the weights, and nothing that is computed with these means anything. `peak` is the share of the
best matrix product that this device was seen to do in the same precision, `bandwidth` that of the best copy. Both are
lower bounds, since the work is counted from the layers: two operations for a weight and output, and every output of a
layer with weights, sum or concatenation written and read once; a training step counts three times that.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.images.pixel_cache import PixelCache
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.keras_applications import REGISTRY, scale
from bhsearch.models.features import batch_size, keras_forward, on_device
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import EVALS_PER_FOLD, FinetuneParams, FoldTask, predict, train_fold
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights, TrainerSpec
from bhsearch.objectives.finetune import finetune_params
from bhsearch.objectives.space import finetune_space, starting_point
from bhsearch.tasks.binary import BinaryTask

VIT = "vit-b16"
TRAINING = 3  # passes that a training step is worth: forward, and backward by data and by weights
MOST_BYTES = 4 << 30  # of pixels on the device
BLOCK_ROWS = 256  # images that are drawn at once


class RandomBackbone(Backbone):
    """An architecture of the registry, or a ViT-B/16, with random weights, the same at each building."""

    def build(self, size: int) -> Any:
        """See `Backbone.build`."""
        import keras

        keras.utils.set_random_seed(0)
        images = keras.Input((size, size, 3), dtype="float32")
        if self.name == VIT:
            return keras.Model(images, _vit(images, size // 16, 768, 12, 12), name="vit_b16")
        facts = REGISTRY[self.name]
        options = {} if facts.alpha is None else {"alpha": facts.alpha}
        network = getattr(keras.applications, facts.builder)(
            include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg", **options
        )
        network.trainable = False
        return keras.Model(images, network(scale(images, facts.scaling)), name=facts.name.replace(".", "_"))

    def more_operations(self, size: int) -> float:
        """Operations of a forward pass that no layer's kernel shows: the products of attention."""
        return 12 * 4.0 * (size // 16) ** 4 * 768 if self.name == VIT else 0.0


def _vit(images: Any, side: int, width: int, n_blocks: int, n_heads: int) -> Any:
    """A vision transformer of stock layers, the patches averaged. Dosovitskiy et al. 2021."""
    from keras import layers, ops

    n_patches = side * side
    x = layers.Conv2D(width, 16, strides=16)(layers.Rescaling(1 / 127.5, offset=-1.0)(images))
    x = layers.Reshape((n_patches, width))(x)
    for _ in range(n_blocks):
        packed = layers.Dense(3 * width)(layers.LayerNormalization(epsilon=1e-6)(x))
        parts = ops.split(layers.Reshape((n_patches, 3, n_heads, width // n_heads))(packed), 3, axis=2)
        query, key, value = (ops.squeeze(part, axis=2) for part in parts)
        seen = layers.Reshape((n_patches, width))(ops.dot_product_attention(query, key, value))
        x = x + layers.Dense(width)(seen)
        hidden = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + layers.Dense(width)(hidden)
    return ops.mean(layers.LayerNormalization(epsilon=1e-6)(x), axis=1)


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
    """Speed of one network.

    Attributes:
        features: Images a second through the feature path of the search, uint8 on the host to features on the host.
        finetune: Images a second in training.
        predict: Images a second of held-out predictions.
        feature_compile_seconds: To the first batch of features.
        compile_seconds: To the end of the first training step and prediction.
        peak_mb: Memory of the device; None without a GPU.
    """

    features: float
    finetune: float
    predict: float
    feature_compile_seconds: float
    compile_seconds: float
    peak_mb: float | None


# -- counting ---------------------------------------------------------------------------------------------------------


def work_of(network: Any, more_operations: float = 0.0) -> Work:
    """Count the operations and outputs of an image."""
    operations, values = more_operations, 0.0
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
        "| held-out predictions, images/s | compile, s: features, training | memory, GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, speed, work in rows:
        cells = [name]
        for per_second, passes, n_bytes in ((speed.features, 1, 4), (speed.finetune, TRAINING, value_bytes)):
            peak, bandwidth = shares(per_second, passes, work, device, n_bytes)
            cells += [f"{per_second:,.0f}", f"{peak:.1%}", f"{bandwidth:.1%}"]
        memory = "" if speed.peak_mb is None else f"{speed.peak_mb / 1000:.1f}"
        cells += [f"{speed.predict:,.0f}", f"{speed.feature_compile_seconds:.1f}, {speed.compile_seconds:.1f}", memory]
        lines.append(f"| {' | '.join(cells)} |")
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
    file, random = folder / f"noise-{n_images}-{size}.u8", np.random.default_rng(0)
    shape = (n_images, 1, size, size, 3)
    if file.exists() and file.stat().st_size == np.prod(shape):
        return PixelCache(file.stem, file, shape)
    with file.open("wb") as stream:
        for first in range(0, n_images, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, n_images - first)
            stream.write(random.integers(0, 256, (rows, size, size, 3), np.uint8).tobytes())
    return PixelCache(file.stem, file, shape)


def feature_speed(backbone: Backbone, pixels: PixelCache, n_images: int, view: str) -> tuple[float, float, Any]:
    """Images a second of one view, seconds to the first batch, and the network."""
    size = pixels.shape[2]
    network = backbone.build(size)
    forward, step = keras_forward(network), min(batch_size(size, backend.has_gpu()), n_images)
    images = pixels.read(0, n_images)[:, 0]
    batches = [images[first : first + step] for first in range(0, n_images // step * step, step)]
    started = time.perf_counter()
    forward(on_device(batch, view) for batch in batches[:1])
    compile_seconds = time.perf_counter() - started
    started = time.perf_counter()
    forward(on_device(batch, view) for batch in batches)
    return len(batches) * step / (time.perf_counter() - started), compile_seconds, network


def training_of(
    backbone: Backbone, size: int, batch: int, precision: str, depth: str = "all"
) -> tuple[CompiledTrainer, ModelWeights]:
    """A program and blank weights to start from."""
    program = CompiledTrainer(TrainerSpec(backbone, size, batch, depth, 0, precision, loss=BinaryTask.loss))
    head = [np.zeros((program.n_features, 1), np.float32), np.zeros(1, np.float32)]
    return program, ModelWeights(
        program.initial_weights(np.random.default_rng(0)), [*head, np.ones(1, np.float32), np.zeros((), np.float32)]
    )


def params_of(size: int, batch: int) -> FinetuneParams:
    """An epoch with every augmentation, else as a search begins."""
    point = starting_point(finetune_space(("",), (size,)), "")
    return finetune_params(point | {"batch": batch, "epochs": 1, "policy": "all", "layer_decay": 1.0})


def training_speed(
    program: CompiledTrainer, start: ModelWeights, pixels: DevicePixels, n_rows: int, n_images: int
) -> tuple[float, float, float]:
    """Images a second of training and of held-out predictions, and seconds to the end of the first steps."""
    batch, rows = program.spec.batch, np.arange(n_rows)
    target, weight = (rows % 2).astype(np.float32), np.ones(n_rows, np.float32)
    short, whole = (
        FoldTask(rows, rows[:1], target, weight, n) for n in (EVALS_PER_FOLD, max(n_images // batch, EVALS_PER_FOLD))
    )
    params = params_of(program.spec.size, batch)
    started = time.perf_counter()
    member = train_fold(program, pixels, short, start, params, (0,), ignore)
    compile_seconds = time.perf_counter() - started
    started = time.perf_counter()
    train_fold(program, pixels, whole, start, params, (0,), ignore)
    training = whole.steps * batch / (time.perf_counter() - started)
    state, held_out = program.inference_state(program.initial_state(member)), np.arange(n_images) % n_rows
    started = time.perf_counter()
    predict(program, pixels, state, held_out, 1)
    return training, n_images / (time.perf_counter() - started), compile_seconds


def speed_of(
    backbone: RandomBackbone, pixels: PixelCache, batch: int, n_images: int, precision: str
) -> tuple[Speed, Work]:
    """Features and finetuning of one network, the second time of each."""
    size, n_images = pixels.shape[2], min(n_images, pixels.shape[0])
    features, feature_compile, network = feature_speed(backbone, pixels, n_images, "stain1")
    work = work_of(network, backbone.more_operations(size))
    program, start = training_of(backbone, size, batch, precision)
    training, predicted, compiled = training_speed(
        program, start, DevicePixels(pixels, MOST_BYTES), pixels.shape[0], n_images
    )
    peak = backend.peak_memory_bytes()
    return Speed(features, training, predicted, feature_compile, compiled, None if peak is None else peak / 1e6), work


def ignore(_: Any) -> None:
    """Evaluations that nobody needs."""


def wait_for(result: Any) -> None:
    """Wait until arrays of JAX are computed; other backends have computed theirs already."""
    if backend.name() == "jax":
        import jax

        jax.block_until_ready(result)
