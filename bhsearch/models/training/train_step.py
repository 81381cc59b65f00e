"""Compiled training step of one network, as a pure function.

All trained weights are stored in one vector, with one vector of the same length per optimizer slot, so that a step
updates three arrays instead of hundreds. Learning rates per layer and weight decay per kernel are also vectors of this
length. The state of batch normalisation and the frozen weights are stored in two further vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array
from bhsearch.models import backend
from bhsearch.models.augmentation import device_transforms
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.losses import LOSSES
from bhsearch.models.training.optimizers import EPSILON, optimizer_step

_UNBOUNDED = 1 << 30  # steps per call if the number is not limited
DEPTHS = {"half": 0.5, "all": 0.0}  # relative depth of the first trained layer, from 0 (first layer) to 1 (last layer)
_MAX_GRADIENT_NORM = 1.0  # maximum norm of the gradient
_GPU_HELD_OUT_BATCH = 128  # minimum batch size of predictions on a GPU
_BLOCKS = 10  # number of groups of layers with different learning rates
_LOSS_SCALE = 1024.0  # loss scale for float16, in which small gradients would underflow


@dataclass(frozen=True)
class TrainerSpec:
    """Specification of a compiled trainer.

    Attributes:
        backbone: Backbone to train.
        size: Side of the images in pixels.
        batch: Images per step.
        depth: Share of the layers to train, a key of `DEPTHS`. Networks without pretrained weights are always trained
            completely.
        hidden_units: Hidden units of the head; 0 for a linear head.
        precision: Keras's name of the precision.
        micro_batches: Number of parts into which a batch is split to save memory. Gradients are averaged over the
            parts.
        loss: Name of the training loss, a key of `models.losses.LOSSES`.
    """

    backbone: Backbone
    size: int
    batch: int
    depth: str
    hidden_units: int
    precision: str = "float32"
    micro_batches: int = 1
    loss: str = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """Weights of one network with its head.

    Attributes:
        weights: Weights of the backbone, in the order of the attribute `weights` of the Keras network.
        head: Weights of the head: kernel, shape (n_features, n_hidden); bias, shape (n_hidden,); output weights, shape
            (n_hidden,); and output bias, shape ().
    """

    weights: Sequence[Float32Array]
    head: Sequence[Float32Array]


@dataclass(frozen=True, eq=False)
class StepInputs:
    """Inputs of consecutive training steps.

    Attributes:
        rows: Rows of the images in the arrays of targets and weights. Shape (n_steps, batch).
        positions: Positions of the images in the array of images. Shape (n_steps, batch).
        augmentation_params: Parameters from `device_transforms.draw_augmentation`. Shape (n_steps, batch, N_COLUMNS).
        mixup_lambda: Shares from `device_transforms.draw_mixup`, constant within a batch. Shape (n_steps, batch).
        dropout_mask: 1 for kept features, 0 for dropped features. Shape (n_steps, batch, n_features).
        dropout_scale: Factor on the kept features. Shape (n_steps,).
        learning_rates: Learning rates. Shape (n_steps,).
        bias_corrections: Bias corrections of Adam. Shape (n_steps, 2).
    """

    rows: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    augmentation_params: Float32Array
    mixup_lambda: Float32Array
    dropout_mask: npt.NDArray[np.uint8]
    dropout_scale: Float32Array
    learning_rates: Float32Array
    bias_corrections: Float32Array

    def chunks(self, max_steps: int, ends: Iterable[int] = ()) -> Iterator[StepInputs]:
        """Split the steps into chunks of at most `max_steps`; a chunk ends after each number of steps in `ends`."""
        n_steps = len(self.rows)
        cuts = {*range(0, n_steps, max_steps), *(end for end in ends if 0 < end < n_steps), n_steps}
        for first, last in pairwise(sorted(cuts)):
            part = slice(first, last)
            yield StepInputs(*(getattr(self, field.name)[part] for field in fields(self)))

    def pad_to(self, n_steps: int) -> StepInputs:
        """Pad the inputs to `n_steps` steps by repetition; the added steps must not be run."""
        return StepInputs(*(np.resize(array, (n_steps, *array.shape[1:])) for array in self.arrays()))

    def with_positions(self, positions: npt.NDArray[np.int32]) -> StepInputs:
        """Return the same inputs with replaced positions."""
        return replace(self, positions=positions)

    def arrays(self) -> tuple[Any, ...]:
        """Return all arrays in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))


