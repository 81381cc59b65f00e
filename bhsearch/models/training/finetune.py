"""Fine-tuning: one fold of a whole network, trained by a program that was compiled for its shape.

A program (`bhsearch.models.training.train_step`) is a pure function from weights, slots and a plan to weights and
slots. It keeps nothing from one fold or trial to the next, so there is nothing to reset, and a used program gives bit
for bit what a fresh one gives. All randomness is augmentation_params here by NumPy and passed in: order of rows, augmentation, mixup,
dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.errors import RunError
from bhsearch.models.augmentation import on_device
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.optimizers import bias_corrections, learning_rates
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights, StepInputs

Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
EVALS_PER_FOLD = 4  # of the schedule, after each of which a fold is looked at
_MAX_LOSS = 1e3  # a loss that is no longer one


@dataclass(frozen=True)
class FinetuneParams:
    """What a trial chooses of its training. Sound values are in the table of the space, `bhsearch.objectives.space`.

    Attributes:
        depth: Part of the layers that is trained, from the head down: a key of `program.DEPTHS`.
        learning_rate: Peak, of the head.
        layer_decay: Factor on the learning rate from one tenth of the layers to the next lower one, to 1.
        weight_decay: Share of the kernels taken off in a step, times the learning rate.
        optimizer: `adamw` or `sgd` (Nesterov momentum).
        schedule: `cosine` or `constant`.
        warmup: Share of the steps in which the learning rate rises.
        batch: Images in a step.
        label_smoothing: 0 to below 1.
        dropout: Share of features left out in a step.
        policy: Augmentation, one of `augment.POLICIES`.
        strength: Of the augmentation, 0 to 1.
        mixup: Parameter of the beta distribution of shares; 0 for none.
        epochs: Passes over the training rows.
    """

    depth: str
    learning_rate: float
    layer_decay: float
    weight_decay: float
    optimizer: str
    schedule: str
    warmup: float
    batch: int
    label_smoothing: float
    dropout: float
    policy: str
    strength: float
    mixup: float
    epochs: int


@dataclass(frozen=True, eq=False)
class FoldTask:
    """What one fold trains on and is validated on.

    Attributes:
        training: Rows to train on. Shape (n_training,).
        held_out: Rows to predict. Shape (n_held_out,).
        target: 0 or 1 per image, smoothed or not. Shape (n_images,).
        weight: Per image, with a mean of one over the training rows. Shape (n_images,).
        steps: Steps of an epoch; the same for all folds, so that one program serves them.
    """

    training: Rows
    held_out: Rows
    target: Array
    weight: Array
    steps: int


@dataclass(frozen=True)
class Evaluation:
    """A look at a fold in training.

    Attributes:
        share: Number of the share of the schedule that is done, from 1.
        training_loss: Mean over the steps since the last look.
        logits: Of the held-out rows, without test-time augmentation. Shape (n_held_out,).
    """

    share: int
    training_loss: float
    logits: Array


def evaluation_steps(n_steps: int) -> list[int]:
    """Steps after which a fold is looked at: the ends of the shares, inside an epoch where that has to be.

    So trainings of two epochs and of sixteen are compared at the same places of their schedules.
    """
    return [math.ceil(n_steps * share / EVALS_PER_FOLD) for share in range(1, EVALS_PER_FOLD + 1)]


def train_fold(
    program: CompiledTrainer,
    pixels: DevicePixels,
    task: FoldTask,
    initial_weights: ModelWeights,
    params: FinetuneParams,
    seed: tuple[int, ...],
    on_evaluation: Callable[[Evaluation], None],
    on_epoch: Callable[[int], None] | None = None,
) -> ModelWeights:
    """Train one fold.

    Args:
        program: Compiled for this shape of network and batch.
        pixels: All development images, at the program's size.
        task: The fold.
        start: Weights to start from.
        params: The trial's choices.
        seed: Of everything random.
        see: Called after each share of the schedule; what it raises ends the training.
        began: Called with the number of each epoch, from 1, when it begins.

    Returns:
        The weights after the last epoch.

    Raises:
        RunError: If the loss is no number any more, or explodes.
    """
    state = program.initial_state(initial_weights)
    constants = program.step_constants(
        task.target, task.weight, params.optimizer, params.layer_decay, params.weight_decay
    )
    random = np.random.default_rng(seed)
    ends = evaluation_steps(params.epochs * task.steps)
    max_steps = min(pixels.steps_per_call, program.steps_per_call)
    done = 0
    losses: list[tuple[Any, int]] = []
    for epoch, inputs in enumerate(_epoch_inputs(task, params, program, random), start=1):
        if on_epoch is not None:
            on_epoch(epoch)
        for chunk in inputs.chunks(max_steps, [end - done for end in ends]):
            n_steps, chunk = len(chunk.rows), program.pad(chunk)
            images, positions = pixels.of(chunk.rows)
            state, loss = program.run(state, constants, images, chunk.with_positions(positions), n_steps)
            losses.append((loss, n_steps))
            done += n_steps
            if done in ends:
                mean_loss = _checked_mean_loss(losses, epoch, params)
                losses.clear()
                logits = predict(program, pixels, program.inference_state(state), task.held_out, 1)[0]
                for share in (share for share, end in enumerate(ends, start=1) if end == done):
                    on_evaluation(Evaluation(share, mean_loss, logits))
    return program.weights_of(state)


def _checked_mean_loss(losses: list[tuple[Any, int]], epoch: int, params: FinetuneParams) -> float:
    """Mean over steps of the losses of some parts, each with its steps; no part may have gone astray."""
    values, n_steps = [float(np.asarray(loss)) for loss, _ in losses], [n for _, n in losses]
    mean = float(np.average(values, weights=n_steps))
    if not math.isfinite(mean) or mean > _MAX_LOSS:
        raise RunError(
            f"The training must end in finite numbers, but its loss was {mean:.3g} in epoch {epoch} "
            f"(learning rate {params.learning_rate:.3g})."
        )
    return mean


def predict(program: CompiledTrainer, pixels: DevicePixels, state: Any, rows: Rows, n_views: int) -> Array:
    """Logits of some rows under the first dihedral views, the image itself first.

    Args:
        program: The network's.
        pixels: Images.
        state: From `Program.frozen`.
        rows: Shape (n_rows,).
        n_views: 1 to 8.

    Returns:
        Shape (n_views, n_rows).

    Raises:
        RunError: If one is no finite number.
    """
    batch = program.held_out_batch
    logits = np.empty((n_views, len(rows)), np.float32)
    padded = np.resize(rows, math.ceil(len(rows) / batch) * batch).reshape(-1, batch)  # one shape for the compiler
    for view in range(n_views):
        parameters = on_device.dihedral(view, batch, program.spec.size)
        found = []
        for some in padded:
            images, positions = pixels.of(some[None])
            found.append(program.predict(state, images, positions[0], parameters))
        # Fetched together: JAX returns before the work is done, and the device then never waits for the host.
        logits[view] = np.concatenate([np.asarray(each) for each in found])[: len(rows)]
    if not np.isfinite(logits).all():
        raise RunError("The training must end in finite predictions, but some are no numbers.")
    return logits


def _epoch_inputs(
    task: FoldTask, params: FinetuneParams, program: CompiledTrainer, random: np.random.Generator
) -> Iterator[StepInputs]:
    """What each epoch does. The last batch is filled up from the front of the order."""
    spec = program.spec
    n_steps, batch = task.steps, spec.batch
    rate = learning_rates(params.learning_rate, params.schedule, params.epochs * n_steps, params.warmup)
    kept_share = 1.0 - round(params.dropout * 256) / 256
    for epoch in range(params.epochs):
        order = random.permutation(task.training)
        rows = np.resize(order, (n_steps, batch)).astype(np.int32)
        augmentation_params = on_device.draw_augmentation(
            random, n_steps * batch, params.policy, params.strength, spec.size
        )
        if params.dropout > 0:
            random_bytes = np.frombuffer(random.bytes(n_steps * batch * program.n_features), np.uint8)
            mask = (random_bytes >= round(params.dropout * 256)).astype(np.uint8)
        else:
            mask = np.ones(n_steps * batch * program.n_features, np.uint8)
        number = epoch * n_steps + np.arange(n_steps)
        yield StepInputs(
            rows,
            rows,
            augmentation_params.reshape(n_steps, batch, -1),
            np.repeat(on_device.draw_mixup(random, n_steps, params.mixup)[:, None], batch, axis=1),
            mask.reshape(n_steps, batch, -1),
            np.full(n_steps, 1.0 / kept_share, np.float32),
            rate[number],
            bias_corrections(number),
        )
