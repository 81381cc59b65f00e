"""Frozen features of development images, computed once per backbone and view and cached.

On a CPU, networks run on OpenVINO in float32, which computes the same features several times as fast as Keras. On a
GPU, networks run on Keras.
"""

from __future__ import annotations

import copy
import io
import json
import math
import tempfile
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels
from bhsearch.data.embeddings.join import ImageVectors
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.errors import RunError, SettingsError
from bhsearch.models import backend, keras_settings
from bhsearch.models.augmentation.base import is_plugin_view, view_key
from bhsearch.models.augmentation.cached_views import apply_view
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.openvino import BackgroundConversion
from bhsearch.models.openvino_program import Forward, fastest_length, openvino_forward
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
        milliseconds: Time per image, including all tiles, on the machine that computed the features.
        megabytes: Size of the weights in float32.
    """

    milliseconds: float
    megabytes: float


class PixelSource(Protocol):
    """Resized pixels of all images; see `PixelCache` and `ChangedPixels`."""

    @property
    def key(self) -> str:
        """Digest of the images and of all steps that led to the pixels."""

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape of all pixels, (n_images, n_tiles, size, size, 3)."""

    @property
    def is_stored(self) -> bool:
        """Whether the pixels are read from a file, in a time that depends on their shape only."""

    def read(self, start: int, stop: int) -> Pixels:
        """Return a range of rows. Shape (n_rows, n_tiles, size, size, 3)."""


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
        self._forward: OrderedDict[Backbone, tuple[Forward, float]] = OrderedDict()
        self._memory: OrderedDict[tuple[str, Backbone, str], Features] = OrderedDict()

    def of_changed(self, pixels: PixelSource, progress: Callable[[str, str], Progress] | None = None) -> FeatureCache:
        """Return the feature cache of changed images of the same size, which shares networks and memory with this one.

        Args:
            pixels: Pixels of the changed images.
            progress: See `FeatureCache`.
        """
        changed = copy.copy(self)
        changed._pixels, changed._progress, changed.shifted = pixels, progress, ()
        return changed

    def get(self, backbone: Backbone, view: str) -> Features:
        """Return the features of one view, averaged over the tiles of each image. Shape (n_images, n_features)."""
        key = (self._pixels.key, backbone, view)
        if key not in self._memory:
            self._memory[key] = np.load(self._folder(backbone, view) / _FILE)
            while len(self._memory) > 1 and sum(a.nbytes for a in self._memory.values()) > _IN_MEMORY_BYTES:
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def cost(self, backbone: Backbone) -> Cost:
        """Return the cost of a backbone, which is measured once, when the features of the image itself are computed."""
        file = self._folder(backbone, IDENTITY) / _COST
        return Cost(**json.loads(file.read_text(encoding="utf-8")))

    def is_cached(self, backbone: Backbone, view: str) -> bool:
        """Return whether the features of a view are in the cache."""
        return cache.folder_of("features", self._facts(backbone, view)).exists()

    def seconds_per_view(self, backbone: Backbone) -> float:
        """Return the expected seconds of computing the features of one view of all images.

        The speed of a network is measured once, on as many images as the network processes in `_MEASURED_SECONDS`, and
        cached, so that all studies that share the cache expect the same seconds.
        """
        facts = {
            "backbone": backbone.name,
            "weights": backbone.digest,
            "images": self._pixels.shape[1:],
            "feature_backend": self.feature_backend,
            "numerics": keras_settings.numerics(),
            "version": 2,
        }
        if not self._pixels.is_stored:
            facts["pixels"] = self._pixels.key
        folder = cache.get_or_create(SPEEDS, facts, lambda folder: self._measure(backbone, folder))
        speed: float = json.loads((folder / SPEED_FILE).read_text(encoding="utf-8"))["milliseconds"]
        return speed * self._pixels.shape[0] / 1000

    def _measure(self, backbone: Backbone, folder: Path) -> None:
        forward, _ = self._network(backbone)
        forward([next(self._batches(IDENTITY, _no_progress))])  # compile the network first
        n_read, started = 0, time.perf_counter()

        def batches() -> Iterator[Images]:
            nonlocal n_read
            for images in self._batches(IDENTITY, _no_progress):
                n_read += len(images)
                yield images
                if time.perf_counter() > started + _MEASURED_SECONDS:
                    return

        forward(batches())
        milliseconds = 1000 * (time.perf_counter() - started) * self._pixels.shape[1] / n_read
        (folder / SPEED_FILE).write_text(json.dumps({"milliseconds": milliseconds}), encoding="utf-8")

    def _folder(self, backbone: Backbone, view: str) -> Path:
        facts = self._facts(backbone, view)
        return cache.get_or_create("features", facts, lambda folder: self._compute(backbone, view, folder))

    def _facts(self, backbone: Backbone, view: str) -> dict[str, Any]:
        return {
            "backbone": backbone.name,
            "weights": backbone.digest,
            "pixels": self._pixels.key,
            "view": view_key(view),
            "executor": self.feature_backend,  # kept under this name, since existing cache entries use it
            "numerics": keras_settings.numerics(),
            "version": 4,
        }

    def _batches(self, view: str, report: Progress) -> Iterator[Images]:
        """Yield a view of all images in batches, and report the number of images after each batch."""
        n_images, n_tiles = self._pixels.shape[:2]
        on_gpu = self.feature_backend == "keras" and backend.has_gpu()
        step = max(1, batch_size(self._pixels.shape[2], on_gpu) // n_tiles)
        for start in range(0, n_images, step):
            images = self._pixels.read(start, start + step).reshape(-1, *self._pixels.shape[2:])
            yield on_device(images, view) if on_gpu else on_host(images, view)
            report(min(start + step, n_images), n_images)

    def _compute(self, backbone: Backbone, view: str, folder: Path) -> None:
        n_images, n_tiles = self._pixels.shape[:2]
        report = self._progress(backbone.name, view) if self._progress else _no_progress
        forward, megabytes = self._network(backbone)
        if view == IDENTITY:  # this view is timed, so compile the network first
            forward([next(self._batches(view, report))])
        started = time.perf_counter()
        rows = forward(self._batches(view, report))
        milliseconds = 1000 * (time.perf_counter() - started) / n_images
        if not np.isfinite(rows).all():
            raise RunError(f"The features of {backbone.name!r} contain NaN or infinite values. Leave the backbone out.")
        whole = io.BytesIO()  # `np.save` to a file does not report a full disk
        np.save(whole, rows.reshape(n_images, n_tiles, -1).mean(axis=1, dtype=np.float32))
        (folder / _FILE).write_bytes(whole.getbuffer())
        if view == IDENTITY:
            cost = Cost(milliseconds, megabytes)
            (folder / _COST).write_text(json.dumps(asdict(cost)), encoding="utf-8")

    def load(self, backbone: Backbone) -> None:
        """Build a backbone, so that unsuitable weights raise an error before the first trial.

        A backbone whose OpenVINO model is cached was built before.

        Raises:
            BackboneError: If the weights do not fit the architecture.
        """
        if self.feature_backend == "openvino" and self._conversion and self._conversion.program(backbone):
            return
        self._network(backbone)

    def _network(self, backbone: Backbone) -> tuple[Forward, float]:
        """Return the forward function of a backbone, and the megabytes of its weights in float32."""
        if backbone not in self._forward:
            self._forward[backbone] = self._program(backbone)
            while len(self._forward) > _NETWORKS:
                self._forward.popitem(last=False)
        self._forward.move_to_end(backbone)
        return self._forward[backbone]

    def _program(self, backbone: Backbone) -> tuple[Forward, float]:
        size = self._pixels.shape[2]
        if self.feature_backend == "openvino":
            conversion = self._conversion or BackgroundConversion([backbone], size)
            file = conversion.program(backbone)
            if file is not None:
                worth_tuning = np.prod(self._pixels.shape[:4]) >= _TUNING_PIXELS
                forward = openvino_forward(file, fastest_length(file) if worth_tuning else None)
                return forward, file.with_suffix(".bin").stat().st_size / 1e6
        network = backbone.build(size)
        megabytes = 4e-6 * network.count_params()
        if self.feature_backend == "openvino" and backend.name() == "tensorflow":
            with tempfile.TemporaryDirectory() as folder:  # slower to create than by a conversion, but as fast to run
                file = Path(folder) / "network.xml"
                with backend.silence_stderr():
                    network.export(str(file), format="openvino", verbose=False)
                return openvino_forward(file), megabytes
        return keras_forward(network), megabytes


class FeatureSubset(FeatureCache):
    """The features of some of the images of a feature cache.

    Args:
        features: Feature cache of all images.
        rows: Mask of the images to keep. Shape (n_images,).
    """

    def __init__(self, features: FeatureCache, rows: npt.NDArray[np.bool_]) -> None:
        self._whole, self._rows = features, rows
        self.feature_backend = features.feature_backend
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
        self.feature_backend = "none"
        self._memory = OrderedDict()

    def get(self, backbone: Backbone, view: str) -> Features:
        """Return the vectors. Shape (n_images, n_features)."""
        key = ("", backbone, view)
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
