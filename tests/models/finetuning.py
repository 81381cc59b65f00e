"""Helpers of the tests of fine-tuning: small images of two classes, and one fold of them."""

from __future__ import annotations

import numpy as np

from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.cnn import DIGEST, NAME
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.training.device_images import DevicePixels
from bhsearch.models.training.finetune import FinetuneParams, FoldTask, train_fold
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights, TrainerSpec
from tests.models.conftest import pixels_of, tissue
from tests.tasks.samples import BINARY

SIZE, BATCH, N_IMAGES = 32, 8, 24
CNN = Backbone(NAME, None, DIGEST, "cnn")
PLENTY = 1 << 30  # bytes
# Everything that draws or mixes, and that another trial would have to clean up behind.
RICH = FinetuneParams(
    depth="half", learning_rate=2e-3, layer_decay=0.9, weight_decay=0.1, optimizer="adamw", schedule="cosine",
    warmup=0.2, batch=BATCH,
    label_smoothing=0.1, dropout=0.25, policy="all", strength=0.7, mixup=0.4, epochs=2,
)  # fmt: skip
PLAIN = FinetuneParams(
    depth="half", learning_rate=1e-2, layer_decay=1.0, weight_decay=0.0, optimizer="sgd", schedule="constant",
    warmup=0.0, batch=BATCH, label_smoothing=0.0, dropout=0.0, policy="none", strength=0.5, mixup=0.0, epochs=3,
)  # fmt: skip


def own_backbone(folder) -> Backbone:
    """A small network of the user's own, with a batch norm that has seen images."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    images = seen = keras.Input((None, None, 3))
    for k, width in enumerate((8, 12, 16), start=1):
        seen = layers.Conv2D(width, 3, strides=2, use_bias=False, kernel_initializer="he_normal", name=f"conv{k}")(seen)
        seen = layers.ReLU()(layers.BatchNormalization(name=f"norm{k}")(seen))
    network = keras.Model(images, seen)
    norm = network.get_layer("norm1")
    norm.set_weights([*norm.get_weights()[:2], np.full(8, 100.0), np.full(8, 1e4)])
    network.save(folder / "small.keras")
    return find_backbones([str(folder / "small.keras")], None).backbones[0]


def shape_of(backbone: Backbone = CNN, depth: str = "all", hidden: int = 0, pieces: int = 1) -> TrainerSpec:
    return TrainerSpec(backbone, SIZE, BATCH, depth, hidden, "float32", pieces, loss=BINARY.loss)


def images_of_two_classes(n_images: int = N_IMAGES):
    """Pale and dense tissue in turns. Images and their class."""
    label = np.arange(n_images) % 2
    images = np.concatenate([tissue(1, SIZE, density=0.05 + 0.4 * k, seed=row) for row, k in enumerate(label)])
    return images, label.astype(np.float32)


def device_pixels(folder, most_bytes: int = PLENTY, images=None) -> DevicePixels:
    return DevicePixels(pixels_of(images_of_two_classes()[0] if images is None else images, folder), most_bytes)


def fold_task(fold: int = 0, n_folds: int = 3, target=None) -> FoldTask:
    """Every third image is held out."""
    rows = np.arange(N_IMAGES)
    target = images_of_two_classes()[1] if target is None else target
    held_out = rows % n_folds == fold
    training = rows[~held_out]
    return FoldTask(training, rows[held_out], target, np.ones(N_IMAGES, np.float32), -(-len(training) // BATCH))


def start_of(program: CompiledTrainer, seed: int = 0) -> ModelWeights:
    """Return the backbone's own weights with a random head."""
    random = np.random.default_rng(seed)
    weights = program.initial_weights(np.random.default_rng(seed))
    width = max(program.spec.hidden_units, 1)
    kernel = random.normal(0, 1 / program.n_features, (program.n_features, width)).astype(np.float32)
    bias = np.full(width, 0.1, np.float32)
    if program.spec.hidden_units == 0:
        return ModelWeights(weights, [kernel, bias, np.ones(1, np.float32), np.zeros((), np.float32)])
    return ModelWeights(weights, [kernel, bias, random.normal(0, 1, width).astype(np.float32), np.float32(0.2)])


def trained(program, pixels, params, fold=0, seed=(0,), task=None, on_evaluation=lambda look: None) -> ModelWeights:
    task = fold_task(fold) if task is None else task
    return train_fold(program, pixels, task, start_of(program), params, seed, on_evaluation)


def same(one: ModelWeights, other: ModelWeights) -> bool:
    """Return whether two sets of weights are bit-identical."""
    return all(
        a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip([*one.weights, *one.head], [*other.weights, *other.head], strict=True)
    )


def difference(one: ModelWeights, other: ModelWeights) -> float:
    """Return the largest absolute difference of two sets of weights."""
    pairs = zip([*one.weights, *one.head], [*other.weights, *other.head], strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)
