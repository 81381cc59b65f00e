"""The model that is kept: one Keras network of stock layers, uint8 RGB of any size in, P(malignant) out."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from bhsearch.models.augmentation.views import apply_view
from bhsearch.models.backbones.registry import Backbone
from bhsearch.models.losses import LINKS
from bhsearch.models.resize import grid_of, resize_images
from bhsearch.models.training.linear_probe import Heads
from bhsearch.models.training.train_step import ModelWeights
from bhsearch.tasks.binary import BINARY

_POOL = 6  # networks kept for the next trial of the same shape
_HEADS = ("fold_kernels", "fold_tops")


class ModelPool:
    """Deployed models; a model of a shape seen before only gets new head weights."""

    def __init__(self) -> None:
        self._networks: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._archives: OrderedDict[tuple[Any, ...], KerasArchive] = OrderedDict()
        self._backbones: OrderedDict[tuple[Backbone, int], Any] = OrderedDict()

    def get(self, backbone: Backbone, mode: str, size: int, views: tuple[str, ...], heads: Heads) -> Any:
        """Resize -> views -> backbone -> heads -> mean probability as one network.

        Args:
            backbone: What gives the features.
            mode: Resize, as in `resize_images`.
            size: Side in pixels that the backbone sees.
            views: Views averaged at test time; the image itself alone for none.
            heads: One head per fold and repeat; their probabilities are averaged.

        Returns:
            A Keras model from uint8 (batch, height, width, 3) to float32 (batch, 1). The next call for the same shape
            overwrites its heads.
        """
        network = self._network(backbone, mode, size, views, heads)
        kernel, bias, *top = _weights(heads)
        network.get_layer(_HEADS[0]).set_weights([kernel, bias])
        network.get_layer(_HEADS[1]).set_weights(top)
        return network

    def archive(
        self, backbone: Backbone, mode: str, size: int, views: tuple[str, ...], heads: Heads
    ) -> PrefilledArchive:
        """The same network, to be saved and for nothing else: many times faster. Arguments as in `get`."""
        key = (backbone, mode, size, views, heads.kernel.shape, heads.linear)
        archive: KerasArchive = _single_network(
            self._archives, key, lambda: KerasArchive(self._network(backbone, mode, size, views, heads), _HEADS)
        )
        return archive.filled(_weights(heads))

    def _network(self, backbone: Backbone, mode: str, size: int, views: tuple[str, ...], heads: Heads) -> Any:
        shape, linear = heads.kernel.shape, heads.linear
        features = _single_network(self._backbones, (backbone, size), lambda: backbone.build(size))
        key = (backbone, mode, size, views, shape, linear)
        return _single_network(self._networks, key, lambda: _empty_model(features, mode, size, views, shape, linear))


def ensemble(
    backbone: Backbone, mode: str, size: int, views: tuple[str, ...], hidden_units: int, members: Sequence[ModelWeights]
) -> Any:
    """Networks that were trained themselves, one per fold, as one: their probabilities are averaged.

    Args:
        backbone: What each of them was built from.
        mode: Resize, as in `resize_images`.
        size: Side in pixels that they see.
        views: Views averaged at test time; the image itself alone for none.
        hidden_units: Of their heads; 0 for linear ones.
        members: Their weights.

    Returns:
        A Keras model from uint8 (batch, height, width, 3) to float32 (batch, 1).
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
        network.trainable = False  # batch norm as in training: by its moving statistics
        entry = keras.Input((size, size, 3))
        features = keras.Model(entry, network(entry), name=f"member{number}")(seen)
        kernel, bias, top, top_bias = member.head
        hidden = layers.Dense(
            kernel.shape[1], activation="relu" if hidden_units else None, name=f"member{number}_hidden"
        )
        head = layers.Dense(1, activation=BINARY.link, name=f"member{number}_top")
        probabilities.append(head(hidden(features)))
        hidden.set_weights([kernel, bias])
        head.set_weights([top[:, None], np.reshape(top_bias, 1)])
    probability = ops.mean(ops.concatenate(probabilities, axis=-1), axis=-1, keepdims=True)
    return keras.Model(images, _over_views(probability, len(views)), name="bhsearch")


def members_of(arrays: Mapping[str, npt.NDArray[Any]], n_members: int) -> list[ModelWeights]:
    """Trained networks from arrays as `arrays_of` names them."""
    found = []
    for number in range(n_members):
        names = sorted(name for name in arrays if name.startswith(f"member{number}_"))
        weights, head = ([arrays[name] for name in names if kind in name] for kind in ("_weight", "_head"))
        found.append(ModelWeights(weights, head))
    return found


def inference_network(
    pool: ModelPool,
    backbone: Backbone,
    mode: str,
    size: int,
    model: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
) -> Any:
    """The network of a trial from what an objective gives of it, or what stands for it where it is only saved.

    Args:
        pool: For networks of a shape seen before.
        backbone: Of the trial.
        mode: Resize, as in `resize_images`.
        size: Side in pixels that frozen features are of; a finetuned network says its own.
        model: What the model is: `kind`, `views`, and what else that kind needs.
        arrays: Its weights.
    """
    views = tuple(model["views"])
    if model["kind"] == "networks":
        members = members_of(arrays, model["n_members"])
        return ensemble(backbone, mode, model["image_size"], views, model["hidden_units"], members)
    heads = Heads(arrays["kernel"], arrays["bias"], arrays["top"], arrays["top_bias"], bool(model["linear"]))
    return pool.archive(backbone, mode, size, views, heads)


