"""What Keras reads of its surroundings, and what of it holds here.

`~/.keras/keras.json` names a backend, a float type, an epsilon and an image data format for every Keras program of a
user. The backend is the user's choice; the other three would change scores without a word, so they are set here.
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
# These may change results in the last digits, or say how a machine was shared; they are written beside results.
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
    """Refuse a backend that is not supported or not installed, and a keras.json that Keras itself would fail on.

    Imports neither Keras nor a framework.

    Raises:
        SettingsError: Naming the variable or file that is wrong.
    """
    name, source = configured_backend()
    if name not in BACKENDS:
        raise SettingsError(
            f"The backend of Keras must be {' or '.join(BACKENDS)}, but {source} names {name!r}. "
            f"{VARIABLE}=tensorflow before the command chooses another."
        )
    if name not in sys.modules and util.find_spec(name) is None:
        raise SettingsError(
            f"The backend of Keras must be installed, but {source} names {name!r}, which is not here. "
            f"Install it ({_EXTRAS[name]}), or set {VARIABLE} to {' or '.join(set(BACKENDS) - {name})}."
        )
    _check_file(name)


def configured_backend() -> tuple[str, str]:
    """Name of the backend that Keras will use, and where that name comes from; without importing Keras."""
    named = os.environ.get(VARIABLE)
    if named:
        return named, VARIABLE
    content = _content()
    if isinstance(content, dict) and "backend" in content:
        return str(content["backend"]), str(_file())
    return _DEFAULT, "Keras's default"


def pin() -> None:
    """Set what keras.json may have set otherwise; Keras must be imported."""
    import keras

    keras.config.set_floatx(FLOATX)
    keras.config.set_epsilon(EPSILON)
    keras.config.set_image_data_format(DATA_FORMAT)
    keras.config.set_dtype_policy(FLOATX)  # Keras derives it from the float type once, perhaps before this


def pinned() -> dict[str, Any]:
    """What `pin` sets, for the keys of caches."""
    return {"floatx": FLOATX, "epsilon": EPSILON, "data_format": DATA_FORMAT}


def numerics() -> dict[str, Any]:
    """Everything that a result of a network may depend on beside the network: JSON-able, for keys and runs."""
    return pinned() | {"backend": _backend(), "onednn": onednn()}


def onednn() -> bool:
    """Whether TensorFlow may use oneDNN, which orders sums differently; on unless the user turned it off."""
    return os.environ.get(ONEDNN, "1").strip().lower() not in ("0", "false")


def machine_facts() -> dict[str, str]:
    """Processors, and variables that are set and may change results in the last digits."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"processors": str(usable)} | {name.lower(): os.environ[name] for name in _LOGGED if os.environ.get(name)}


def _backend() -> str:
    """Of the Keras that is imported, else the configured one. The processes that convert have one of their own."""
    config = getattr(sys.modules.get("keras"), "config", None)
    loaded = str(config.backend()) if config is not None else ""
    return loaded if loaded in BACKENDS else configured_backend()[0]


def _file() -> Path:
    return keras_home() / "keras.json"


def _content() -> Any:
    """What keras.json holds; None where it is missing or no JSON, which Keras ignores."""
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_file(backend: str) -> None:
    content = _content()
    if content is None:
        return
    if not isinstance(content, dict):
        raise SettingsError(f"{_file()} must hold a JSON object, but holds {content!r}. Delete it, or set KERAS_HOME.")
    for key, allowed in _ALLOWED.items():
        if key in content and content[key] not in allowed:
            rule = " or ".join(allowed)
            raise SettingsError(f"{key!r} in {_file()} must be {rule}, or Keras cannot start, but is {content[key]!r}.")
    if not isinstance(content.get("epsilon", EPSILON), float):
        raise SettingsError(
            f"'epsilon' in {_file()} must be written as {EPSILON:g}, or Keras cannot start, but is "
            f"{content['epsilon']!r}."
        )
    if backend == "jax" and content.get("nnx_enabled"):
        raise SettingsError(f"'nnx_enabled' in {_file()} must be false, since it changes what a layer is.")
