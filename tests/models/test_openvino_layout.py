"""Layout conversions of OpenVINO models: the values stay, and the conversions inside a network go."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import keras_forward
from bhsearch.models.openvino import BackgroundConversion
from bhsearch.models.openvino_layout import sink_transposes
from bhsearch.models.openvino_program import openvino_forward
from tests.models.conftest import tissue

HEIGHT, WIDTH, CHANNELS = 6, 5, 3  # all different, so that no axis can be taken for another one


def random(*shape):
    return np.random.default_rng(len(shape) * shape[0]).normal(size=shape).astype(np.float32)


def constant(*shape):
    return ops.constant(random(*shape))


def axes(*numbers):
    return ops.constant(np.array(numbers, np.int64))


def convolved(x):
    """A convolution of images with the channels last, as Keras exports it."""
    first = ops.transpose(x, axes(0, 3, 1, 2))
    channels = x.get_output_partial_shape(0)[3].get_length()
    kernel = constant(CHANNELS, channels, 1, 1)
    return ops.transpose(ops.convolution(first, kernel, [1, 1], [0, 0], [0, 0], [1, 1]), axes(0, 2, 3, 1))


def normalised(x):
    """A batch normalisation, as Keras exports it: with the channels in place of the rows."""
    numbers = [ops.constant(np.abs(random(CHANNELS + 0 * k)) + 0.1 * k) for k in range(1, 5)]
    inside = ops.batch_norm_inference(ops.transpose(x, axes(0, 3, 2, 1)), *numbers, 1e-3)
    return ops.transpose(inside, axes(0, 3, 2, 1))


def gated(x):
    """Channels times a gate for each image and channel."""
    return ops.multiply(x, ops.sigmoid(ops.reduce_mean(x, axes(1, 2), keep_dims=True)))


def sliced(x):
    return ops.slice(x, axes(1, 0), axes(5, 2), axes(2, 1), axes(1, -1))


def padded(x):
    return ops.pad(x, axes(0, 1, 0, 2), axes(0, 0, 3, 1), "constant", ops.constant(np.float32(2)))


STEPS = {
    "clamp": lambda x: ops.clamp(x, 0.0, 6.0),
    "cast": lambda x: ops.convert(x, np.float32),
    "normalisation": normalised,
    "bias": lambda x: ops.add(x, constant(CHANNELS)),
    "scalar": lambda x: ops.multiply(ops.constant(np.float32(3)), x),
    "image of the same values for all": lambda x: ops.subtract(constant(HEIGHT, WIDTH, CHANNELS), x),
    "gate": gated,
    "pad": padded,
    "slice": sliced,
    "branches": lambda x: ops.add(ops.relu(x), ops.exp(x)),
    "concatenation": lambda x: ops.concat([ops.relu(x), x, ops.exp(x)], -1),
    "concatenated rows": lambda x: ops.concat([x, x], 1),
    "mean over the image": lambda x: ops.reduce_mean(x, axes(1, 2), keep_dims=True),
    "mean over the channels": lambda x: ops.reduce_mean(x, axes(-1), keep_dims=True),
    "choice": lambda x: ops.select(ops.greater(x, ops.constant(np.float32(0))), x, ops.exp(x)),
}
# Steps after which no image is left, or which are left alone.
ENDS = {
    "mean": lambda x: ops.reduce_mean(x, axes(1, 2), keep_dims=False),
    "mean of the channels": lambda x: ops.reduce_mean(x, axes(3), keep_dims=False),
    "mean of the rows": lambda x: ops.reduce_max(x, axes(1), keep_dims=False),
    "mean of the columns and channels": lambda x: ops.reduce_sum(x, axes(3, 2), keep_dims=False),
    "matrix product": lambda x: ops.matmul(x, constant(CHANNELS, 4), False, False),
    "reshape": lambda x: ops.reshape(x, axes(-1, HEIGHT * WIDTH * CHANNELS), False),
}


def model_of(*steps):
    x = ops.parameter(openvino.PartialShape([-1, HEIGHT, WIDTH, CHANNELS]), np.float32)
    y = x
    for step in steps:
        y = step(y)
    return openvino.Model([y], [x])


def outputs(model):
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(model, "CPU", precise)({0: random(2, HEIGHT, WIDTH, CHANNELS)})[0]


def conversions(model):
    """The operations that change the layout of images, and not of constants."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "Transpose"]
    return [node for node in found if node.get_output_partial_shape(0)[0].is_dynamic]


@pytest.mark.parametrize("name", STEPS)
def test_conversions_around_an_operation_are_removed_and_its_values_stay(name):
    model = model_of(convolved, STEPS[name], convolved)
    expected = outputs(model)
    sink_transposes(model)
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-5, atol=1e-5)
    if name != "gate":  # whose gate is converted, which is small
        assert len(conversions(model)) == 2, "the first and the last"


@pytest.mark.parametrize("name", ENDS)
def test_the_values_stay_where_a_conversion_must_stop(name):
    model = model_of(convolved, STEPS["clamp"], ENDS[name])
    expected = outputs(model)
    sink_transposes(model)
    result = outputs(model)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_an_image_that_is_added_before_its_conversion_is_not_converted_instead():
    # The conversion of a whole image would only be moved to the other input.
    x = ops.parameter(openvino.PartialShape([-1, HEIGHT, WIDTH, CHANNELS]), np.float32)
    model = openvino.Model([convolved(ops.add(convolved(x), x))], [x])
    expected = outputs(model)
    sink_transposes(model)
    np.testing.assert_allclose(outputs(model), expected, rtol=1e-5, atol=1e-5)
    assert len(conversions(model)) == 4


def test_another_order_of_axes_is_left_alone():
    # Such as in attention, where OpenVINO has its own fusions.
    x = ops.parameter(openvino.PartialShape([-1, HEIGHT, WIDTH, CHANNELS]), np.float32)
    model = openvino.Model([ops.multiply(ops.transpose(x, axes(0, 2, 1, 3)), ops.constant(np.float32(2)))], [x])
    sink_transposes(model)
    [transpose] = conversions(model)
    assert transpose.input_value(0).get_node().get_type_name() == "Parameter"


def test_a_network_is_converted_once_and_gives_the_features_of_keras(mobilenet):
    backbones = [mobilenet, *find_backbones(["staintex-l"], None).backbones]  # one process for this test and the next
    program = BackgroundConversion(backbones, 64).program(mobilenet)
    assert len(conversions(openvino.Core().read_model(program))) == 1
    images = tissue(5, 64).astype(np.float32)
    expected = keras_forward(mobilenet.build(64))([images])
    np.testing.assert_allclose(openvino_forward(program)([images]), expected, atol=1e-4 * np.abs(expected).max())


def test_the_fixed_filters_give_the_features_of_keras():
    backbone = find_backbones(["staintex-l"], None).backbones[0]
    program = BackgroundConversion([backbone], 64).program(backbone)
    images = tissue(5, 64).astype(np.float32)
    expected = keras_forward(backbone.build(64))([images])
    np.testing.assert_allclose(openvino_forward(program)([images]), expected, atol=1e-4 * np.abs(expected).max())
