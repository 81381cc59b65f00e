"""Execution of OpenVINO models on all cores of the processor, in batches that fit into its caches."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.errors import RunError
from bhsearch.models import keras_settings
from bhsearch.models.frozen.precision import BF16, F32, openvino_facts, precision_facts, require_precision
from bhsearch.runtime import cache

Forward = Callable[[Iterable[Float32Array]], Float32Array]

_BATCH_PIXELS = 4 * 224**2
# Numbers of images that a request may compute together. Each core computes one request, and larger batches do not stay
# in its cache: at 224 px, MobileNets need up to 1.5 times the processor time with 16 images as with 4.
LENGTHS = (1, 2, 4, 8)
# Requests for each one that can run at the same time: one is prepared while the other one runs.
_REQUESTS = 2
_TUNING_SECONDS = 0.2  # processor time for each of `LENGTHS`
_FILE = "length.json"
_REFERENCE = "reference.npy"
# Largest distance of an output to the reference, relative to the length of the reference.
_TOLERANCES = {F32: 0.01, BF16: 0.4}
_COMPILATIONS = 2  # attempts to compile a network


def usual_length(size: int) -> int:
    """Return one of `LENGTHS` that is fast for most networks.

    Args:
        size: Side of the images in pixels.
    """
    return max(length for length in LENGTHS if length == 1 or length * size**2 <= _BATCH_PIXELS)


def fastest_length(file: Path, precision: str = F32) -> int:
    """Return the one of `LENGTHS` that needs the least processor time on this machine.

    It is measured once, in about two seconds, and kept in the cache for this machine.

    Args:
        file: File of the OpenVINO model of a network, in the cache.
        precision: `f32` or `bf16`.
    """
    facts = {
        "network": file.parent.name,
        "processors": keras_settings.machine_facts()["processors"],
        **openvino_facts(),
        **precision_facts(precision),
    }
    folder = cache.get_or_create("speeds", facts, lambda folder: _tune(file, folder, precision))
    found: int = json.loads((folder / _FILE).read_text(encoding="utf-8"))["images"]
    return found


def _tune(file: Path, folder: Path, precision: str) -> None:
    """Measure the processor time of a network for each of `LENGTHS`, which other work on the machine hardly changes."""
    seconds: dict[int, float] = {}
    for length in LENGTHS:
        forward, size = _compiled(file, length, precision)
        images = np.random.default_rng(0).uniform(0, 255, (max(LENGTHS), size, size, 3)).astype(np.float32)
        forward([images])  # which also fills buffers for the first time
        n_images, started = 0, time.process_time()
        while time.process_time() < started + _TUNING_SECONDS:
            n_images += len(forward([images, images]))
        seconds[length] = (time.process_time() - started) / n_images
    fastest = min(seconds, key=lambda length: seconds[length])
    (folder / _FILE).write_text(json.dumps({"images": fastest}), encoding="utf-8")


def openvino_forward(file: Path, length: int | None = None, precision: str = F32) -> Forward:
    """Return a function that computes the outputs of a network with OpenVINO on all cores.

    OpenVINO compiles the network for one number of images, since programs for any number take up to 1.6 times the
    processor time. The last images are padded to that number.

    Args:
        file: File of the OpenVINO model of the network, for square images of a known size.
        length: Number of images that a request computes together; None for `usual_length`.
        precision: `f32`, or `bf16` for matrix products and convolutions in bfloat16. Inputs and outputs are float32.

    Returns:
        A function from batches of images, each of shape (batch, size, size, 3), to the outputs of all images, of shape
        (n_images, n_outputs).

    Raises:
        SettingsError: If the processor does not support the precision.
        RunError: If the compiled network gives wrong outputs for the reference images.
    """
    require_precision(precision)
    for _ in range(_COMPILATIONS):
        forward, size = _compiled(file, length, precision)
        if _agrees(forward, file, size, 2 * (length or usual_length(size)), precision):
            return forward
    raise RunError(
        f"OpenVINO gives wrong values for {file} in {precision} on this processor. Use --feature-backend keras."
    )


def reference_images(size: int) -> Float32Array:
    """Return images on which compiled networks are checked. Shape (3, size, size, 3), values in 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)


def write_reference(file: Path, outputs: Float32Array) -> None:
    """Store the outputs of a network beside its model, for the check of each compiled network.

    Args:
        file: File of the OpenVINO model of the network.
        outputs: Outputs for the reference images, in f32. Shape (3, n_outputs).
    """
    np.save(file.with_name(_REFERENCE), outputs)


def _agrees(forward: Forward, file: Path, size: int, n_images: int, precision: str) -> bool:
    """Return whether a compiled network gives the stored outputs for the reference images; True if none are stored.

    Once, a vision transformer of 86 million weights gave wrong features in a whole process, for a reason that was not
    found; hundreds of other compilations were right.

    Args:
        forward: Function of the compiled network.
        file: File of the OpenVINO model of the network.
        size: Side of the images in pixels.
        n_images: Number of images to compute, such as two batches, which run at the same time.
        precision: `f32` or `bf16`.
    """
    stored = file.with_name(_REFERENCE)
    if not stored.exists():
        return True
    expected = np.load(stored)
    images = reference_images(size)
    found = forward([np.resize(images, (n_images, *images.shape[1:]))])
    expected = np.resize(expected, found.shape)
    errors = np.linalg.norm(found - expected, axis=1)
    return bool((errors <= _TOLERANCES[precision] * np.linalg.norm(expected, axis=1)).all())


def _compiled(file: Path, wanted: int | None, precision: str) -> tuple[Forward, int]:
    """Return the function of `openvino_forward`, and the side of the images in pixels."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    size = int(model.input(0).get_partial_shape()[1].get_length())
    length = wanted or usual_length(size)
    model.reshape([length, size, size, 3])
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    program = core.compile_model(model, "CPU", hints)
    # Wait for requests one after another instead of using OpenVINO's queue. The queue calls Python from other threads,
    # and occasionally deadlocks if the program is freed while one of these threads waits for the interpreter.
    n_requests = _REQUESTS * program.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    requests = [program.create_infer_request() for _ in range(n_requests)]

    def forward(batches: Iterable[Float32Array]) -> Float32Array:
        outputs: list[Float32Array] = []
        idle, running = deque(requests), deque[tuple[Any, Float32Array, int]]()

        def finish() -> None:
            request, _, n_images = running.popleft()
            request.wait()
            outputs.append(request.get_output_tensor(0).data[:n_images].copy())
            idle.append(request)

        try:
            for images in _of_length(batches, length):
                if not idle:
                    finish()
                request = idle.popleft()
                padded = images if len(images) == length else np.resize(images, (length, *images.shape[1:]))
                request.start_async({0: padded}, share_inputs=True)
                running.append((request, padded, len(images)))  # which keeps the shared images in memory
            while running:
                finish()
        finally:
            for request, *_ in running:  # after an error
                request.wait()
        return np.concatenate(outputs)

    return forward, size


def _of_length(batches: Iterable[Float32Array], length: int) -> Iterator[Float32Array]:
    """Divide batches into batches of one length; only the last one may be shorter."""
    rest: Float32Array | None = None
    for batch in batches:
        images = batch if rest is None or not len(rest) else np.concatenate([rest, batch])
        whole = len(images) - len(images) % length
        for start in range(0, whole, length):
            yield images[start : start + length]
        rest = images[whole:]
    if rest is not None and len(rest):
        yield rest
