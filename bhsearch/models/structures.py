"""Structures of deployed models: built once per architecture, kept in the cache, and filled for each trial.

A worker that has imported Keras puts the structure of each trial's model into the cache. The uploader fills it without
Keras. Should a structure be missing, the uploader imports Keras and builds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache as cached
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.errors import RunError
from bhsearch.models import backend, keras_settings
from bhsearch.models.archive import ArchiveStructure, ModelArchive, marker_arrays
from bhsearch.models.augmentation.base import view_key
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.calibrated import load_network
from bhsearch.models.graphs.deployed import deployed_graph
from bhsearch.models.graphs.network import GraphNetwork
from bhsearch.models.inference_model import ModelPool, ensemble, head_weights, members_of
from bhsearch.models.training.heads import Heads
from bhsearch.models.training.train_step import ModelWeights
from bhsearch.runtime import cache

HEADS, NETWORKS = "heads", "networks"  # kinds of models: heads on frozen features, fine-tuned networks
_KIND = "archives"
_CONSTANTS = "constants.npz"
_KEPT = 6  # number of filled archives kept for later trials with the same architecture
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Architecture:
    """Everything that determines a deployed model except for its weights.

    Attributes:
        kind: `HEADS` or `NETWORKS`.
        backbone: Backbone of the model.
        mode: Resize mode, see `resize.resize_images`.
        size: Input side of the backbone in pixels.
        views: Views over which probabilities are averaged.
        n_models: Number of heads or networks whose probabilities are averaged.
        n_features: Number of features of the backbone.
        n_hidden: Number of hidden units, 1 for linear heads.
        linear: Whether the heads have no hidden layer.
        link: Name of the link function, a key of `losses.LINKS`.
    """

    kind: str
    backbone: Backbone
    mode: str
    size: int
    views: tuple[str, ...]
    n_models: int
    n_features: int
    n_hidden: int
    linear: bool
    link: str

    @classmethod
    def of(
        cls, backbone: Backbone, mode: str, size: int, model: Mapping[str, Any], arrays: Arrays, link: str
    ) -> Architecture:
        """Return the architecture of a trial's model.

        Args:
            backbone: Backbone of the trial.
            mode: Resize mode.
            size: Input side in pixels for frozen features; fine-tuned networks use `model["image_size"]` instead.
            model: Description of the model; see `TrialResult.model`.
            arrays: Weights of the model by name.
            link: Name of the link function of the task.
        """
        views = tuple(model["views"])
        if model["kind"] == NETWORKS:
            n_features, n_hidden = arrays["member0_head0"].shape
            n_models, linear, size = model["n_members"], not model["hidden_units"], model["image_size"]
        else:
            n_features, n_models, n_hidden = arrays["kernel"].shape
            linear = bool(model["linear"])
        return cls(model["kind"], backbone, mode, size, views, n_models, n_features, n_hidden, linear, link)


def weights_of(model: Mapping[str, Any], arrays: Arrays) -> list[npt.NDArray[Any]]:
    """Return the weights of a trial's model in the order in which its structure is filled.

    Args:
        model: Description of the model; see `TrialResult.model`.
        arrays: Weights of the model by name.
    """
    if model["kind"] == HEADS:
        return list(head_weights(Heads.from_arrays(arrays, bool(model["linear"]))))
    return [array for member in members_of(arrays, model["n_members"]) for array in _weights_of_member(member)]


def _weights_of_member(member: ModelWeights) -> list[npt.NDArray[Any]]:
    kernel, bias, output_weights, output_bias = member.head
    return [*member.weights, kernel, bias, output_weights[:, None], np.reshape(output_bias, 1)]


class StructureBuilder:
    """Builder of structures in a process that has imported Keras. Structures are put into the cache.

    Args:
        link: Name of the link function of the task.
    """

    def __init__(self, link: str) -> None:
        self._pool = ModelPool(link)

    def __call__(self, architecture: Architecture) -> None:
        """Build the structure of an architecture unless it is in the cache.

        Raises:
            BackboneError: If the weights of the backbone do not fit its architecture.
            PlaceError: If the cache cannot be written.
        """
        cache.get_or_create(_KIND, _facts(architecture), lambda folder: self._build(architecture, folder))
        if architecture.kind == HEADS:
            cache.get_or_create(_KIND, _constant_facts(architecture), lambda folder: self._keep(architecture, folder))

    def _build(self, architecture: Architecture, folder: Path) -> None:
        with _building():
            if architecture.kind == HEADS:
                network, markers = self._with_marked_heads(architecture)
                constants = self._constants(architecture)
            else:
                network, markers = _marked_ensemble(architecture)
                constants = []
            with tempfile.TemporaryDirectory() as place:
                file = Path(place) / "network.keras"
                network.save(file)
                ArchiveStructure.of_file(file, markers, constants).write(folder)

    def _with_marked_heads(self, architecture: Architecture) -> tuple[Any, list[npt.NDArray[Any]]]:
        n_models, n_hidden = architecture.n_models, architecture.n_hidden
        shapes = [
            (architecture.n_features, n_models, n_hidden),
            (n_models, n_hidden),
            (n_models, n_hidden),
            (n_models,),
        ]
        kernel, bias, top, top_bias = marker_arrays((shape, np.float32) for shape in shapes)
        heads = Heads(kernel, bias, top, top_bias, architecture.linear)
        network = self._pool.get(architecture.backbone, architecture.mode, architecture.size, architecture.views, heads)
        return network, list(head_weights(heads))

    def _constants(self, architecture: Architecture) -> list[npt.NDArray[Any]]:
        network = self._pool.backbone(architecture.backbone, architecture.size)
        return [np.asarray(weight) for weight in network.get_weights()]

    def _keep(self, architecture: Architecture, folder: Path) -> None:
        with _building():
            constants = self._constants(architecture)
        np.savez(folder / _CONSTANTS, *constants)


def _marked_ensemble(architecture: Architecture) -> tuple[Any, list[npt.NDArray[Any]]]:
    network = architecture.backbone.build(architecture.size)
    like = [(weight.shape, weight.dtype) for weight in network.get_weights()]
    n_weights, n_hidden = len(like), architecture.n_hidden
    shapes = ((architecture.n_features, n_hidden), (n_hidden,), (n_hidden,), ())
    like += [(shape, np.dtype(np.float32)) for shape in shapes]
    arrays = marker_arrays(like * architecture.n_models)
    starts = range(0, len(arrays), len(like))
    members = [
        ModelWeights(arrays[start : start + n_weights], arrays[start + n_weights : start + len(like)])
        for start in starts
    ]
    made = ensemble(
        architecture.backbone,
        architecture.mode,
        architecture.size,
        architecture.views,
        0 if architecture.linear else n_hidden,
        members,
        architecture.link,
    )
    return made, [array for member in members for array in _weights_of_member(member)]


@contextlib.contextmanager
def _building() -> Iterator[None]:
    """Build on the CPU, without importing TensorFlow if it is not the backend, and without warnings of its arrays."""
    import keras

    with warnings.catch_warnings(), keras.device("cpu:0"), backend.without_tensorflow():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


def build_here(architecture: Architecture) -> None:
    """Build the structure of an architecture and put it into the cache, with the OpenVINO backend of Keras.

    Keras is imported by the first call; if it is imported already, its backend is used.

    Raises:
        RunError: If the structure cannot be built.
    """
    if not backend.is_imported():
        backend.import_backend_for_inference()
    try:
        StructureBuilder(architecture.link)(architecture)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"The model of backbone {architecture.backbone.name!r} cannot be built: {reason}") from error


class ArchivePool:
    """Archives of models, filled from structures in the cache, without Keras unless a structure is missing.

    Args:
        link: Name of the link function of the task.
        build: Puts the structure of an architecture into the cache; called if it is missing.
    """

    def __init__(self, link: str, build: Callable[[Architecture], None] = build_here) -> None:
        self._link, self._build = link, build
        self._archives: OrderedDict[Architecture, ModelArchive] = OrderedDict()

    def get(
        self, backbone: Backbone, mode: str, size: int, model: Mapping[str, Any], arrays: Arrays
    ) -> ModelArchive | GraphNetwork:
        """Return the archive of a trial's model; for the arguments see `Architecture.of`.

        If the backbone is no Keras network, the model itself is returned, which is a graph.

        Raises:
            BackboneError: If the file of a backbone has changed.
            RunError: If the structure of the model cannot be built.
        """
        if not backbone.is_keras:
            heads = Heads.from_arrays(arrays, bool(model["linear"]))
            return GraphNetwork(deployed_graph(backbone, mode, tuple(model["views"]), heads, self._link))
        architecture = Architecture.of(backbone, mode, size, model, arrays, self._link)
        weights = weights_of(model, arrays)
        if architecture.kind == NETWORKS:  # all weights differ, and they are too large to be kept
            return self._found(architecture)[0].filled(weights)
        if architecture not in self._archives:
            structure, constants = self._found(architecture)
            self._archives[architecture] = structure.filled([*weights, *constants])
            while len(self._archives) > _KEPT:
                self._archives.popitem(last=False)
        self._archives.move_to_end(architecture)
        return self._archives[architecture].refilled(weights)

    def load(self, backbone: Backbone, mode: str, size: int, model: Mapping[str, Any], arrays: Arrays) -> Any:
        """Return the network of a trial's model, loaded from its archive; see `get`."""
        found = self.get(backbone, mode, size, model, arrays)
        if isinstance(found, GraphNetwork):
            return found
        with tempfile.TemporaryDirectory() as folder:
            found.save(Path(folder) / "model.keras")
            return load_network(Path(folder) / "model.keras")

    def _found(self, architecture: Architecture) -> tuple[ArchiveStructure, Sequence[npt.NDArray[Any]]]:
        found = _lookup(architecture)
        if found is None:
            self._build(architecture)
            found = _lookup(architecture)
        if found is None:
            raise RunError(
                f"The structure of the model was evicted from the cache {cache.cache_root()} before it could be used. "
                "Increase the size limit of the cache."
            )
        return found


