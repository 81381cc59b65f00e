from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from bhsearch.models import backend


def test_what_native_code_prints_stays_out_of_sight(capfd):
    with backend.silence_stderr():
        os.write(2, b"noise")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_what_native_code_printed_is_shown_when_the_block_fails(capfd):
    # Otherwise the only trace of a crash in a library would be lost.
    def fail():
        with backend.silence_stderr():
            os.write(2, b"the reason")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    os.write(2, b", after")
    assert capfd.readouterr().err == "the reason, after"


def test_quiet_leaves_no_file_open(tmp_path):
    probe = os.open(tmp_path, os.O_RDONLY)
    os.close(probe)
    for _ in range(3):
        with backend.silence_stderr():
            pass
    again = os.open(tmp_path, os.O_RDONLY)
    os.close(again)
    assert again == probe


def test_a_fresh_start_says_nothing_and_keeps_to_its_threads():
    script = """
from bhsearch.models import backend
backend.import_backend(threads=1)
backend.import_backend()
if backend.name() == "tensorflow":
    import tensorflow as tf
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
    tf.zeros(1)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# Optional packages of a process that has Keras, which can be imported afterwards.
_LATER = """
found = {name for name in ("matplotlib", "sklearn", "IPython") if name in sys.modules}
import keras, matplotlib, sklearn
keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
print(found)
"""


def test_the_backend_is_imported_when_it_is_needed_as_was_chosen():
    script = """
import sys
from bhsearch.models import backend
backend.import_when_needed(1, minimal=True)
backend.import_when_needed(1)
if not backend.gpu_files() and sys.platform != "darwin":
    assert not backend.has_gpu()
    assert "keras" not in sys.modules
backend.require()
assert "keras" in sys.modules
if backend.name() == "tensorflow":
    import tensorflow as tf
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
"""
    done = subprocess.run([sys.executable, "-c", script + _LATER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


def test_a_start_for_inference_leaves_optional_packages_to_those_who_ask_later():
    """A minimal start does so, too: see the test above."""
    script = "import sys; from bhsearch.models import backend; backend.import_backend_for_inference()\n"
    done = subprocess.run([sys.executable, "-c", script + _LATER], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_the_backend_has_a_name():
    assert backend.name() in ("tensorflow", "jax")


def test_a_compiled_function_gives_what_it_gave_before():
    from keras import ops

    double = backend.compiled(lambda x: ops.sum(x) * 2.0)
    for n in (3, 4, 7):
        assert float(double(ops.ones((n, 2)))) == pytest.approx(4.0 * n)


def test_one_trace_serves_every_shape_of_a_rank():
    from keras import ops

    if backend.name() != "tensorflow":
        pytest.skip("JAX compiles once a shape")
    traces = []

    def function(x):
        traces.append(x.shape)
        return ops.sum(x)

    program = backend.compiled(function)
    for n in range(2, 12):
        program(ops.ones((n, n + 1)))
    assert len(traces) <= 2  # the first shape, then any shape


def test_a_derivative_is_the_derivative():
    from keras import ops

    def loss(parameters, scale):
        a, b = parameters
        return ops.sum(scale * ops.square(a)) + 3.0 * ops.sum(b)

    a, b = np.array([1.0, -2.0], np.float32), np.array([5.0], np.float32)
    parameters = [ops.convert_to_tensor(a), ops.convert_to_tensor(b)]
    value, gradients = backend.value_and_grad(loss)(parameters, ops.convert_to_tensor(np.float32(2.0)))
    assert float(value) == pytest.approx(25.0)
    np.testing.assert_allclose(np.asarray(gradients[0]), 4.0 * a)
    np.testing.assert_allclose(np.asarray(gradients[1]), [3.0])


def test_what_cannot_be_compiled_is_run_as_it_is_from_then_on():
    calls = []

    def fast(value):
        calls.append("fast")
        raise ValueError("no such operation")

    run = backend._probed(fast, lambda value: value + 1)
    assert [run(1), run(2)] == [2, 3]
    assert calls == ["fast"]


def test_what_can_be_compiled_is_never_run_as_it_is():
    run = backend._probed(lambda value: value + 1, lambda value: pytest.fail("not this one"))
    assert [run(1), run(2)] == [2, 3]


def test_stable_names_change_no_result():
    tf = pytest.importorskip("tensorflow")

    def function(pair, n_steps):
        total, (state,) = backend.value_and_grad(lambda x, y: tf.reduce_sum(tf.tanh(x[0] @ y)))([pair[0]], pair[1])
        return {"total": total, "state": [tf.while_loop(lambda k, _: k < n_steps, steps(pair[1]), (0, state))[1]]}

    def steps(factor):
        return lambda k, x: (k + 1, tf.tanh(x @ factor))

    def flat(size):
        values = np.random.default_rng(size).normal(0, 1, (2, size, size)).astype(np.float32)
        return [*map(tf.constant, values), tf.constant(3)]

    def nested(tensors):
        return tuple(tensors[:2]), tensors[2]

    tensors = flat(4)
    named, again, direct = (
        backend._concrete(function, nested(tensors), tensors, jit=True, stable_names=stable)
        for stable in (True, True, False)
    )
    for size in (4, 7):
        results = [tf.nest.map_structure(lambda x: x.numpy().tolist(), run(*flat(size))) for run in (named, direct)]
        assert results[0] == results[1]
    del named  # which must not take the functions of the other one with it
    gc.collect()
    assert again(*flat(5))["total"].numpy() == direct(*flat(5))["total"].numpy()


def test_function_of_variables_is_not_kept():
    tf = pytest.importorskip("tensorflow")
    variable = tf.Variable(2.0)
    run = backend._concrete(lambda x: x * variable, (1.0,), [tf.constant(1.0)], jit=True, stable_names=True)
    with pytest.raises(ValueError, match="variables"):
        run(tf.constant(3.0))


def test_out_of_memory_is_told_from_other_errors():
    assert backend.is_out_of_memory(MemoryError())
    assert backend.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"))
    assert not backend.is_out_of_memory(ValueError("wrong shape"))
    assert not backend.is_out_of_memory(RuntimeError("ResourceExhaustedError: x.pb.tmp; No space left on device"))


def test_a_processor_trains_in_float32():
    if backend.has_gpu():
        pytest.skip("there is a GPU")
    assert backend.precision("auto") == "float32"
    assert backend.precision("mixed_float16") == "mixed_float16"
