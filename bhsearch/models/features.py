"""Frozen features of development images, computed once per backbone and view and cached.

On a CPU, networks run on OpenVINO, in float32 or, where that is chosen, in bfloat16. In float32, it computes the same
features as Keras several times as fast. On a GPU, networks run on Keras in float32.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels
from bhsearch.data.embeddings.join import ImageVectors
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.errors import BackboneError, RunError, SettingsError
from bhsearch.models import backend, keras_settings
from bhsearch.models.augmentation.base import is_plugin_view, view_key
from bhsearch.models.augmentation.cached_views import apply_view
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.frozen.parts import FeatureParts, write_array
from bhsearch.models.frozen.pixel_rows import PixelRows, PixelSource
from bhsearch.models.frozen.precision import BF16, F32, precision_facts
from bhsearch.models.openvino import BackgroundConversion, convert
from bhsearch.models.openvino_program import LENGTHS, Forward, fastest_length, openvino_forward
from bhsearch.runtime import cache

Features = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32]
FEATURE_BACKENDS = ("auto", "openvino", "keras")
SPEEDS, SPEED_FILE = "speeds", "speed.json"  # kind of the cache entries with speeds, and the file in each
_FILE, _COST = "features.npy", "cost.json"
_NETWORKS = 8  # maximum number of networks kept in memory
_IN_MEMORY_BYTES = 256 << 20
_CPU_BATCH_PIXELS = 32 * 128**2
_GPU_BATCH_PIXELS = 256 * 224**2
_TUNING_PIXELS = 100_000_000  # from which tuning takes less time than it saves in the first views
_MEASURED_SECONDS = 0.25  # time in which the speed of a network is measured
_PART_SECONDS = 15.0  # after which computed rows are stored: longer than most features take, and little to lose
_BATCHES_AHEAD = 2  # number of batches in computation on the device while the next images are prepared


def check_feature_backend(feature_backend: str) -> None:
    """Check the name of a feature backend.

    Raises:
        SettingsError: If the name is unknown.
    """
    if feature_backend not in FEATURE_BACKENDS:
        raise SettingsError(
            f"--feature-backend must be one of {', '.join(FEATURE_BACKENDS)}, but got {feature_backend!r}."
        )


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    Attributes:
        milliseconds: Time per image in f32, including all tiles, on the machine that computed the features.
        megabytes: Size of the weights in float32.
    """

    milliseconds: float
    megabytes: float


