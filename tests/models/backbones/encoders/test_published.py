"""The seven encoders of ../shared: the numbers of transformers and timm, on all backends and through OpenVINO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import openvino_forward
from bhsearch.models.openvino import BackgroundConversion
from tests.conftest import SHARED
from tests.studies import cache_of

pytestmark = pytest.mark.data
FOLDER = SHARED / "data" / "encoders"
NAMES = (
    "hf-vit",
    "hf-dinov2",
    "hf-dinov2-registers",
    "hf-dinov2-swiglu",
    "timm-vit-layerscale",
    "timm-vit-registers",
    "timm-vit-swiglu",
)
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def _there() -> None:
    if not FOLDER.is_dir():
        pytest.skip("the real test material is not here: ../shared/data/encoders")


def references(name: str):
    """Sizes, images and features (class token, then mean of the patches)."""
    with np.load(FOLDER / name / "reference.npz") as content:
        arrays = dict(content)
    sizes = sorted(int(key.partition("_")[2]) for key in arrays if key.startswith("images_"))
    assert len(sizes) == 2
    for size in sizes:
        expected = np.concatenate([arrays[f"cls_{size}"], arrays[f"patch_mean_{size}"]], axis=1)
        yield size, arrays[f"images_{size}"].astype(np.float32), expected


_CONVERT = """
import json, sys
from bhsearch.models import openvino
for task in json.load(sys.stdin):
    openvino.main(task)
"""


@pytest.fixture(scope="module")
def _converted(_there, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Convert each encoder for its sizes as a study does, but in one process, which takes seconds to start."""
    tasks = []
    for name in NAMES:
        (found,) = find_backbones([f"{FOLDER / name}@cls+mean"], None).backbones
        row = [found.name, str(found.file), found.digest, found.kind]
        tasks += [{"size": size, "backbones": [row]} for size, *_ in references(name)]
    cache = os.environ | {"BHSEARCH_CACHE": cache_of(tmp_path_factory)}
    subprocess.run([sys.executable, "-c", _CONVERT], input=json.dumps(tasks), env=cache, text=True, check=True)


@pytest.mark.usefixtures("_converted")
@pytest.mark.parametrize("name", NAMES)
def test_class_token_and_patches_are_those_of_the_library(name):
    (backbone,) = find_backbones([f"{FOLDER / name}@cls+mean"], None).backbones
    for size, images, expected in references(name):
        np.testing.assert_allclose(np.asarray(backbone.build(size)(images)), expected, rtol=0, atol=TOLERANCE)
        program = BackgroundConversion([backbone], size).program(backbone)
        assert program is not None
        np.testing.assert_allclose(openvino_forward(program)([images]), expected, rtol=0, atol=TOLERANCE)


_JAX = """
import json, sys
import numpy as np
from bhsearch.models import backend
backend.import_backend()
import keras
from bhsearch.models.backbones.registry import find_backbones
for name, size, images, outputs in json.load(sys.stdin):
    (backbone,) = find_backbones([name], None).backbones
    np.save(outputs, np.asarray(backbone.build(size)(np.load(images))))
print(keras.backend.backend())
"""


def test_jax_gives_the_same_features(tmp_path: Path):
    pytest.importorskip("jax")
    tasks, wanted = [], []
    for name in NAMES:
        for size, images, expected in references(name):
            stem = tmp_path / f"{name}-{size}"
            np.save(f"{stem}-images.npy", images)
            tasks.append((f"{FOLDER / name}@cls+mean", size, f"{stem}-images.npy", f"{stem}-features.npy"))
            wanted.append(expected)
    done = subprocess.run(
        [sys.executable, "-c", _JAX],
        input=json.dumps(tasks),
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["jax"], done.stderr
    for (*_, file), expected in zip(tasks, wanted, strict=True):
        np.testing.assert_allclose(np.load(file), expected, rtol=0, atol=TOLERANCE)
