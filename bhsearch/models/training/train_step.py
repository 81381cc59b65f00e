"""The compiled training step of one shape of network, as a pure function.

All weights that are trained lie in one flat vector, with one flat vector for each slot of the optimizer: a step then
updates three arrays and not hundreds, and learning rates per layer and decay per kernel are vectors, too. Moving
statistics are another, and so are the weights that stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models import backend
from bhsearch.models.augmentation import on_device
from bhsearch.models.backbones import cnn
from bhsearch.models.backbones.registry import Backbone
from bhsearch.models.losses import LOSSES
from bhsearch.models.training.optimizers import EPSILON, optimizer_step
from bhsearch.tasks.binary import BINARY

Array = npt.NDArray[np.float32]

_UNBOUNDED = 1 << 30  # steps in a call of a program, where any number is one
DEPTHS = {"half": 0.5, "all": 0.0}  # place of the lowest layer that is trained: 0 is the first, 1 the last
_LONGEST = 1.0  # norm of the gradient
_GPU_HELD_OUT_BATCH = 128
_BLOCKS = 10  # of layers that share a learning rate
_LOSS_SCALE = 1024.0  # for float16, whose smallest number a gradient soon passes


@dataclass(frozen=True)
class TrainerSpec:
    """What a program is compiled for.

    Attributes:
        backbone: The network.
        size: Side of its images in pixels.
        batch: Images in a step.
        depth: A key of `DEPTHS`; `cnn`, which starts from nothing, is always trained whole.
        hidden_units: Of the head; 0 for a linear one.
        precision: Keras's name of it.
        micro_batches: Parts that a batch is computed in, one after another, to save memory; its gradient is the same.
    """

    backbone: Backbone
    size: int
    batch: int
    depth: str
    hidden_units: int
    precision: str = "float32"
    micro_batches: int = 1


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """The weights of one network with its head.

    Attributes:
        weights: Of the backbone, in the order of Keras's `weights`.
        head: Kernel (n_features, n_hidden), bias (n_hidden,), top (n_hidden,), top bias ().
    """

    weights: Sequence[Array]
    head: Sequence[Array]


@dataclass(frozen=True, eq=False)
class StepInputs:
    """What some steps do; the first axis is the step.

    Attributes:
        rows: Rows of the images, of their targets and weights. Shape (n_steps, batch).
        places: Where the images lie in the array that the program is given. Shape (n_steps, batch).
        drawn: Augmentation per image, from `augment.draw`. Shape (n_steps, batch, n_columns).
        shares: Of mixup, from `augment.draw_mixup`, the same over a batch. Shape (n_steps, batch).
        mask: Features kept, 0 or 1. Shape (n_steps, batch, n_features).
        boost: Factor on the features that are kept. Shape (n_steps,).
        rates: Learning rates. Shape (n_steps,).
        corrections: Adam's. Shape (n_steps, 2).
    """

    rows: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    drawn: Array
    shares: Array
    mask: npt.NDArray[np.uint8]
    boost: Array
    rates: Array
    corrections: Array

    def parts(self, most: int, ends: Iterable[int] = ()) -> Iterator[StepInputs]:
        """The plan in parts of at most so many steps, one of them ending after each of `ends` that lies inside."""
        n_steps = len(self.rows)
        cuts = {*range(0, n_steps, most), *(end for end in ends if 0 < end < n_steps), n_steps}
        for first, last in pairwise(sorted(cuts)):
            part = slice(first, last)
            yield StepInputs(*(getattr(self, field.name)[part] for field in fields(self)))

    def padded(self, n_steps: int) -> StepInputs:
        """The same plan with arrays of `n_steps` steps; those that are added repeat the plan and are never run."""
        return StepInputs(*(np.resize(array, (n_steps, *array.shape[1:])) for array in self.arrays()))

    def at(self, places: npt.NDArray[np.int32]) -> StepInputs:
        """The same for images that lie elsewhere."""
        return replace(self, places=places)

    def arrays(self) -> tuple[Any, ...]:
        """What the program takes."""
        return tuple(getattr(self, field.name) for field in fields(self))


class CompiledTrainer:
    """Builds the network of a shape and compiles its steps.

    Args:
        shape: The shape.

    Raises:
        BackboneError: If the weights of the backbone do not fit.
    """

    def __init__(self, shape: TrainerSpec) -> None:
        self.shape = shape
        with backend.in_precision(shape.precision):
            self._network = shape.backbone.build(shape.size)
        for layer in self._network.layers:  # on TensorFlow a network that says it trains already passes nothing on
            layer.trainable = True
        self.from_scratch = shape.backbone.from_scratch
        self.n_features = int(self._network.output_shape[-1])
        self._origin = [np.asarray(weight) for weight in self._network.weights]
        lowest = 0.0 if self.from_scratch else DEPTHS[shape.depth]
        places = _places(self._network.trainable_variables)
        self._trained = [place >= lowest for place in places]
        width = max(shape.hidden_units, 1)
        head = [(self.n_features, width), (width,), (width,), ()]
        variables = list(zip(self._network.trainable_variables, self._trained, strict=True))
        self._flat = ParameterVector([*(variable.shape for variable, trained in variables if trained), *head])
        self._below = ParameterVector(variable.shape for variable, trained in variables if not trained)
        at = {id(v): number for number, v in enumerate(self._network.weights)}
        still = self._network.non_trainable_variables
        self._counters = [None if id(v) in at else np.asarray(v) for v in still]  # of dropout that is never used
        self._moving = ParameterVector(v.shape for v in still if id(v) in at)
        # Where in the weights each vector's parts are.
        self._trained_at, self._below_at = ([at[id(v)] for v, t in variables if t is kind] for kind in (True, False))
        self._moving_at = [at[id(v)] for v in still if id(v) in at]
        # The head lies above the highest block; kernels decay, and neither biases nor the factors of batch norm do.
        blocks = [int((1 - place) * _BLOCKS) + 1 for place, t in zip(places, self._trained, strict=True) if t]
        self._blocks = np.repeat([*blocks, 0, 0, 0, 0], self._flat.sizes).astype(np.float32)
        self._kernels = np.repeat([len(each) > 1 for each in self._flat.shapes], self._flat.sizes).astype(np.float32)
        # Above its kernel and bias, a linear head has a top of one and no second bias, and keeps them.
        moves = [True] * (len(self._flat.sizes) - 2) + [shape.hidden_units > 0] * 2
        self._moves = np.repeat(moves, self._flat.sizes)
        self.steps_at_once = backend.steps_per_call()
        # A GPU predicts in larger batches than it trains in: no gradients have to be kept.
        self.held_out_batch = max(shape.batch, _GPU_HELD_OUT_BATCH) if backend.has_gpu() else shape.batch
        self._run = backend.compiled(self._steps, gives_up=(0,))
        self._predict = backend.compiled(self._logits)

    def origin(self, random: np.random.Generator) -> list[Array]:
        """Weights of the backbone before any training: its own, or drawn for one that starts from nothing."""
        return cnn.initial_weights(self._network, random) if self.from_scratch else self._origin

    def state_of(self, member: ModelWeights) -> Any:
        """The start of a training: flat weights, two empty slots, what does not train, and what moves."""
        from keras import ops

        trained, lower, moving = (
            [member.weights[number] for number in where]
            for where in (self._trained_at, self._below_at, self._moving_at)
        )
        flat = self._flat.join([*trained, *member.head])
        empty = [np.zeros_like(flat) for _ in range(2)]
        start, *slots, still, below = map(
            ops.convert_to_tensor, (flat, *empty, self._moving.join(moving), self._below.join(lower))
        )
        return (start, *slots, still), below

    def member_of(self, state: Any) -> ModelWeights:
        """The weights that a training ended with."""
        (flat, _, _, moving), below = state
        *trained, kernel, bias, top, top_bias = self._flat.parts(flat)
        values = dict(zip(self._trained_at, trained, strict=True))
        values |= zip(self._below_at, self._below.parts(below), strict=True)
        values |= zip(self._moving_at, self._moving.parts(moving), strict=True)
        return ModelWeights([values[number] for number in sorted(values)], [kernel, bias, top, top_bias])

    @staticmethod
    def frozen(state: Any) -> Any:
        """What predicting needs of a state."""
        (flat, _, _, moving), below = state
        return flat, moving, below

    def facts(self, target: Array, weight: Array, optimizer: str, layer_decay: float, weight_decay: float) -> Any:
        """What stays the same over a training; per image, and the trial's choices as `FinetuneParams` has them."""
        from keras import ops

        factors = np.where(self._moves, layer_decay**self._blocks, 0.0).astype(np.float32)
        decays = (weight_decay * self._kernels).astype(np.float32)
        scale = _LOSS_SCALE if self.shape.precision == "mixed_float16" else 1.0
        settings = np.array([optimizer == "adamw", scale], np.float32)
        return tuple(map(ops.convert_to_tensor, (target, weight, factors, decays, settings)))

    def prepared(self, plan: StepInputs) -> StepInputs:
        """The plan as `run` should be given it: with as many steps as the program is compiled for, where that is fixed.

        JAX compiles once a shape, so one shape has to serve every number of steps.
        """
        return plan.padded(self.steps_at_once) if 1 < self.steps_at_once < _UNBOUNDED else plan

    def run(self, state: Any, facts: Any, images: Any, plan: StepInputs, n_steps: int | None = None) -> tuple[Any, Any]:
        """Do the first `n_steps` steps of a plan, or all. Returns the new state, and the mean loss of the steps."""
        moved, below = state
        count = np.int32(len(plan.rows) if n_steps is None else n_steps)
        moved, loss = self._run(moved, below, facts, images, plan.arrays(), count)
        return (moved, below), loss

    def predict(self, state: Any, images: Any, rows: npt.NDArray[np.int32], drawn: Array) -> Any:
        """Logits, (batch,), of rows under an augmentation."""
        return self._predict(*state, images, rows, drawn)

    # -- compiled -----------------------------------------------------------------------------------------------------

    def _steps(self, moved: Any, below: Any, facts: Any, images: Any, plan: Any, n_steps: Any) -> Any:
        from keras import ops

        target, weight, factors, decays, settings = facts
        rows, places, drawn, shares, masks, boosts, rates, corrections = plan
        below = self._below.split(below)
        gradient = backend.value_and_grad(self._loss, aside=True)
        pieces = self.shape.micro_batches

        def step(number: Any, carry: Any) -> Any:
            flat, first, second, moving, total = carry
            at, share = ops.take(rows, number, axis=0), ops.take(shares, number, axis=0)
            raw = self._seen(images, ops.take(places, number, axis=0))
            seen = on_device.augment(raw, ops.take(drawn, number, axis=0))
            data = on_device.mixup(seen, ops.take(target, at), ops.take(weight, at), share)
            mask = ops.cast(ops.take(masks, number, axis=0), "float32") * ops.take(boosts, number)
            loss, summed = 0.0, 0.0
            for piece in range(pieces):
                some = [self._piece(part, piece) for part in (*data, mask)]
                (value, moving), gradients = gradient(self._flat.split(flat), below, moving, settings[1], *some)
                loss = loss + value / pieces
                summed = summed + ops.concatenate([ops.reshape(g, (-1,)) for g in gradients]) / pieces
            summed = ops.cast(summed, "float32") / settings[1]
            norm = ops.sqrt(ops.sum(ops.square(summed)))
            summed = summed * ops.minimum(1.0, _LONGEST / (norm + EPSILON))
            rate, correction = ops.take(rates, number), ops.take(corrections, number, axis=0)
            flat, first, second = optimizer_step(
                flat, first, second, summed, rate * factors, correction, settings[0], decays
            )
            return flat, first, second, moving, total + loss / settings[1]

        carry = (*moved, ops.zeros((), "float32"))
        single = self.steps_at_once == 1
        *moved, total = step(0, carry) if single else ops.fori_loop(0, n_steps, step, carry)
        return tuple(moved), total / ops.cast(n_steps, "float32")

    def _loss(
        self, parts: Any, below: Any, moving: Any, scale: Any, images: Any, target: Any, weight: Any, mask: Any
    ) -> Any:
        from keras import ops

        features, moving = self._features(parts[:-4], below, moving, images, training=self.from_scratch)
        logits = self._head(features * mask, *parts[-4:])
        entropy = LOSSES[BINARY.loss](logits, target)
        return ops.mean(entropy * weight) * scale, moving

    def _logits(self, flat: Any, moving: Any, below: Any, images: Any, rows: Any, drawn: Any) -> Any:
        parts, below = self._flat.split(flat), self._below.split(below)
        seen = on_device.augment(self._seen(images, rows), drawn)
        features, _ = self._features(parts[:-4], below, moving, seen, training=False)
        return self._head(features, *parts[-4:])

    def _features(self, trained: Any, below: Any, moving: Any, images: Any, training: bool) -> Any:
        """Features as float32, and what moves; batch norm uses the batch only where a network starts from nothing."""
        from keras import ops

        upper, lower = iter(trained), iter(below)
        values = [next(upper) if t else next(lower) for t in self._trained]
        parts = iter(self._moving.split(moving))
        still = [next(parts) if counter is None else ops.convert_to_tensor(counter) for counter in self._counters]
        features, moved = self._network.stateless_call(values, still, images, training=training)
        if training:
            kept = [value for value, counter in zip(moved, self._counters, strict=True) if counter is None]
            moving = self._moving.concatenate(kept)
        return ops.cast(features, "float32"), moving

    def _head(self, features: Any, kernel: Any, bias: Any, top: Any, top_bias: Any) -> Any:
        from keras import ops

        hidden = ops.matmul(features, kernel) + bias
        if self.shape.hidden_units:
            hidden = ops.relu(hidden)
        return ops.sum(hidden * top, axis=-1) + top_bias

    def _seen(self, images: Any, rows: Any) -> Any:
        from keras import ops

        size = self.shape.size
        return ops.reshape(ops.cast(ops.take(images, rows, axis=0), "float32"), (-1, size, size, 3))

    def _piece(self, values: Any, piece: int) -> Any:
        length = self.shape.batch // self.shape.micro_batches
        return values[piece * length : (piece + 1) * length]