class FeatureCache:
    """Features of the development images, computed on demand and cached.

    Args:
        pixels: Pixels of the development rows.
        feature_backend: `openvino`, `keras`, or `auto` for the faster backend on this machine.
        conversion: Conversion of the backbones that runs in the background; None to convert a backbone when its
            features are computed.
        progress: Function that is called with the names of the backbone and the view before missing features are
            computed. The function returns a callback, which is called with the numbers of images done and in total.

    Attributes:
        feature_backend: Backend that computes the features, `openvino` or `keras`.
        shifted: Features of the same images under each shift that counts in the score of a study; empty if none does.
        precisions: Precision of the features by backbone, `f32` or `bf16`; f32 for backbones that are not listed.
            Shared with the caches of changed images.
    """

    shifted: tuple[FeatureCache, ...] = ()

    def __init__(
        self,
        pixels: PixelSource,
        feature_backend: str = "auto",
        conversion: BackgroundConversion | None = None,
        progress: Callable[[str, str], Progress] | None = None,
    ) -> None:
        self._pixels = pixels
        self.feature_backend = choose_feature_backend(feature_backend)
        self._conversion = conversion
        self._progress = progress
        self.precisions: dict[str, str] = {}
        self._forward: OrderedDict[tuple[Backbone, str], tuple[Forward, float]] = OrderedDict()
        self._memory: OrderedDict[tuple[str, Backbone, str, str], Features] = OrderedDict()

    def of_changed(self, pixels: PixelSource, progress: Callable[[str, str], Progress] | None = None) -> FeatureCache:
        """Return the feature cache of changed images of the same size, which shares networks and memory with this one.

        Args:
            pixels: Pixels of the changed images.
            progress: See `FeatureCache`.
        """
        changed = copy.copy(self)
        changed._pixels, changed._progress, changed.shifted = pixels, progress, ()
        return changed

    def of_rows(self, rows: npt.NDArray[np.bool_], precisions: Mapping[str, str]) -> FeatureCache:
        """Return the feature cache of some of the images, whose features are computed without those of the others.

        Args:
            rows: Mask of the images to keep. Shape (n_images,).
            precisions: Precision of the features by backbone.
        """
        kept = self._pixels if rows.all() else PixelRows(self._pixels, np.flatnonzero(rows))
        part = self.of_changed(kept, self._progress)
        part.precisions = dict(precisions)
        return part

    @property
    def pixels_key(self) -> str:
        """Digest of the images and of all steps that led to their pixels."""
        return self._pixels.key

    def precision_of(self, backbone: Backbone) -> str:
        """Return the precision of the features of a backbone, `f32` or `bf16`."""
        return self.precisions.get(backbone.name, F32)

    def get(self, backbone: Backbone, view: str) -> Features:
        """Return the features of one view, averaged over the tiles of each image. Shape (n_images, n_features).

        Those of a joint backbone are the features of its members side by side.
        """
        if backbone.members:
            return np.concatenate([self.get(member, view) for member in backbone.members], axis=1)
        key = (self._pixels.key, backbone, view, self.precision_of(backbone))
        if key not in self._memory:
            self._memory[key] = np.load(self._folder(backbone, view) / _FILE)
            while len(self._memory) > 1 and sum(a.nbytes for a in self._memory.values()) > _IN_MEMORY_BYTES:
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def cost(self, backbone: Backbone) -> Cost:
        """Return the cost of a backbone, which is measured once, when the features of the image itself are computed.

        That of a joint backbone is the sum over its members.
        """
        if backbone.members:
            each = [self.cost(member) for member in backbone.members]
            return Cost(sum(one.milliseconds for one in each), sum(one.megabytes for one in each))
        file = self._folder(backbone, IDENTITY) / _COST
        return Cost(**json.loads(file.read_text(encoding="utf-8")))

    def is_cached(self, backbone: Backbone, view: str) -> bool:
        """Return whether the features of a view are in the cache."""
        singles = backbone.members or (backbone,)
        return all(cache.folder_of("features", self._facts(single, view)).exists() for single in singles)

    def seconds_per_view(self, backbone: Backbone) -> float:
        """Return the expected seconds of computing the features of one view of all images.

        The speed of a network is measured once, on as many images as the network processes in `_MEASURED_SECONDS`, and
        cached, so that all studies that share the cache expect the same seconds.
        """
        if backbone.members:
            return sum(map(self.seconds_per_view, backbone.members))
        facts = {
            "backbone": backbone.name,
            "weights": backbone.digest,
            "images": self._pixels.shape[1:],
            "feature_backend": self._backend_of(backbone),
            "numerics": keras_settings.numerics(),
            "version": 2,
            **precision_facts(self.precision_of(backbone)),
        }
        if not self._pixels.is_stored:
            facts["pixels"] = self._pixels.key
        folder = cache.get_or_create(SPEEDS, facts, lambda folder: self._measure(backbone, folder))
        speed: float = json.loads((folder / SPEED_FILE).read_text(encoding="utf-8"))["milliseconds"]
        return speed * self._pixels.shape[0] / 1000

    def _measure(self, backbone: Backbone, folder: Path) -> None:
        forward, _ = self._network(backbone)
        forward([next(self._batches(backbone, IDENTITY, _no_progress))])  # compile the network first
        n_read, started = 0, time.perf_counter()

        def batches() -> Iterator[Images]:
            nonlocal n_read
            for images in self._batches(backbone, IDENTITY, _no_progress):
                n_read += len(images)
                yield images
                if time.perf_counter() > started + _MEASURED_SECONDS:
                    return

        forward(batches())
        milliseconds = 1000 * (time.perf_counter() - started) * self._pixels.shape[1] / n_read
        (folder / SPEED_FILE).write_text(json.dumps({"milliseconds": milliseconds}), encoding="utf-8")

    def _folder(self, backbone: Backbone, view: str) -> Path:
        facts, parts = self._facts(backbone, view), list[FeatureParts]()

        def compute(folder: Path) -> None:
            parts.append(FeatureParts(facts, self._pixels.shape[0]))
            self._compute(backbone, view, parts[0], folder)

        folder = cache.get_or_create("features", facts, compute)
        for each in parts:
            each.remove()
        return folder

    def _facts(self, backbone: Backbone, view: str) -> dict[str, Any]:
        return {
            "backbone": backbone.name,
            "weights": backbone.digest,
            "pixels": self._pixels.key,
            "view": view_key(view),
            "executor": self._backend_of(backbone),  # kept under this name, since existing cache entries use it
            "numerics": keras_settings.numerics(),
            "version": 4,
            **precision_facts(self.precision_of(backbone)),
        }

    def _backend_of(self, backbone: Backbone) -> str:
        """Return the backend that computes the features of a backbone: OpenVINO if it is no Keras network."""
        return self.feature_backend if backbone.is_keras else "openvino"

    def _batches(
        self, backbone: Backbone, view: str, report: Progress, start: int = 0, part_seconds: float = math.inf
    ) -> Iterator[Images]:
        """Yield a view of images in batches, and report the number of images after each batch.

        Args:
            backbone: Backbone whose features are computed.
            view: Name of the view.
            report: Called with the numbers of images done and in total.
            start: Number of images to skip.
            part_seconds: Time after which the batches end, unless less than a batch remains. They end where the images
                are divided in the same way without the end, so that the features are the same bit by bit.
        """
        n_images, n_tiles = self._pixels.shape[:2]
        on_gpu = self._backend_of(backbone) == "keras" and backend.has_gpu()
        step = max(1, batch_size(self._pixels.shape[2], on_gpu) // n_tiles)
        until = time.perf_counter() + part_seconds
        for first in range(start, n_images, step):
            images = self._pixels.read(first, first + step).reshape(-1, *self._pixels.shape[2:])
            yield on_device(images, view) if on_gpu else on_host(images, view)
            done = min(first + step, n_images)
            report(done, n_images)
            is_divided_there = done * n_tiles % max(LENGTHS) == 0
            if time.perf_counter() >= until and is_divided_there and n_images - done >= step:
                return

    def _compute(self, backbone: Backbone, view: str, parts: FeatureParts, folder: Path) -> None:
        n_images, n_tiles = self._pixels.shape[:2]
        report = self._progress(backbone.name, view) if self._progress else _no_progress
        forward, megabytes = self._network(backbone)
        if view == IDENTITY:  # this view is timed, so compile the network first
            forward([next(self._batches(backbone, view, _no_progress))])
        report(parts.n_done, n_images)
        while parts.n_done < n_images:
            started = time.perf_counter()
            rows = forward(self._batches(backbone, view, report, parts.n_done, _PART_SECONDS))
            if not np.isfinite(rows).all():
                raise RunError(
                    f"The features of {backbone.name!r} contain NaN or infinite values. Leave the backbone out."
                )
            seconds = time.perf_counter() - started
            parts.add(rows.reshape(len(rows) // n_tiles, n_tiles, -1).mean(axis=1, dtype=np.float32), seconds)
        write_array(folder / _FILE, parts.rows())
        if view == IDENTITY:
            seconds = parts.seconds
            if self.precision_of(backbone) != F32:  # deployed models compute in f32
                seconds = self.of_rows(np.ones(n_images, bool), {}).seconds_per_view(backbone)
            cost = Cost(1000 * seconds / n_images, megabytes)
            (folder / _COST).write_text(json.dumps(asdict(cost)), encoding="utf-8")

    def load(self, backbone: Backbone) -> None:
        """Build a backbone, so that unsuitable weights raise an error before the first trial.

        A backbone whose OpenVINO model is cached was built before.

        Raises:
            BackboneError: If the weights do not fit the architecture.
        """
        if self._backend_of(backbone) == "openvino" and self._conversion and self._conversion.program(backbone):
            return
        self._network(backbone)

    def _network(self, backbone: Backbone) -> tuple[Forward, float]:
        """Return the forward function of a backbone, and the megabytes of its weights in float32."""
        key = (backbone, self.precision_of(backbone))
        if key not in self._forward:
            self._forward[key] = self._program(*key)
            while len(self._forward) > _NETWORKS:
                self._forward.popitem(last=False)
        self._forward.move_to_end(key)
        return self._forward[key]

    def _program(self, backbone: Backbone, precision: str) -> tuple[Forward, float]:
        size = self._pixels.shape[2]
        if self._backend_of(backbone) == "openvino":
            conversion = self._conversion or BackgroundConversion([backbone], size)
            file = conversion.program(backbone)
            if file is None and not backbone.is_keras:
                convert(backbone, size)  # which raises the error of the conversion
                file = conversion.program(backbone)
            if file is not None:
                worth_tuning = np.prod(self._pixels.shape[:4]) >= _TUNING_PIXELS
                length = fastest_length(file, precision) if worth_tuning else None
                return openvino_forward(file, length, precision), file.with_suffix(".bin").stat().st_size / 1e6
        network = backbone.build(size)
        megabytes = 4e-6 * network.count_params()
        if self.feature_backend == "openvino" and backend.name() == "tensorflow":
            with tempfile.TemporaryDirectory() as folder:  # slower to create than by a conversion, but as fast to run
                file = Path(folder) / "network.xml"
                with backend.silence_stderr():
                    network.export(str(file), format="openvino", verbose=False)
                return openvino_forward(file, precision=precision), megabytes
        if precision == BF16:
            raise BackboneError(
                f"{backbone.name!r} cannot be converted to OpenVINO, which computes features in bf16. Use "
                "--feature-precision f32."
            )
        return keras_forward(network), megabytes


class FeatureSubset(FeatureCache):
    """The features of some of the images of a feature cache.

    Args:
        features: Feature cache of all images.
        rows: Mask of the images to keep. Shape (n_images,).
    """

    def __init__(self, features: FeatureCache, rows: npt.NDArray[np.bool_]) -> None:
        self._whole, self._rows = features, rows
        self.feature_backend, self.precisions = features.feature_backend, features.precisions
        self.shifted = tuple(FeatureSubset(each, rows) for each in features.shifted)

    def get(self, backbone: Backbone, view: str) -> Features:
        """Return the features of one view. Shape (n_kept, n_features)."""
        return self._whole.get(backbone, view)[self._rows]

    def cost(self, backbone: Backbone) -> Cost:
        """Return the cost of a backbone."""
        return self._whole.cost(backbone)

    def is_cached(self, backbone: Backbone, view: str) -> bool:
        """Return whether the features of a view are in the cache."""
        return self._whole.is_cached(backbone, view)

    def seconds_per_view(self, backbone: Backbone) -> float:
        """Return the expected seconds of computing the features of one view of all images, kept or not."""
        return self._whole.seconds_per_view(backbone)

    def load(self, backbone: Backbone) -> None:
        """Build a backbone; see `FeatureCache.load`."""
        self._whole.load(backbone)


class VectorCache(FeatureCache):
    """The vectors of a data set as features, which were computed elsewhere.

    Args:
        vectors: Vectors of the images by name of the backbone; see `Dataset.vectors`.
    """

    def __init__(self, vectors: Mapping[str, ImageVectors]) -> None:
        self._vectors = vectors
        self.feature_backend, self.precisions = "none", {}
        self._memory = OrderedDict()

    def get(self, backbone: Backbone, view: str) -> Features:
        """Return the vectors. Shape (n_images, n_features)."""
        key = ("", backbone, view, F32)
        if key not in self._memory:
            self._memory.clear()  # one table may be as large as memory allows
            self._memory[key] = self._vectors[backbone.name].read()
        return self._memory[key]

    def cost(self, backbone: Backbone) -> Cost:  # noqa: ARG002
        """Return an unknown time and a size of 0, since the encoder is not here."""
        return Cost(math.nan, 0.0)

    def is_cached(self, backbone: Backbone, view: str) -> bool:  # noqa: ARG002
        """Return true."""
        return True

    def seconds_per_view(self, backbone: Backbone) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0

    def load(self, backbone: Backbone) -> None:
        """Do nothing, since vectors were checked when their file was converted."""


def on_host(images: Pixels, view: str) -> Images:
    """Compute a view of uint8 images in host memory, as float32."""
    if view == IDENTITY or is_plugin_view(view):
        return np.ascontiguousarray(apply_view(images.astype(np.float32), view))
    seen = np.empty(images.shape, np.float32)
    for image, result in zip(images[:, None], seen[:, None], strict=True):  # one image stays in the processor's cache
        result[:] = apply_view(image.astype(np.float32), view)
    return seen


def on_device(images: Any, view: str) -> Any:
    """Compute a view of uint8 images on the device, as float32.

    Images are transferred to the device as uint8, which is a quarter of the size of float32.
    """
    backend.require()
    from keras import ops

    return apply_view(ops.cast(ops.convert_to_tensor(images), "float32"), view)


def choose_feature_backend(wanted: str) -> str:
    """Return the feature backend for a setting; for `auto`, the faster backend on this machine."""
    return _fastest_feature_backend() if wanted == "auto" else wanted


def _fastest_feature_backend() -> str:
    return "keras" if backend.has_gpu() else "openvino"


def batch_size(size: int, gpu: bool = False) -> int:
    """Return the number of images per batch, which is larger on a GPU to use all cores.

    To bound memory, a batch has about the same number of pixels for all image sizes. On a CPU, it is a power of two,
    which `openvino_program` divides without a rest.

    Args:
        size: Side of the images in pixels.
        gpu: Whether the batch runs on a GPU.
    """
    pixels, most = (_GPU_BATCH_PIXELS, 1024) if gpu else (_CPU_BATCH_PIXELS, 64)
    n_images = int(np.clip(pixels // size**2, 1, most))
    return n_images if gpu else 1 << n_images.bit_length() - 1


def keras_forward(network: Any) -> Forward:
    """Return a function that computes the outputs of a network with Keras.

    The network is compiled for the size of the first batch, and smaller batches are padded. Results are fetched a few
    batches later, so that the device computes while the host prepares the next images (JAX computes asynchronously).

    Args:
        network: Keras network.

    Returns:
        A function from batches of images, each of shape (batch, size, size, 3), to the outputs of all images, of shape
        (n_images, n_outputs).
    """
    run = backend.inference(network)

    def forward(batches: Iterable[Images]) -> Features:
        outputs: list[Features] = []
        running: deque[tuple[Any, int]] = deque()
        length = 0
        for batch in batches:
            n_images = len(batch)
            length = length or n_images
            padded = batch if n_images == length else np.resize(np.asarray(batch), (length, *batch.shape[1:]))
            running.append((run(padded), n_images))
            if len(running) > _BATCHES_AHEAD:
                outputs.append(_fetched(*running.popleft()))
        outputs += [_fetched(*each) for each in running]
        return np.concatenate(outputs)

    return forward


def _fetched(output: Any, n_images: int) -> Features:
    return np.asarray(output)[:n_images]


def _no_progress(done: int, total: int) -> None:
    """Do nothing; used if no progress is reported."""
