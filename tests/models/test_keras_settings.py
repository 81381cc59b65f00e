"""keras.json must not change results, and unsupported backends are refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from bhsearch.errors import SettingsError
from bhsearch.models import features, keras_settings, openvino
from bhsearch.runtime.compiled_programs import FOLDER_NAME
from tests.models.conftest import pixels_of, tissue

ODD = {"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first", "backend": "tensorflow"}
STATE = """
import json, sys
from bhsearch.models import backend; from bhsearch.models import keras_settings
backend.{start}()
import keras
policy = keras.config.dtype_policy().name
print(json.dumps([keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format(), policy]))
"""
FEATURES = """
import json, os, sys
from pathlib import Path
import numpy as np
task = json.loads(sys.argv[1])
from bhsearch.models import backend
backend.import_backend(threads=task["threads"])
from bhsearch.data.images.pixel_cache import PixelCache
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache
pixels = PixelCache("key", Path(task["file"]), tuple(task["shape"]))
cache = FeatureCache(pixels, "keras")
backbones = find_backbones(["staintex-s", "mobilenet-0.25"], Path(task["weights"])).backbones
found = [cache.get(backbone, "stain1") for backbone in backbones]
np.savez(task["out"], *found)
"""


def keras_home(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "keras.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


def python(code, *arguments, **variables):
    environ = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environ | variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("start", ["import_backend", "import_backend_for_inference"])
def test_keras_json_sets_nothing_that_a_number_depends_on(tmp_path, start):
    state = json.loads(python(STATE.format(start=start), KERAS_HOME=keras_home(tmp_path / "k", ODD)))
    assert state == ["float32", 1e-7, "channels_last", "float32"]


@pytest.mark.parametrize(
    ("variable", "content", "name", "source"),
    [
        ("torch", {}, "torch", "KERAS_BACKEND"),
        ("numpy", {"backend": "tensorflow"}, "numpy", "KERAS_BACKEND"),
        ("openvino", {}, "openvino", "KERAS_BACKEND"),
        ("", {"backend": "torch"}, "torch", "keras.json"),
        (None, {"backend": "numpy"}, "numpy", "keras.json"),
        (None, {"backend": 3}, "3", "keras.json"),
    ],
)
def test_an_unsupported_backend_is_refused_with_where_it_came_from(
    tmp_path, monkeypatch, variable, content, name, source
):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if variable is not None:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    monkeypatch.setenv("KERAS_HOME", keras_home(tmp_path, content))
    with pytest.raises(SettingsError, match=rf"tensorflow or jax, but .*{source} names '{name}'"):
        keras_settings.check_backend()


def test_a_backend_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(keras_settings.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    with pytest.raises(SettingsError, match=r"'jax', which is set by KERAS_BACKEND, is not installed.*bhsearch\[jax\]"):
        keras_settings.check_backend()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"floatx": "float12"}, "'floatx' in .*keras.json must be float16 or float32 or float64.*'float12'"),
        ({"image_data_format": "sideways"}, "image_data_format.*sideways"),
        ({"epsilon": 1}, "epsilon.*1e-07.*is 1"),
        ("[1]", "JSON object"),
    ],
)
def test_a_keras_json_that_keras_would_fail_on_is_named(tmp_path, monkeypatch, content, words):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("KERAS_HOME", keras_home(tmp_path, content))
    with pytest.raises(SettingsError, match=words):
        keras_settings.check_backend()


@pytest.mark.parametrize("content", [ODD, {}, "no JSON"])
def test_other_files_are_taken_as_keras_takes_them(tmp_path, monkeypatch, content):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("KERAS_HOME", keras_home(tmp_path, content))
    keras_settings.check_backend()


@pytest.mark.parametrize(("value", "on"), [("0", False), ("false", False), ("1", True), (None, True)])
def test_the_switch_of_onednn_is_read_as_tensorflow_reads_it(monkeypatch, value, on):
    monkeypatch.delenv(keras_settings.ONEDNN, raising=False)
    if value is not None:
        monkeypatch.setenv(keras_settings.ONEDNN, value)
    assert keras_settings.onednn() == on
    assert keras_settings.numerics()["onednn"] == on


def test_what_a_number_depends_on_stands_in_the_keys_of_the_caches(monkeypatch, tmp_path, staintex_s):
    """What another float type, epsilon or switch made is not taken for ours."""
    asked = []
    monkeypatch.setattr(features.cache, "get_or_create", lambda kind, facts, fill: asked.append(facts) or tmp_path)
    cache = features.FeatureCache(pixels_of(tissue(2, 64), tmp_path), "keras")
    for name, value in ((None, None), ("FLOATX", "float16"), ("EPSILON", 1e-3), ("DATA_FORMAT", "channels_first")):
        with monkeypatch.context() as patch:
            if name:
                patch.setattr(keras_settings, name, value)
            cache._folder(staintex_s, "identity")
            asked.append(openvino._cache_facts(staintex_s, 64))
    for name, value in ((keras_settings.ONEDNN, "0"),):
        monkeypatch.setenv(name, value)
        cache._folder(staintex_s, "identity")
        asked.append(openvino._cache_facts(staintex_s, 64))
    keys = [features.cache.cache_key(facts) for facts in asked]
    assert len(set(keys)) == len(keys) == 10
    assert asked[0]["numerics"]["backend"] in keras_settings.BACKENDS


def test_variables_that_may_move_a_number_are_told(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = keras_settings.machine_facts()
    assert told["xla_flags"] == "--xla_cpu_enable_fast_math=false"
    assert "omp_num_threads" not in told
    assert int(told["processors"]) >= 1


def test_folder_of_compiled_programs_is_not_told(monkeypatch):
    own = f'--tf_xla_persistent_cache_directory="/home/me/{FOLDER_NAME}/abc"'
    monkeypatch.setenv("TF_XLA_FLAGS", own)
    assert "tf_xla_flags" not in keras_settings.machine_facts()
    monkeypatch.setenv("TF_XLA_FLAGS", f"--tf_xla_clustering_debug {own}")
    assert keras_settings.machine_facts()["tf_xla_flags"] == "--tf_xla_clustering_debug"


@pytest.mark.faults
def test_threads_onednn_and_keras_json_move_a_feature_by_a_ten_thousandth_at_most(tmp_path, random_weights):
    images = tissue(6, 64)
    pixels = pixels_of(images, tmp_path)
    found = []
    for (threads, onednn), content in product(product((1, 2), "01"), ({}, ODD)):
        if content and (threads, onednn) != (2, "1"):
            continue
        out = str(tmp_path / f"{threads}-{onednn}-{len(content)}.npz")
        task = {"threads": threads, "file": str(pixels.file), "shape": pixels.shape, "weights": str(random_weights)}
        python(
            FEATURES,
            json.dumps(task | {"out": out}),
            TF_ENABLE_ONEDNN_OPTS=onednn,
            OMP_NUM_THREADS=str(threads),
            BHSEARCH_CACHE=out.removesuffix(".npz"),
            KERAS_HOME=keras_home(tmp_path / f"keras{len(content)}", content),
        )
        with np.load(out) as arrays:
            found.append([arrays[name] for name in arrays.files])
    assert len(found) == 5
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert one.dtype == other.dtype == np.float32
            assert np.abs(one).max() > 0
            assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max()
