"""Interface to Keras's backend. Only this module calls TensorFlow or JAX directly."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from bhsearch.models import keras_settings
from bhsearch.runtime import graph_names, jax_programs, tensorflow_programs


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Suppress standard error, including output of native libraries; if the block fails, write the output."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(original, 2)
            sink.seek(0)
            os.write(2, sink.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


@dataclass
class _Pending:
    """How the backend will be imported when it is needed."""

    threads: int | None = None
    minimal: bool = False


_PENDING = _Pending()
_IMPORTING = threading.Lock()
# Device files of GPUs and TPUs. On macOS, GPUs have none.
_DEVICES = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/dev/accel0")


def import_when_needed(threads: int | None = None, minimal: bool = False) -> None:
    """Choose how `require` imports the backend, unless it is imported already.

    Args:
        threads: See `import_backend`.
        minimal: See `import_backend`; a process that once chose it keeps it.
    """
    _PENDING.threads, _PENDING.minimal = threads, minimal or _PENDING.minimal


def is_imported() -> bool:
    """Return whether Keras is imported."""
    return "keras" in sys.modules


def require() -> None:
    """Import the backend if Keras is not imported yet. A frozen study with cached features on a CPU never needs it."""
    with _IMPORTING:
        if not is_imported():
            import_backend(_PENDING.threads, _PENDING.minimal)


def import_backend(threads: int | None = None, minimal: bool = False) -> None:
    """Import Keras and the configured backend without log messages, and set Keras's configuration.

    Args:
        threads: Processor threads per operation; None for the backend's default.
        minimal: Whether Keras may do without its plots and its wrappers for scikit-learn, which takes a quarter off the
            import. For processes that run nothing but bhsearch.

    Raises:
        SettingsError: If the configured backend is not supported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault(keras_settings.ONEDNN, "1")
    keras_settings.check_backend()
    if keras_settings.configured_backend()[0] == "jax":
        jax_programs.use_cache()
    elif gpu_files():  # on a CPU, TensorFlow's programs are not compiled
        tensorflow_programs.use_cache()
    with silence_stderr(), _hidden(_OPTIONAL if minimal else ()):
        import keras

        keras_settings.pin()
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            if threads is not None:
                with contextlib.suppress(
                    RuntimeError
                ):  # TensorFlow is in use already, in a notebook or after another study
                    tf.config.threading.set_intra_op_parallelism_threads(threads)
                    tf.config.threading.set_inter_op_parallelism_threads(1)


class _Hidden(MetaPathFinder):
    """Import hook that makes packages look as if they were not installed."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        if fullname in self._packages:
            raise ModuleNotFoundError(f"{fullname} must not be imported here.", name=fullname)


# What Keras imports if it is installed: for its plots, its editor of files and its wrappers.
_OPTIONAL = ("matplotlib", "IPython", "sklearn")


@contextlib.contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Hide packages that are not yet imported while the block runs."""
    hook = _Hidden(packages)
    sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        sys.meta_path.remove(hook)


def import_backend_for_inference() -> None:
    """Import Keras with the OpenVINO backend, for building and saving networks in a process without TensorFlow.

    The import takes a third of the time, and saved networks are the same. Keras would import an installed TensorFlow
    when saving a network, so an import hook hides TensorFlow from the process.
    """
    os.environ["KERAS_BACKEND"] = "openvino"
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Hidden(("tensorflow",)))
    with silence_stderr(), _hidden(_OPTIONAL):
        import keras  # noqa: F401

        keras_settings.pin()


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Hide TensorFlow in the block if it is not imported, since Keras imports it with any backend to save a network."""
    with _hidden(() if "tensorflow" in sys.modules else ("tensorflow",)):
        yield


def title() -> str:
    """Return the display name of the configured backend without importing the backend."""
    return "JAX" if os.environ.get("KERAS_BACKEND") == "jax" else "TensorFlow"


def name() -> str:
    """Return the backend in use: `tensorflow` or `jax`. The backend is imported if it is not."""
    require()
    import keras

    return str(keras.backend.backend())


def gpu_files() -> bool:
    """Return whether this machine has device files of a GPU or TPU, which needs no import."""
    return any(Path(device).exists() for device in _DEVICES)


def has_gpu() -> bool:
    """Return whether the backend has a GPU. The backend is imported only if the machine may have one."""
    if not is_imported() and sys.platform != "darwin" and not gpu_files():
        return False
    if name() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import jax

    return any(device.platform != "cpu" for device in jax.devices())


def compiled(function: Callable[..., Any], donate_argnums: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Compile a function of arrays, or of nested tuples of arrays.

    TensorFlow compiles once for all shapes with the same ranks and dtypes; JAX compiles once per shape.

    Args:
        function: Function from arrays to arrays.
        donate_argnums: Positions of arguments whose memory JAX may reuse for the result. The caller must not use these
            arguments after the call.
    """
    if name() == "tensorflow":
        return _traced_once(function)
    import jax

    program: Callable[..., Any] = jax.jit(function, donate_argnums=donate_argnums)
    return program


