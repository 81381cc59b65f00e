"""The only module that knows which framework runs under Keras."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what native libraries print on file descriptor 2 out of sight, unless the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            sink.seek(0)
            os.write(2, sink.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def start(threads: int | None = None) -> None:
    """Import Keras and its backend without their noise. Cheap when they are imported already.

    Args:
        threads: Processor threads that one operation may use; the backend's own choice where None.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with quiet():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            if threads is not None:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(1)


class _NoTensorFlow(MetaPathFinder):
    """Makes `import tensorflow` fail as it does where TensorFlow is not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        if fullname == "tensorflow":
            raise ModuleNotFoundError("TensorFlow is not for this process.", name=fullname)


def start_without_training() -> None:
    """Import Keras where networks are only built and saved: in a third of the time, and without TensorFlow.

    What is saved is the same. Keras imports TensorFlow, where it finds it, to recognise its types as soon as it saves
    something; so this process does not find it.
    """
    os.environ["KERAS_BACKEND"] = "openvino"
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _NoTensorFlow())
    with quiet():
        import keras  # noqa: F401


def name() -> str:
    """`tensorflow` or `jax`."""
    import keras

    return str(keras.backend.backend())


def has_gpu() -> bool:
    """Whether the backend sees a GPU."""
    if name() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import jax

    return any(device.platform != "cpu" for device in jax.devices())


def compiled(function: Callable[..., Any], any_shape: bool = False) -> Callable[..., Any]:
    """Compile a function of arrays, or of tuples of them.

    On TensorFlow one trace serves every shape of the same ranks; JAX compiles once a shape.

    Args:
        function: Of arrays, to arrays.
        any_shape: Whether it will see many shapes; JAX then runs it as it is, where each would be compiled.
    """
    if name() == "tensorflow":
        return _traced_once(function)
    import jax

    return function if any_shape else jax.jit(function)


def _traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Trace with open shapes from the start; TensorFlow by itself opens them one by one, with a trace for each."""
    import tensorflow as tf

    programs: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        tensors = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        key = tuple((tensor.dtype, tensor.shape.rank) for tensor in tf.nest.flatten(tensors))
        if key not in programs:
            signature = tf.nest.map_structure(lambda t: tf.TensorSpec([None] * t.shape.rank, t.dtype), tensors)
            programs[key] = tf.function(function, input_signature=signature, autograph=False)
        return programs[key](*tensors)

    return call


def value_and_grad(function: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Differentiate a scalar function by its first argument, a list of arrays."""
    if name() == "tensorflow":
        import tensorflow as tf

        def wrapped(parameters: list[Any], *rest: Any) -> tuple[Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(parameters)
                value = function(parameters, *rest)
            return value, tape.gradient(value, parameters)

        return wrapped
    import jax

    differentiated: Callable[..., tuple[Any, Any]] = jax.value_and_grad(function)
    return differentiated
