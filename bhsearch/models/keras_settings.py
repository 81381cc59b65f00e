"""Keras's configuration file and environment variables, and the values that bhsearch requires.

`~/.keras/keras.json` sets a backend, a float type, an epsilon and an image data format for all Keras programs of a
user. The backend is the user's choice; the other three would silently change scores, so they are set here.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import util
from pathlib import Path
from typing import Any

from bhsearch.errors import SettingsError
from bhsearch.runtime.environment import keras_home

FLOATX, EPSILON, DATA_FORMAT = "float32", 1e-7, "channels_last"
BACKENDS = ("tensorflow", "jax")
VARIABLE = "KERAS_BACKEND"
_DEFAULT = "tensorflow"
_EXTRAS = {"tensorflow": "pip install tensorflow", "jax": "pip install 'bhsearch[jax]'"}
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_ALLOWED = {
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_first", "channels_last"),
}
# These may change results in the last digits, or show how a machine was shared; they are logged with results.
_LOGGED = (
    "CUDA_VISIBLE_DEVICES",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_X64",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)


def check_backend() -> None:
    """Check that the backend is supported and installed, and that Keras can read keras.json, without importing either.

    Raises:
        SettingsError: If not, with the variable or file to correct.
    """
    name, source = configured_backend()
    if name not in BACKENDS:
        raise SettingsError(
            f"The backend of Keras must be {' or '.join(BACKENDS)}, but {source} names {name!r}. "
            f"Set {VARIABLE}=tensorflow to use TensorFlow."
        )
    if name not in sys.modules and util.find_spec(name) is None:
        raise SettingsError(
            f"The backend of Keras must be installed, but {source} names {name!r}, which is not. "
            f"Install it ({_EXTRAS[name]}), or set {VARIABLE} to {' or '.join(set(BACKENDS) - {name})}."
        )
    _check_file(name)


def configured_backend() -> tuple[str, str]:
    """Return the backend that Keras will use, and where it is configured, without importing Keras."""
    named = os.environ.get(VARIABLE)
    if named:
        return named, VARIABLE
    content = _content()
    if isinstance(content, dict) and "backend" in content:
        return str(content["backend"]), str(_file())
    return _DEFAULT, "Keras's default"


def pin() -> None:
    """Override the values of keras.json; Keras must be imported."""
    import keras

    keras.config.set_floatx(FLOATX)
    keras.config.set_epsilon(EPSILON)
    keras.config.set_image_data_format(DATA_FORMAT)
    keras.config.set_dtype_policy(FLOATX)  # Keras derives it from the float type once, possibly before this call


def pinned() -> dict[str, Any]:
    """Return the values set by `pin`, for cache keys."""
    return {"floatx": FLOATX, "epsilon": EPSILON, "data_format": DATA_FORMAT}


def numerics() -> dict[str, Any]:
    """Return all JSON-able settings besides the network that its results may depend on, for cache keys and runs."""
    return pinned() | {"backend": _backend(), "onednn": onednn()}


def onednn() -> bool:
    """Return whether TensorFlow may use oneDNN, which orders sums differently; True unless the user disabled it."""
    return os.environ.get(ONEDNN, "1").strip().lower() not in ("0", "false")


def machine_facts() -> dict[str, str]:
    """Return the number of processors, and set variables that may change results in the last digits."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"processors": str(usable)} | {name.lower(): os.environ[name] for name in _LOGGED if os.environ.get(name)}


def _backend() -> str:
    """Return the backend of an imported Keras, or else the configured one. Conversion processes use another one."""
    config = getattr(sys.modules.get("keras"), "config", None)
    loaded = str(config.backend()) if config is not None else ""
    return loaded if loaded in BACKENDS else configured_backend()[0]


def _file() -> Path:
    return keras_home() / "keras.json"


def _content() -> Any:
    """Return the content of keras.json; None if it is missing or invalid, which Keras ignores."""
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_file(backend: str) -> None:
    content = _content()
    if content is None:
        return
    if not isinstance(content, dict):
        raise SettingsError(f"{_file()} must contain a JSON object, but got {content!r}. Delete it, or set KERAS_HOME.")
    for key, allowed in _ALLOWED.items():
        if key in content and content[key] not in allowed:
            rule = " or ".join(allowed)
            raise SettingsError(f"{key!r} in {_file()} must be {rule}, but got {content[key]!r}. Keras cannot start.")
    if not isinstance(content.get("epsilon", EPSILON), float):
        raise SettingsError(
            f"'epsilon' in {_file()} must be a float such as {EPSILON:g}, or Keras cannot start, but got "
            f"{content['epsilon']!r}."
        )
    if backend == "jax" and content.get("nnx_enabled"):
        raise SettingsError(f"'nnx_enabled' in {_file()} must be false, but is true: NNX layers are not supported.")