def _traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for TensorFlow with dynamic shapes from the first call.

    Without a signature, TensorFlow would trace the function again for several of the first shapes.
    """
    import tensorflow as tf

    programs: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        tensors = [tf.convert_to_tensor(argument) for argument in tf.nest.flatten(arguments)]
        key = tuple((tensor.dtype, tensor.shape.rank) for tensor in tensors)
        if key not in programs:
            plain = _concrete(function, arguments, tensors)
            programs[key] = _probed(_by_xla(function, arguments, tensors), plain) if has_gpu() else plain
        return programs[key](*tensors)

    return call


def _by_xla(function: Callable[..., Any], arguments: Any, tensors: list[Any]) -> Callable[..., Any]:
    """Return a function of flat tensors that XLA compiles, or finds among the compiled programs on disk.

    If a call with the cache fails, because a program cannot be read or its graph cannot be renamed, this call and all
    later ones use a function with names of TensorFlow, under which there is no program on disk.
    """
    direct = _concrete(function, arguments, tensors, jit=True)
    if not tensorflow_programs.in_use():
        return direct
    kept = _concrete(function, arguments, tensors, jit=True, stable_names=True)
    failed: list[bool] = []

    def call(*given: Any) -> Any:
        if not failed:
            try:
                with tensorflow_programs.sealing():
                    return kept(*given)
            except Exception as error:  # TensorFlow raises many types for programs that it cannot read
                if is_out_of_memory(error):
                    raise
                failed.append(True)
        return direct(*given)

    return call


def _concrete(
    function: Callable[..., Any],
    arguments: Any,
    tensors: list[Any],
    jit: bool = False,
    stable_names: bool = False,
) -> Callable[..., Any]:
    """Return a function of flat tensors that is traced on its first call.

    A call with flat tensors takes half the time of a call with nested arguments.

    Args:
        function: Function of arrays.
        arguments: Nested arguments of `function`.
        tensors: The same arguments as a flat list of tensors.
        jit: Whether XLA compiles the function.
        stable_names: Whether the names in the traced graph are the same in each process, see `graph_names`.
    """
    import tensorflow as tf

    structure = tf.nest.map_structure(lambda _: None, arguments)  # without the arrays, which would stay in memory

    def flat(*given: Any) -> Any:
        return function(*tf.nest.pack_sequence_as(structure, given))

    signature = [tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype) for tensor in tensors]
    traced: list[Callable[..., Any]] = []

    def call(*given: Any) -> Any:
        if not traced:
            made = tf.function(flat, input_signature=signature, autograph=False, jit_compile=jit or None)
            traced.append(_with_stable_names(made, signature) if stable_names else made.get_concrete_function())
        return traced[0](*given)

    return call


def _with_stable_names(function: Any, signature: list[Any]) -> Callable[..., Any]:
    """Trace a `tf.function` of flat tensors, and return a function that calls it under a name from its content.

    Raises:
        ValueError: If the function uses variables, which have no place in a stored program.
    """
    import tensorflow as tf

    caller = tf.function(lambda *given: function(*given), input_signature=signature, autograph=False)
    traced = caller.get_concrete_function()
    if traced.captured_inputs:
        raise ValueError("A function whose compiled program is kept must not use variables.")
    graph = traced.graph.as_graph_def()
    graph_names.use_stable_names(graph, f"tf32={tf.config.experimental.tensor_float_32_execution_enabled()}")
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (traced.inputs, traced.outputs))
    structure = traced.structured_outputs

    def call(*given: Any) -> Any:
        found = tf.graph_util.import_graph_def(graph, dict(zip(inputs, given, strict=True)), outputs, name="")
        return tf.nest.pack_sequence_as(structure, found)

    # Unlike `tf.function`, this makes the functions of the imported graph known to TensorFlow.
    imported: Callable[..., Any] = tf.compat.v1.wrap_function(call, signature)
    return imported


def _probed(fast: Callable[..., Any], safe: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `fast` if the first call of `fast` succeeds, and otherwise always `safe`.

    XLA is much faster than plain TensorFlow on a GPU, but cannot compile every operation, which is only known after an
    attempt. If the first call fails for another reason, such as exhausted memory, `safe` raises the same error.
    """
    chosen: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if chosen:
            return chosen[0](*arguments)
        try:
            result = fast(*arguments)
        except Exception:  # compilers raise many types
            chosen.append(safe)
            return safe(*arguments)
        chosen.append(fast)
        return result

    return call