def _lookup(architecture: Architecture) -> tuple[ArchiveStructure, Sequence[npt.NDArray[Any]]] | None:
    folder = cache.lookup(_KIND, _facts(architecture))
    if folder is None:
        return None
    structure = ArchiveStructure.read(folder)
    if architecture.kind == NETWORKS:
        return structure, []
    kept = cache.lookup(_KIND, _constant_facts(architecture))
    if kept is None:
        return None
    with np.load(kept / _CONSTANTS) as arrays:
        return structure, [arrays[f"arr_{number}"] for number in range(len(arrays.files))]


def _facts(architecture: Architecture) -> dict[str, Any]:
    views = [view_key(view) for view in architecture.views]
    return asdict(architecture) | {"backbone": _backbone_facts(architecture), "views": views, "code": _code()}


def _constant_facts(architecture: Architecture) -> dict[str, Any]:
    return {"backbone": _backbone_facts(architecture), "size": architecture.size, "code": _code()}


def _backbone_facts(architecture: Architecture) -> dict[str, Any]:
    backbone = architecture.backbone
    facts = {"name": backbone.name, "weights": backbone.digest, "kind": backbone.kind}
    return facts | keras_settings.pinned() | {"keras": metadata.version("keras")}


@cached
def _code() -> str:
    """Return a digest of the code that builds networks, so that other code makes other structures."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:24]