def arrays_of(members: Sequence[ModelWeights]) -> dict[str, npt.NDArray[Any]]:
    """Weights of trained networks by name, to be kept in one file."""
    found: dict[str, npt.NDArray[Any]] = {}
    for number, member in enumerate(members):
        found |= {f"member{number}_weight{k:04d}": value for k, value in enumerate(member.weights)}
        found |= {f"member{number}_head{k}": value for k, value in enumerate(member.head)}
    return found


def _weights(heads: Heads) -> list[npt.NDArray[np.float32]]:
    """Weights of the layers `_HEADS`, in their order."""
    return [heads.kernel.reshape(heads.kernel.shape[0], -1), heads.bias.reshape(-1), heads.top, heads.top_bias]


def _single_network(pool: OrderedDict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """What the pool holds under a key, made first where it is missing; the one not used for longest goes."""
    if key not in pool:
        pool[key] = make()
        while len(pool) > _POOL:
            pool.popitem(last=False)
    pool.move_to_end(key)
    return pool[key]


def _empty_model(
    backbone: Any, mode: str, size: int, views: tuple[str, ...], shape: tuple[int, ...], linear: bool
) -> Any:
    import keras
    from keras import layers, ops

    n_features, n_columns, n_hidden = shape
    n_tiles = int(np.prod(grid_of(mode)))
    images = keras.Input((None, None, 3), dtype="uint8", name="image")
    resized = resize_images(images, mode, size)
    seen = _all_views(resized, views)
    features = backbone(seen)
    if n_tiles > 1:
        features = ops.mean(ops.reshape(features, (-1, n_tiles, n_features)), axis=1)
    hidden = layers.Dense(n_columns * n_hidden, name=_HEADS[0])(features)
    hidden = ops.reshape(hidden, (-1, n_columns, n_hidden))
    if not linear:
        hidden = ops.relu(hidden)
    top = layers.EinsumDense("bfh,fh->bf", output_shape=(n_columns,), bias_axes="f", name=_HEADS[1])
    by_fold = LINKS[BINARY.link](top(hidden))
    probability = ops.mean(by_fold, axis=-1, keepdims=True)
    return keras.Model(images, _over_views(probability, len(views)), name="bhsearch")


def _all_views(images: Any, views: tuple[str, ...]) -> Any:
    """Every view of a batch as one batch: one copy of what comes behind, whatever their number."""
    from keras import ops

    return ops.concatenate([apply_view(images, view) for view in views], axis=0) if len(views) > 1 else images


def _over_views(probability: Any, n_views: int) -> Any:
    """Mean over what `_all_views` put together. Shape (batch, 1)."""
    from keras import ops

    return ops.mean(ops.reshape(probability, (n_views, -1, 1)), axis=0) if n_views > 1 else probability


Array = npt.NDArray[np.float32]
_WEIGHTS = "model.weights.h5"


class KerasArchive:
    """The archive of one network, ready to get the weights of some of its layers.

    Args:
        network: A built Keras network.
        layers: Names of the layers whose weights will be given.

    Raises:
        ValueError: If the archive does not hold each of their weights exactly once.
    """

    def __init__(self, network: Any, layers: Sequence[str]) -> None:
        random = np.random.default_rng(0)
        marks = []
        for name in layers:
            layer = network.get_layer(name)
            layer.set_weights([random.normal(size=weight.shape).astype(np.float32) for weight in layer.weights])
            marks += layer.get_weights()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.keras"
            network.save(file)
            with zipfile.ZipFile(file) as archive:
                self._members = {info.filename: archive.read(info) for info in archive.infolist()}
        self._places = _find(self._members[_WEIGHTS], marks)

    def filled(self, weights: Sequence[Array]) -> PrefilledArchive:
        """The archive with these weights, in the order of the layers and of the weights in each."""
        kept = io.BytesIO(self._members[_WEIGHTS])
        with h5py.File(kept, "r+") as file:
            for place, values in zip(self._places, weights, strict=True):
                file[place][...] = values
        return PrefilledArchive(self._members | {_WEIGHTS: kept.getvalue()})


class PrefilledArchive:
    """Stands for a network where one only wants to save it.

    Args:
        members: Content per member of the archive.
    """

    def __init__(self, members: dict[str, bytes]) -> None:
        self._members = members

    def save(self, file: str | Path) -> None:
        """Write the archive, as the network's own `save` would."""
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in self._members.items():
                archive.writestr(zipfile.ZipInfo(name), content)


def _find(content: bytes, marks: Sequence[Array]) -> list[str]:
    """Where arrays lie in a file of weights; by their numbers, as Keras is free to name them as it likes."""
    found: list[list[str]] = [[] for _ in marks]

    def compare(name: str, item: Any) -> None:
        for places, mark in zip(found, marks, strict=True):
            if isinstance(item, h5py.Dataset) and item.shape == mark.shape and np.array_equal(item[()], mark):
                places.append(name)

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(compare)
    if any(len(places) != 1 for places in found):
        raise ValueError(f"Each weight of a head must lie once in the archive, but they lie at {found}.")
    return [places[0] for places in found]