class CompiledTrainer:
    """Network with compiled training and prediction steps.

    Args:
        spec: Specification of the network and the training step.

    Raises:
        BackboneError: If the weights of the backbone do not fit the architecture.
    """

    def __init__(self, spec: TrainerSpec) -> None:
        self.spec = spec
        with backend.in_precision(spec.precision):
            self._network = spec.backbone.build(spec.size)
        self._network.trainable = True  # or else the network would have no trainable variables, whatever its layers say
        for layer in self._network.layers:  # on TensorFlow, setting the flag of the network does not change its layers
            layer.trainable = True
        self.from_scratch = spec.backbone.from_scratch
        self.n_features = int(self._network.output_shape[-1])
        self._initial_weights = [np.asarray(weight) for weight in self._network.weights]
        lowest = 0.0 if self.from_scratch else DEPTHS[spec.depth]
        depths = _relative_depths(self._network.trainable_variables)
        self._is_trained = [depth >= lowest for depth in depths]
        width = max(spec.hidden_units, 1)
        head = [(self.n_features, width), (width,), (width,), ()]
        variables = list(zip(self._network.trainable_variables, self._is_trained, strict=True))
        self._trainable = ParameterVector([*(variable.shape for variable, trained in variables if trained), *head])
        self._frozen = ParameterVector(variable.shape for variable, trained in variables if not trained)
        at = {id(v): number for number, v in enumerate(self._network.weights)}
        non_trainable = self._network.non_trainable_variables
        self._counters = [
            None if id(v) in at else np.asarray(v) for v in non_trainable
        ]  # seeds of unused dropout layers
        self._batch_norm = ParameterVector(v.shape for v in non_trainable if id(v) in at)
        # Positions of the arrays of each vector in the list of weights.
        self._trained_at, self._frozen_at = ([at[id(v)] for v, t in variables if t is kind] for kind in (True, False))
        self._batch_norm_at = [at[id(v)] for v in non_trainable if id(v) in at]
        # One value per array. Blocks are numbered from the output; block 0 is the head. Weight decay applies only to
        # arrays with several axes (kernels), not to biases or batch-norm factors. The output weights (1) and the output
        # bias (0) of a linear head are not updated. A bias may have several axes, such as one per token.
        blocks = [int((1 - depth) * _BLOCKS) + 1 for depth, t in zip(depths, self._is_trained, strict=True) if t]
        self._blocks = np.array([*blocks, 0, 0, 0, 0], np.float32)
        is_bias = [variable.name == "bias" for variable, trained in variables if trained] + [False] * len(head)
        decayed = [len(shape) > 1 and not bias for shape, bias in zip(self._trainable.shapes, is_bias, strict=True)]
        self._decay_mask = np.array(decayed, np.float32)
        self._is_updated = np.array([True] * (len(self._trainable.sizes) - 2) + [spec.hidden_units > 0] * 2)
        self.steps_per_call = backend.steps_per_call()
        # Prediction stores no gradients, so a GPU can use larger batches than in training.
        self.held_out_batch = max(spec.batch, _GPU_HELD_OUT_BATCH) if backend.has_gpu() else spec.batch
        self._run = backend.compiled(self._steps, donate_argnums=(0,))
        self._predict = backend.compiled(self._logits)

    def initial_weights(self, random: np.random.Generator) -> list[Float32Array]:
        """Return the weights of the backbone before training: pretrained, or drawn for training from scratch."""
        return self.spec.backbone.initial_weights(self._network, random) if self.from_scratch else self._initial_weights

    def initial_state(self, model_weights: ModelWeights) -> Any:
        """Return the state before training.

        Returns:
            A pair: the vectors that change in training (trained weights, two optimizer slots, batch-norm state), and
            the vector of frozen weights.
        """
        from keras import ops

        trained, frozen_iter, batch_norm_state = (
            [model_weights.weights[number] for number in where]
            for where in (self._trained_at, self._frozen_at, self._batch_norm_at)
        )
        trainable, non_trainable, frozen_params = map(
            ops.convert_to_tensor,
            (
                self._trainable.pack([*trained, *model_weights.head]),
                self._batch_norm.pack(batch_norm_state),
                self._frozen.pack(frozen_iter),
            ),
        )
        slots = [ops.zeros(trainable.shape, "float32") for _ in range(2)]  # made on the device, not copied to it
        return (trainable, *slots, non_trainable), frozen_params

    def weights_of(self, state: Any) -> ModelWeights:
        """Return the weights of the network and the head from a state."""
        (trainable, _, _, batch_norm_state), frozen_params = state
        *trained, kernel, bias, output_weights, output_bias = self._trainable.unpack(trainable)
        values = dict(zip(self._trained_at, trained, strict=True))
        values |= zip(self._frozen_at, self._frozen.unpack(frozen_params), strict=True)
        values |= zip(self._batch_norm_at, self._batch_norm.unpack(batch_norm_state), strict=True)
        return ModelWeights([values[number] for number in sorted(values)], [kernel, bias, output_weights, output_bias])

    @staticmethod
    def inference_state(state: Any) -> Any:
        """Return the vectors of a state that prediction needs, without optimizer slots."""
        (trainable, _, _, batch_norm_state), frozen_params = state
        return trainable, batch_norm_state, frozen_params

    def step_constants(
        self, target: Float32Array, weight: Float32Array, optimizer: str, layer_decay: float, weight_decay: float
    ) -> Any:
        """Return the inputs of `run` that are constant during a training.

        Args:
            target: Target per image, 0 to 1. Shape (n_images,).
            weight: Weight per image. Shape (n_images,).
            optimizer: `adamw` or `sgd`.
            layer_decay: See `FinetuneParams`.
            weight_decay: See `FinetuneParams`.
        """
        from keras import ops

        factors = np.where(self._is_updated, layer_decay**self._blocks, 0.0).astype(np.float32)
        decays = (weight_decay * self._decay_mask).astype(np.float32)
        scale = _LOSS_SCALE if self.spec.precision == "mixed_float16" else 1.0
        settings = np.array([optimizer == "adamw", scale], np.float32)
        vectors = [np.repeat(values, self._trainable.sizes) for values in (factors, decays)]
        return tuple(map(ops.convert_to_tensor, (target, weight, *vectors, settings)))

    def pad(self, inputs: StepInputs) -> StepInputs:
        """Pad inputs to the number of steps per call if it is fixed; otherwise return them unchanged.

        JAX compiles once per shape. With padding, one compiled program can be used for every number of steps.
        """
        return inputs.pad_to(self.steps_per_call) if 1 < self.steps_per_call < _UNBOUNDED else inputs

    def run(
        self, state: Any, step_constants: Any, images: Any, inputs: StepInputs, n_steps: int | None = None
    ) -> tuple[Any, Any]:
        """Run training steps.

        Args:
            state: State from `initial_state` or a previous call. On JAX, a previous state must not be used again.
            step_constants: Inputs from `step_constants`.
            images: uint8 images. Shape (n, size, size, 3).
            inputs: Inputs of the steps.
            n_steps: Number of steps to run, from the first step; None for all steps.

        Returns:
            The new state and the mean loss over the steps.
        """
        moved, frozen_params = state
        count = np.int32(len(inputs.rows) if n_steps is None else n_steps)
        moved, loss = self._run(moved, frozen_params, step_constants, images, inputs.arrays(), count)
        return (moved, frozen_params), loss

    def predict(self, state: Any, images: Any, rows: npt.NDArray[np.int32], augmentation_params: Float32Array) -> Any:
        """Compute the logits of augmented images. Shape (batch,).

        Args:
            state: State from `inference_state`.
            images: uint8 images. Shape (n, size, size, 3).
            rows: Positions of the batch in `images`. Shape (batch,).
            augmentation_params: Augmentation parameters of the batch. Shape (batch, N_COLUMNS).
        """
        return self._predict(*state, images, rows, augmentation_params)

    # -- compiled -----------------------------------------------------------------------------------------------------

    def _steps(
        self, moved: Any, frozen_params: Any, step_constants: Any, images: Any, inputs: Any, n_steps: Any
    ) -> Any:
        from keras import ops

        target, weight, factors, decays, settings = step_constants
        (
            rows,
            positions,
            augmentation_params,
            mixup_lambda,
            dropout_masks,
            dropout_scales,
            learning_rates,
            bias_corrections,
        ) = inputs
        frozen_params = self._frozen.split_tensor(frozen_params)
        gradient = backend.value_and_grad(self._loss, has_aux=True)
        n_micro_batches = self.spec.micro_batches

        def step(number: Any, carry: Any) -> Any:
            trainable, first, second, batch_norm_state, total = carry
            at, share = ops.take(rows, number, axis=0), ops.take(mixup_lambda, number, axis=0)
            images_in_batch = self._gather_images(images, ops.take(positions, number, axis=0))
            augmented = device_transforms.augment(images_in_batch, ops.take(augmentation_params, number, axis=0))
            data = device_transforms.mixup(augmented, ops.take(target, at), ops.take(weight, at), share)
            dropout_mask = ops.cast(ops.take(dropout_masks, number, axis=0), "float32") * ops.take(
                dropout_scales, number
            )
            loss, summed = 0.0, 0.0
            for piece in range(n_micro_batches):
                some = [self._micro_batch(part, piece) for part in (*data, dropout_mask)]
                (value, batch_norm_state), gradients = gradient(
                    self._trainable.split_tensor(trainable), frozen_params, batch_norm_state, settings[1], *some
                )
                loss = loss + value / n_micro_batches
                summed = summed + ops.concatenate([ops.reshape(g, (-1,)) for g in gradients]) / n_micro_batches
            summed = ops.cast(summed, "float32") / settings[1]
            norm = ops.sqrt(ops.sum(ops.square(summed)))
            summed = summed * ops.minimum(1.0, _MAX_GRADIENT_NORM / (norm + EPSILON))
            rate, correction = ops.take(learning_rates, number), ops.take(bias_corrections, number, axis=0)
            trainable, first, second = optimizer_step(
                trainable, first, second, summed, rate * factors, correction, settings[0], decays
            )
            return trainable, first, second, batch_norm_state, total + loss / settings[1]

        carry = (*moved, ops.zeros((), "float32"))
        single = self.steps_per_call == 1
        *moved, total = step(0, carry) if single else ops.fori_loop(0, n_steps, step, carry)
        return tuple(moved), total / ops.cast(n_steps, "float32")

    def _loss(
        self,
        parts: Any,
        frozen_params: Any,
        batch_norm_state: Any,
        scale: Any,
        images: Any,
        target: Any,
        weight: Any,
        dropout_mask: Any,
    ) -> Any:
        from keras import ops

        features, batch_norm_state = self._features(
            parts[:-4], frozen_params, batch_norm_state, images, training=self.from_scratch
        )
        logits = self._head(features * dropout_mask, *parts[-4:])
        entropy = LOSSES[self.spec.loss](logits, target)
        return ops.mean(entropy * weight) * scale, batch_norm_state

    def _logits(
        self,
        trainable: Any,
        batch_norm_state: Any,
        frozen_params: Any,
        images: Any,
        rows: Any,
        augmentation_params: Any,
    ) -> Any:
        parts, frozen_params = self._trainable.split_tensor(trainable), self._frozen.split_tensor(frozen_params)
        augmented = device_transforms.augment(self._gather_images(images, rows), augmentation_params)
        features, _ = self._features(parts[:-4], frozen_params, batch_norm_state, augmented, training=False)
        return self._head(features, *parts[-4:])

    def _features(self, trained: Any, frozen_params: Any, batch_norm_state: Any, images: Any, training: bool) -> Any:
        """Compute the features as float32, and the batch-norm state, which changes only if `training` is true."""
        from keras import ops

        trainable_iter, frozen_iter = iter(trained), iter(frozen_params)
        values = [next(trainable_iter) if t else next(frozen_iter) for t in self._is_trained]
        parts = iter(self._batch_norm.split_tensor(batch_norm_state))
        non_trainable = [
            next(parts) if counter is None else ops.convert_to_tensor(counter) for counter in self._counters
        ]
        features, moved = self._network.stateless_call(values, non_trainable, images, training=training)
        if training:
            kept = [value for value, counter in zip(moved, self._counters, strict=True) if counter is None]
            batch_norm_state = self._batch_norm.concatenate_tensors(kept)
        return ops.cast(features, "float32"), batch_norm_state

    def _head(self, features: Any, kernel: Any, bias: Any, output_weights: Any, output_bias: Any) -> Any:
        from keras import ops

        hidden = ops.matmul(features, kernel) + bias
        if self.spec.hidden_units:
            hidden = ops.relu(hidden)
        return ops.sum(hidden * output_weights, axis=-1) + output_bias

    def _gather_images(self, images: Any, rows: Any) -> Any:
        from keras import ops

        size = self.spec.size
        return ops.reshape(ops.cast(ops.take(images, rows, axis=0), "float32"), (-1, size, size, 3))

    def _micro_batch(self, values: Any, piece: int) -> Any:
        length = self.spec.batch // self.spec.micro_batches
        return values[piece * length : (piece + 1) * length]


