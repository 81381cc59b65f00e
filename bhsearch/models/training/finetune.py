"""Fine-tuning of a network on one fold with a compiled trainer.

The compiled step is a pure function of weights, optimizer slots and inputs. The trainer keeps no state between folds or
trials, so a reused trainer gives bit-identical results. All random numbers (order of rows, augmentation, mixup and
dropout) are drawn in this module with NumPy and passed to the trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array, Ints
from bhsearch.errors import RunError
from bhsearch.models.augmentation import device_transforms
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.optimizers import bias_corrections, learning_rates
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights, StepInputs

EVALS_PER_FOLD = 4  # number of evaluations, at equal intervals of the schedule
_MAX_LOSS = 1e3  # a higher loss means that training has diverged


@dataclass(frozen=True)
class FinetuneParams:
    """Training parameters of a trial. For default values see `bhsearch.objectives.space`.

    Attributes:
        depth: Share of the layers to train, counted from the output: a key of `train_step.DEPTHS`.
        learning_rate: Peak learning rate of the head.
        layer_decay: Ratio of the learning rates of consecutive blocks of layers, at most 1. Each block has a tenth of
            the layers, and blocks closer to the input have lower learning rates.
        weight_decay: Decoupled weight decay of kernels, multiplied by the learning rate.
        optimizer: `adamw` or `sgd` (Nesterov momentum).
        schedule: `cosine` or `constant`.
        warmup: Share of the steps during which the learning rate rises to its peak.
        batch: Images per step.
        label_smoothing: 0 to below 1.
        dropout: Dropout rate of the features, 0 to below 1.
        policy: Augmentation policy, one of `policies.FINETUNE_POLICIES`.
        strength: Strength of the augmentation, 0 to 1.
        mixup: Parameter alpha of mixup's Beta distribution; 0 disables mixup.
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
    """Training and validation data of one fold.

    Attributes:
        training: Training rows. Shape (n_training,).
        held_out: Validation rows. Shape (n_held_out,).
        target: Label per image, 0 or 1, possibly smoothed. Shape (n_images,).
        weight: Weight per image, with a mean of 1 over the training rows. Shape (n_images,).
        steps: Steps per epoch. The number is the same for all folds, so that one compiled program can be used.
    """

    training: Ints
    held_out: Ints
    target: Float32Array
    weight: Float32Array
    steps: int


@dataclass(frozen=True)
class Evaluation:
    """Intermediate evaluation during the training of a fold.

    Attributes:
        share: Number of completed parts of the schedule, 1 to `EVALS_PER_FOLD`.
        training_loss: Mean training loss over the steps since the previous evaluation.
        logits: Logits of the validation rows, without test-time augmentation. Shape (n_held_out,).
    """

    share: int
    training_loss: float
    logits: Float32Array


def evaluation_steps(n_steps: int) -> list[int]:
    """Return the numbers of steps after which a fold is evaluated: the ends of equal parts of the schedule.

    Evaluations are not tied to epochs, so that trainings of different lengths are compared at the same share of their
    schedules.
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
        program: Trainer compiled for the network and batch size.
        pixels: All development images, at the trainer's image size.
        task: Data of the fold.
        initial_weights: Weights to start from.
        params: Training parameters of the trial.
        seed: Seed of all random numbers.
        on_evaluation: Called after each part of the schedule. An exception that it raises ends the training.
        on_epoch: Called with the epoch number, from 1, at the beginning of each epoch.

    Returns:
        The weights after the last epoch.

    Raises:
        RunError: If the loss is not finite or too large.
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
    """Return the mean loss over steps, after checking its value.

    Args:
        losses: Mean loss and number of steps of consecutive chunks.
        epoch: Current epoch, for the message.
        params: Training parameters of the trial, for the message.

    Raises:
        RunError: If the mean is not finite or too large.
    """
    values, n_steps = [float(np.asarray(loss)) for loss, _ in losses], [n for _, n in losses]
    mean = float(np.average(values, weights=n_steps))
    if not math.isfinite(mean) or mean > _MAX_LOSS:
        raise RunError(
            f"Training diverged: the loss is {mean:.3g} in epoch {epoch} (learning rate {params.learning_rate:.3g})."
        )
    return mean


def predict(program: CompiledTrainer, pixels: DevicePixels, state: Any, rows: Ints, n_views: int) -> Float32Array:
    """Predict the logits of images for the first dihedral views, starting with the image itself.

    Args:
        program: Trainer of the network.
        pixels: All development images.
        state: State from `CompiledTrainer.inference_state`.
        rows: Rows of the images to predict. Shape (n_rows,).
        n_views: Number of views, 1 to 8.

    Returns:
        Logits. Shape (n_views, n_rows).

    Raises:
        RunError: If a logit is not finite.
    """
    batch = program.held_out_batch
    logits = np.empty((n_views, len(rows)), np.float32)
    padded = np.resize(rows, math.ceil(len(rows) / batch) * batch).reshape(-1, batch)  # one shape for the compiler
    for view in range(n_views):
        parameters = device_transforms.dihedral(view, batch, program.spec.size)
        found = []
        for some in padded:
            images, positions = pixels.of(some[None])
            found.append(program.predict(state, images, positions[0], parameters))
        # Fetch results after the last batch: JAX computes asynchronously, so the device does not wait for the host.
        logits[view] = np.concatenate([np.asarray(each) for each in found])[: len(rows)]
    if not np.isfinite(logits).all():
        raise RunError("Training diverged: the predictions contain NaN or infinite values.")
    return logits


def _epoch_inputs(
    task: FoldTask, params: FinetuneParams, program: CompiledTrainer, random: np.random.Generator
) -> Iterator[StepInputs]:
    """Iterate over the step inputs of each epoch; the last batch is filled up with the first rows of the epoch."""
    spec = program.spec
    n_steps, batch = task.steps, spec.batch
    rate = learning_rates(params.learning_rate, params.schedule, params.epochs * n_steps, params.warmup)
    kept_share = 1.0 - round(params.dropout * 256) / 256
    for epoch in range(params.epochs):
        order = random.permutation(task.training)
        rows = np.resize(order, (n_steps, batch)).astype(np.int32)
        augmentation_params = device_transforms.draw_augmentation(
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
            np.repeat(device_transforms.draw_mixup(random, n_steps, params.mixup)[:, None], batch, axis=1),
            mask.reshape(n_steps, batch, -1),
            np.full(n_steps, 1.0 / kept_share, np.float32),
            rate[number],
            bias_corrections(number),
        )
