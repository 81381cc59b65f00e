"""Deployed models: Keras networks of built-in layers that map uint8 RGB images of any size to P(malignant)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.augmentation.cached_views import apply_view
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.losses import LINKS
from bhsearch.models.resize import grid_of, resize_images
from bhsearch.models.training.heads import Heads
from bhsearch.models.training.train_step import ModelWeights

_POOL_SIZE = 6  # maximum number of networks kept for later trials with the same architecture
_HEADS = ("fold_kernels", "fold_tops")


class ModelPool:
    """Pool of deployed models by architecture. A pooled model is reused by replacing the weights of its heads.

    Args:
        link: Name of the link function of the task, a key of `models.losses.LINKS`.
    """

    def __init__(self, link: str) -> None:
        self.link = link
        self._networks: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._backbones: OrderedDict[tuple[Backbone, int], Any] = OrderedDict()

    def get(self, backbone: Backbone, mode: str, size: int, views: tuple[str, ...], heads: Heads) -> Any:
        """Combine resize, views, backbone and heads into one network that averages the probabilities.

        Args:
            backbone: Backbone that computes the features.
            mode: Resize mode, see `resize_images`.
            size: Input side of the backbone in pixels.
            views: Views over which probabilities are averaged (test-time augmentation); only the image itself without
                test-time augmentation.
            heads: Heads over which probabilities are averaged, one per fold and repeat.

        Returns:
            A Keras model from uint8, shape (batch, height, width, 3), or from vectors in float32, shape
            (batch, n_features), to float32, shape (batch, 1). The next call with the same architecture overwrites the
            heads of this model.
        """
        network = self._network(backbone, mode, size, views, heads)
        kernel, bias, *output_weights = head_weights(heads)
        network.get_layer(_HEADS[0]).set_weights([kernel, bias])
        network.get_layer(_HEADS[1]).set_weights(output_weights)
        return network

    def backbone(self, backbone: Backbone, size: int) -> Any:
        """Return the network of a backbone, which the models with this backbone share."""
        return _single_network(self._backbones, (backbone, size), lambda: backbone.build(size))

    def _network(self, backbone: Backbone, mode: str, size: int, views: tuple[str, ...], heads: Heads) -> Any:
        shape, linear = heads.kernel.shape, heads.linear
        features = self.backbone(backbone, size)
        key = (backbone, mode, size, views, shape, linear)
        return _single_network(
            self._networks, key, lambda: _empty_model(features, mode, size, views, shape, linear, self.link)
        )


def ensemble(
    backbone: Backbone,
    mode: str,
    size: int,
    views: tuple[str, ...],
    hidden_units: int,
    members: Sequence[ModelWeights],
    link: str,
) -> Any:
    """Combine fine-tuned networks, one per fold and repeat, into one network that averages their probabilities.

    Args:
        backbone: Backbone of all members.
        mode: Resize mode, see `resize_images`.
        size: Input side of the backbone in pixels.
        views: Views over which probabilities are averaged (test-time augmentation); only the image itself without
            test-time augmentation.
        hidden_units: Number of hidden units of each head; 0 for linear heads.
        members: Weights of each fine-tuned network.
        link: Name of the link function, a key of `models.losses.LINKS` and an activation function of Keras.

    Returns:
        A Keras model from uint8, shape (batch, height, width, 3), to float32, shape (batch, 1).
    """
    import keras
    from keras import layers, ops

    images = keras.Input((None, None, 3), dtype="uint8", name="image")
    resized = resize_images(images, mode, size)
    seen = _all_views(resized, views)
    probabilities = []
    for number, member in enumerate(members):
        network = backbone.build(size)
        network.set_weights(member.weights)
        network.trainable = False  # batch normalisation must use its moving statistics
        entry = keras.Input((size, size, 3))
        features = keras.Model(entry, network(entry), name=f"member{number}")(seen)
        kernel, bias, output_weights, output_bias = member.head
        hidden = layers.Dense(
            kernel.shape[1], activation="relu" if hidden_units else None, name=f"member{number}_hidden"
        )
        head = layers.Dense(1, activation=link, name=f"member{number}_top")
        probabilities.append(head(hidden(features)))
        hidden.set_weights([kernel, bias])
        head.set_weights([output_weights[:, None], np.reshape(output_bias, 1)])
    probability = ops.mean(ops.concatenate(probabilities, axis=-1), axis=-1, keepdims=True)
    return keras.Model(images, _over_views(probability, len(views)), name="bhsearch")


def members_of(arrays: Mapping[str, npt.NDArray[Any]], n_members: int) -> list[ModelWeights]:
    """Restore the weights of fine-tuned networks from arrays named by `arrays_of`.

    Args:
        arrays: Arrays by name.
        n_members: Number of networks.
    """
    found = []
    for number in range(n_members):
        names = sorted(name for name in arrays if name.startswith(f"member{number}_"))
        weights, head = ([arrays[name] for name in names if kind in name] for kind in ("_weight", "_head"))
        found.append(ModelWeights(weights, head))
    return found


def arrays_of(members: Sequence[ModelWeights]) -> dict[str, npt.NDArray[Any]]:
    """Return the weights of fine-tuned networks as arrays by name, for storage in one file."""
    found: dict[str, npt.NDArray[Any]] = {}
    for number, member in enumerate(members):
        found |= {f"member{number}_weight{k:04d}": value for k, value in enumerate(member.weights)}
        found |= {f"member{number}_head{k}": value for k, value in enumerate(member.head)}
    return found


def head_weights(heads: Heads) -> list[npt.NDArray[np.float32]]:
    """Return the weights of the layers in `_HEADS`, in the order of the layers and of Keras's weights."""
    return [
        heads.kernel.reshape(heads.kernel.shape[0], -1),
        heads.bias.reshape(-1),
        heads.output_weights,
        heads.output_bias,
    ]


