"""Names in graphs: the same in each process with the same function, and different for different functions."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.models import backend
from bhsearch.runtime.graph_names import use_stable_names

tf = pytest.importorskip("tensorflow")


def loss_and_gradient(width=4):
    """Return a function with loops, branches, gradients and layers, which all have names that are counted."""
    import keras
    from keras import ops

    images = keras.Input((3,))
    network = keras.Model(
        images, keras.layers.Dense(width, activation="gelu")(keras.layers.LayerNormalization()(images))
    )

    def loss(weights, inputs):
        def step(_, carry):
            seen, _ = network.stateless_call(weights, [], carry)
            return ops.cond(ops.sum(seen) > 0, lambda: carry + seen[:, :3], lambda: carry - seen[:, :3])

        return ops.sum(ops.square(ops.fori_loop(0, 3, step, inputs)))

    return lambda weights, inputs: backend.value_and_grad(loss)(weights, inputs)


def arguments(width=4):
    random = np.random.default_rng(0)
    shapes = ((3,), (3,), (3, width), (width,), (2, 3))
    *weights, inputs = (tf.constant(random.normal(0, 1, shape).astype(np.float32)) for shape in shapes)
    return weights, inputs


def graph_of(function, given):
    """Return a graph that calls the function, compiled by XLA."""
    signature = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), given)
    compiled = tf.function(function, autograph=False, jit_compile=True)
    caller = tf.function(lambda *given: compiled(*given), input_signature=signature, autograph=False)
    return caller.get_concrete_function().graph.as_graph_def()


def names_in(graph):
    return [function.signature.name for function in graph.library.function]


def test_names_do_not_depend_on_what_was_made_before():
    graphs = [graph_of(loss_and_gradient(), arguments()) for _ in range(2)]
    before = [names_in(graph) for graph in graphs]
    assert not set(before[0]) & set(before[1])  # otherwise there is nothing to do
    assert use_stable_names(graphs[0], "") == use_stable_names(graphs[1], "")
    functions = [[f.SerializeToString(deterministic=True) for f in graph.library.function] for graph in graphs]
    assert functions[0] == functions[1]
    assert len(functions[0]) > 4  # with loops and branches


def test_other_content_or_salt_has_other_names():
    def graph(width=4, factor=1.0):
        function = loss_and_gradient(width)
        return graph_of(lambda *given: tf.nest.map_structure(lambda x: factor * x, function(*given)), arguments(width))

    named = [graph(), graph(5), graph(factor=2.0)]
    assert len({use_stable_names(graph, "") for graph in named} | {use_stable_names(graph(), "tf32")}) == 4
    assert not set(names_in(named[0])) & set(names_in(named[2]))  # also for functions with the same content


def test_graph_with_two_calls_is_refused():
    inner = tf.function(lambda x: x + 1)
    graph = graph_of(lambda x: x, [tf.constant(1.0)])
    twice = tf.function(lambda x: inner(inner(x))).get_concrete_function(tf.constant(1.0)).graph.as_graph_def()
    use_stable_names(graph, "")
    with pytest.raises(ValueError, match="unpack"):
        use_stable_names(twice, "")