def _relative_depths(variables: Sequence[Any]) -> list[float]:
    """Return the relative depth of each variable's layer: 0 for the first layer with weights, 1 for the last."""
    layers = [variable.path.rpartition("/")[0] for variable in variables]
    order = {name: number for number, name in enumerate(dict.fromkeys(layers))}
    return [order[name] / max(len(order) - 1, 1) for name in layers]


class ParameterVector:
    """Layout of several arrays with known shapes in one vector.

    Args:
        shapes: Shapes of the arrays, in order.
    """

    def __init__(self, shapes: Iterable[Sequence[int]]) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self._cuts = np.cumsum(self.sizes)[:-1].tolist()

    def pack(self, arrays: Sequence[Any]) -> Float32Array:
        """Concatenate NumPy arrays into one float32 vector. Shape (sum of sizes,)."""
        return np.concatenate([np.zeros(0, np.float32), *map(np.ravel, arrays)], dtype=np.float32)

    def unpack(self, vector: Any) -> list[Float32Array]:
        """Split a vector into NumPy arrays."""
        pieces = np.split(np.asarray(vector), self._cuts) if self.shapes else []
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def split_tensor(self, vector: Any) -> list[Any]:
        """Split a vector into arrays of the backend, inside a compiled function."""
        from keras import ops

        if not self.shapes:
            return []
        pieces = ops.split(ops.reshape(vector, (sum(self.sizes),)), self._cuts)
        return [ops.reshape(piece, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def concatenate_tensors(self, arrays: Sequence[Any]) -> Any:
        """Concatenate arrays of the backend into one vector, inside a compiled function."""
        from keras import ops

        return ops.concatenate([ops.zeros(0, "float32"), *(ops.reshape(array, (-1,)) for array in arrays)])
