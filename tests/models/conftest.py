"""Fixtures shared by the tests of models: a backend, small images, weight files, and a process without bhsearch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bhsearch.data.images.pixel_cache import PixelCache
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.keras_applications import REGISTRY
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.training.train_step import CompiledTrainer
from tests.studies import fresh_cache


def pytest_collection_modifyitems(items):
    # TensorFlow's variables answer NumPy 2 in the old way whenever Keras saves them; nothing here can change that.
    mark = pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    )
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def _backend():
    backend.import_backend()


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path_factory, monkeypatch):
    """Empty the cache of features, but share converted networks, which take seconds each."""
    monkeypatch.setenv("BHSEARCH_CACHE", fresh_cache(tmp_path_factory.mktemp("cache") / "cache", tmp_path_factory))


def tissue(n_images, size, *, density=0.3, seed=0):
    """Dark violet discs on pink, on glass at the edges. uint8, shape (n_images, size, size, 3)."""
    random = np.random.default_rng(seed)
    images = np.full((n_images, size, size, 3), (225.0, 170.0, 200.0))
    y, x = np.mgrid[:size, :size]
    for image in images:
        for _ in range(round(density * size * size / 28)):
            row, column, radius = random.uniform(0, size), random.uniform(0, size), random.uniform(1.5, 3.5)
            image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = (95.0, 60.0, 130.0)
    images[:, : size // 8] = 245.0
    return np.clip(images + random.normal(0, 4, images.shape), 0, 255).round().astype(np.uint8)


def pixels_of(images, folder, n_tiles=1):
    """A pixel cache of ready images. `images`: uint8, shape (n_images * n_tiles, size, size, 3)."""
    key = f"{hashlib.sha256(images.tobytes()).hexdigest()[:24]}-{n_tiles}"
    file = Path(folder) / f"{key}.u8"
    images.tofile(file)
    return PixelCache(key, file, (len(images) // n_tiles, n_tiles, *images.shape[1:]))


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """A folder with the weight file of MobileNet 0.25, as Keras names it: the right architecture, drawn at random."""
    import keras

    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(3)
    network = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=(64, 64, 3))
    network.save(folder / REGISTRY["mobilenet-0.25"].weights_file)
    return folder


@pytest.fixture(scope="session")
def mobilenet(random_weights) -> Backbone:
    return find_backbones(["mobilenet-0.25"], random_weights).backbones[0]


@pytest.fixture(scope="session")
def staintex_s() -> Backbone:
    return find_backbones(["staintex-s"], None).backbones[0]


_ELSEWHERE = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
for line in sys.stdin:
    model, *batches = json.loads(line)
    network = keras.saving.load_model(model)
    for images, outputs in batches:
        np.save(outputs, np.asarray(network(np.load(images), training=False)))
    print(json.dumps(sorted(name for name in sys.modules if name.startswith("bhsearch"))), flush=True)
"""


class Elsewhere:
    """A process that has Keras and has never imported bhsearch."""

    def __init__(self, folder):
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ELSEWHERE],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def predict(self, network, *batches):
        """Save a network, load it in the other process, and return its predictions, one after the other."""
        file = str(self._folder / "network.keras")
        places = [[str(self._folder / f"{name}{k}.npy") for name in ("in", "out")] for k in range(len(batches))]
        network.save(file)
        for images, (place, _) in zip(batches, places, strict=True):
            np.save(place, images)
        self._process.stdin.write(json.dumps([file, *places]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the network could not be loaded without bhsearch"
        assert json.loads(answer) == []
        return np.concatenate([np.load(place) for _, place in places])

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory):
    process = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def cnn_program():
    """Provide a trainer compiled once for all tests, which must not depend on earlier uses."""
    from tests.models.finetuning import shape_of

    return CompiledTrainer(shape_of())


@pytest.fixture(scope="session")
def lively_mobilenet(tmp_path_factory) -> Backbone:
    """MobileNet 0.25 with kernels drawn so that gradients reach its first layer, as they do not from Keras's start."""
    import keras

    folder = tmp_path_factory.mktemp("lively")
    network = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=(64, 64, 3))
    random = np.random.default_rng(3)
    for weight in network.weights:
        shape = tuple(weight.shape)
        if len(shape) == 4:
            fan = np.prod(shape[:2]) * (1 if shape[3] == 1 else shape[2])
            weight.assign(random.normal(0, np.sqrt(2 / fan), shape))
    network.save(folder / REGISTRY["mobilenet-0.25"].weights_file)
    return find_backbones(["mobilenet-0.25"], folder).backbones[0]


@pytest.fixture(scope="session")
def own_network(tmp_path_factory) -> Backbone:
    """Provide a small network, which compiles in a third of the time."""
    from tests.models.finetuning import own_backbone

    return own_backbone(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def own_program(own_network):
    """Provide a trainer of that network with a hidden layer, of which the upper half is trained."""
    from tests.models.finetuning import shape_of

    return CompiledTrainer(shape_of(own_network, "half", hidden=3))


@pytest.fixture(scope="session")
def mobilenet_program(lively_mobilenet):
    """Provide a trainer of a pretrained network with a hidden layer, of which the upper half is trained."""
    from tests.models.finetuning import shape_of

    return CompiledTrainer(shape_of(lively_mobilenet, "half", hidden=3))