def _places(variables: Sequence[Any]) -> list[float]:
    """Where the layer of each variable lies in the network: 0 the first with weights, 1 the last."""
    layers = [variable.path.rpartition("/")[0] for variable in variables]
    order = {name: number for number, name in enumerate(dict.fromkeys(layers))}
    return [order[name] / max(len(order) - 1, 1) for name in layers]


class ParameterVector:
    """Lays arrays of known shapes one after another.

    Args:
        shapes: Of the arrays, in their order.
    """

    def __init__(self, shapes: Iterable[Sequence[int]]) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self._cuts = np.cumsum(self.sizes)[:-1].tolist()

    def join(self, arrays: Sequence[Any]) -> Array:
        """One vector of NumPy arrays, float32. Shape (sum of sizes,)."""
        return np.concatenate([np.zeros(0, np.float32), *map(np.ravel, arrays)], dtype=np.float32)

    def parts(self, vector: Any) -> list[Array]:
        """NumPy arrays of a vector."""
        pieces = np.split(np.asarray(vector), self._cuts) if self.shapes else []
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def split(self, vector: Any) -> list[Any]:
        """The backend's arrays of a vector, inside a compiled function."""
        from keras import ops

        if not self.shapes:
            return []
        pieces = ops.split(ops.reshape(vector, (sum(self.sizes),)), self._cuts)
        return [ops.reshape(piece, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        """One vector of the backend's arrays, inside a compiled function."""
        from keras import ops

        return ops.concatenate([ops.zeros(0, "float32"), *(ops.reshape(array, (-1,)) for array in arrays)])