def inference(network: Any) -> Callable[[Any], Any]:
    """Return a compiled function from a batch of images to the outputs of a network.

    On JAX, the function returns before the computation is finished, unlike Keras's `predict_on_batch`.
    """
    if name() == "tensorflow":
        predict: Callable[[Any], Any] = network.predict_on_batch
        return predict
    state = tuple(
        [variable.value for variable in kind] for kind in (network.trainable_variables, network.non_trainable_variables)
    )
    run = compiled(lambda state, images: network.stateless_call(*state, images, training=False)[0])
    return lambda images: run(state, images)


def value_and_grad(function: Callable[..., Any], has_aux: bool = False) -> Callable[..., Any]:
    """Differentiate a scalar function with respect to its first argument, a list of arrays.

    Args:
        function: Function that returns the scalar or, with `has_aux`, a pair of the scalar and an auxiliary output.
        has_aux: Whether `function` returns an auxiliary output.

    Returns:
        A function of the same arguments that returns the output of `function` and the list of gradients.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        def wrapped(parameters: list[Any], *rest: Any) -> tuple[Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(parameters)
                given = function(parameters, *rest)
            return given, tape.gradient(given[0] if has_aux else given, parameters)

        return wrapped
    import jax

    differentiated: Callable[..., Any] = jax.value_and_grad(function, has_aux=has_aux)
    return differentiated


def steps_per_call() -> int:
    """Return the maximum number of training steps that one call of a compiled program runs.

    Returns:
        1 << 30 for TensorFlow, in effect no limit, because each call has an overhead of a millisecond. 16 for JAX on a
        GPU, where 16 steps per call take 22 % less time than single steps (`experiments/benchmarks/gpu`, MobileNetV2 at
        224 px). 1 for JAX on a CPU, because convolutions in a compiled loop are many times slower.
    """
    if name() == "tensorflow":
        return 1 << 30
    return 16 if has_gpu() else 1


@contextlib.contextmanager
def in_precision(name: str) -> Iterator[None]:
    """Set Keras's global dtype policy within a `with` block, for building networks."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device or the machine is out of memory."""
    text = f"{type(error).__name__} {error}"
    return isinstance(error, MemoryError) or (
        any(word in text for word in ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OOM when"))
        and "No space left on device" not in text  # a full disk is a resource of TensorFlow, too
    )


def peak_memory_bytes() -> int | None:
    """Return the peak memory of the GPU in bytes; None without a GPU."""
    if not has_gpu():
        return None
    if name() == "tensorflow":
        import tensorflow as tf

        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    import jax

    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def precision(wanted: str) -> str:
    """Return Keras's name of the training precision.

    Args:
        wanted: `auto`, `float32`, `mixed_bfloat16` or `mixed_float16`.

    Returns:
        `wanted`; or for `auto`, `float32` on a CPU, `mixed_bfloat16` on a GPU with hardware support for bfloat16, and
        `mixed_float16` on other GPUs.
    """
    if wanted != "auto":
        return wanted
    if not has_gpu():
        return "float32"
    if name() == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return "mixed_bfloat16" if details.get("compute_capability", (0, 0))[0] >= 8 else "mixed_float16"
    import jax

    return "mixed_bfloat16" if float(getattr(jax.devices()[0], "compute_capability", 0)) >= 8 else "mixed_float16"