def _single_network(pool: OrderedDict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """Return the entry of a pool for a key; create a missing entry, and evict the least recently used entries."""
    if key not in pool:
        pool[key] = make()
        while len(pool) > _POOL_SIZE:
            pool.popitem(last=False)
    pool.move_to_end(key)
    return pool[key]


def _empty_model(
    backbone: Any, mode: str, size: int, views: tuple[str, ...], shape: tuple[int, ...], linear: bool, link: str
) -> Any:
    import keras
    from keras import layers, ops

    n_features, n_fold_models, n_hidden = shape
    if len(backbone.input_shape) == 2:
        images = keras.Input((n_features,), dtype="float32", name="vector")
        features = backbone(images)
    else:
        n_tiles = int(np.prod(grid_of(mode)))
        images = keras.Input((None, None, 3), dtype="uint8", name="image")
        features = backbone(_all_views(resize_images(images, mode, size), views))
        if n_tiles > 1:
            features = ops.mean(ops.reshape(features, (-1, n_tiles, n_features)), axis=1)
    hidden = layers.Dense(n_fold_models * n_hidden, name=_HEADS[0])(features)
    hidden = ops.reshape(hidden, (-1, n_fold_models, n_hidden))
    if not linear:
        hidden = ops.relu(hidden)
    output_weights = layers.EinsumDense("bfh,fh->bf", output_shape=(n_fold_models,), bias_axes="f", name=_HEADS[1])
    by_fold = LINKS[link](output_weights(hidden))
    probability = ops.mean(by_fold, axis=-1, keepdims=True)
    return keras.Model(images, _over_views(probability, len(views)), name="bhsearch")


def _all_views(images: Any, views: tuple[str, ...]) -> Any:
    """Concatenate all views of a batch to one batch, so that the network is called once."""
    from keras import ops

    return ops.concatenate([apply_view(images, view) for view in views], axis=0) if len(views) > 1 else images


def _over_views(probability: Any, n_views: int) -> Any:
    """Average over the views concatenated by `_all_views`. Shape (batch, 1)."""
    from keras import ops

    return ops.mean(ops.reshape(probability, (n_views, -1, 1)), axis=0) if n_views > 1 else probability
