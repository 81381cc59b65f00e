"""Configuration of Keras: file and environment variables, and the values that bhsearch requires.

The file `~/.keras/keras.json` sets the backend, float type, epsilon and image data format of all Keras programs of a
user. The user may choose the backend. This module overrides the other three values, since they would silently change
scores.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import util
from pathlib import Path
from typing import Any

from bhsearch.errors import SettingsError
from bhsearch.runtime import tensorflow_programs
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
# Variables that are logged with results, since they may change the last digits or show how a machine was shared.
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
    """Check that the backend is supported and installed and that keras.json is valid, without importing Keras.

    Raises:
        SettingsError: If a check fails. The message names the variable or file to correct.
    """
    name, source = configured_backend()
    if name not in BACKENDS:
        raise SettingsError(
            f"The Keras backend must be {' or '.join(BACKENDS)}, but {source} names {name!r}. Set "
            f"{VARIABLE}=tensorflow to use TensorFlow."
        )
    if name not in sys.modules and util.find_spec(name) is None:
        raise SettingsError(
            f"The Keras backend {name!r}, which is set by {source}, is not installed. Install it ({_EXTRAS[name]}), or "
            f"set {VARIABLE} to {' or '.join(set(BACKENDS) - {name})}."
        )
    _check_file(name)


def configured_backend() -> tuple[str, str]:
    """Return the backend that Keras will use, and the variable or file that sets it, without importing Keras."""
    named = os.environ.get(VARIABLE)
    if named:
        return named, VARIABLE
    content = _content()
    if isinstance(content, dict) and "backend" in content:
        return str(content["backend"]), str(_file())
    return _DEFAULT, "Keras's default"


def pin() -> None:
    """Override the values of keras.json, except for the backend."""
    import keras

    keras.config.set_floatx(FLOATX)
    keras.config.set_epsilon(EPSILON)
    keras.config.set_image_data_format(DATA_FORMAT)
    keras.config.set_dtype_policy(FLOATX)  # Keras may have derived the policy from the previous float type


def pinned() -> dict[str, Any]:
    """Return the values set by `pin`, for cache keys."""
    return {"floatx": FLOATX, "epsilon": EPSILON, "data_format": DATA_FORMAT}


def numerics() -> dict[str, Any]:
    """Return the settings of Keras and its backend that may change results, as JSON-able values for keys and runs."""
    return pinned() | {"backend": _backend(), "onednn": onednn()}


def onednn() -> bool:
    """Return whether TensorFlow may use oneDNN, which changes the order of sums; True unless disabled by the user."""
    return os.environ.get(ONEDNN, "1").strip().lower() not in ("0", "false")


def machine_facts() -> dict[str, str]:
    """Return the number of usable processors and the environment variables that are logged with results."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    values = {name: os.environ.get(name, "") for name in _LOGGED}
    # The folder of compiled programs changes no result, and is a path of this machine.
    values[tensorflow_programs.FLAGS_VARIABLE] = tensorflow_programs.user_flags(
        values[tensorflow_programs.FLAGS_VARIABLE]
    )
    return {"processors": str(usable)} | {name.lower(): value for name, value in values.items() if value}


def _backend() -> str:
    """Return the backend of Keras if it is imported and supported, otherwise the configured backend.

    Conversion processes import Keras with the OpenVINO backend, but must return the configured backend.
    """
    config = getattr(sys.modules.get("keras"), "config", None)
    loaded = str(config.backend()) if config is not None else ""
    return loaded if loaded in BACKENDS else configured_backend()[0]


def _file() -> Path:
    return keras_home() / "keras.json"


def _content() -> Any:
    """Return the content of keras.json; None if the file is missing or invalid, as Keras ignores such a file."""
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_file(backend: str) -> None:
    content = _content()
    if content is None:
        return
    if not isinstance(content, dict):
        raise SettingsError(
            f"{_file()} must contain a JSON object, but contains {content!r}. Delete the file, or set KERAS_HOME to "
            "another folder."
        )
    for key, allowed in _ALLOWED.items():
        if key in content and content[key] not in allowed:
            rule = " or ".join(allowed)
            raise SettingsError(
                f"{key!r} in {_file()} must be {rule}, but is {content[key]!r}. Correct it; otherwise Keras cannot "
                "start."
            )
    if not isinstance(content.get("epsilon", EPSILON), float):
        raise SettingsError(
            f"'epsilon' in {_file()} must be a float such as {EPSILON:g}, but is {content['epsilon']!r}. Correct it; "
            "otherwise Keras cannot start."
        )
    if backend == "jax" and content.get("nnx_enabled"):
        raise SettingsError(
            f"'nnx_enabled' in {_file()} must be false, but is true: bhsearch does not support NNX layers. Set it to "
            "false."
        )
