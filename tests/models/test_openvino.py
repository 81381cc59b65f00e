"""Backbones converted to OpenVINO: equal outputs, converted once, and correct for batches."""

import keras
import numpy as np
import pytest

from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import keras_forward
from bhsearch.models.openvino import BackgroundConversion
from bhsearch.models.openvino_program import openvino_forward, reference_images

SIZE = 48


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.float32)


def program_of(name):
    """A bank of filters and its converted file; one process converts both banks."""
    backbones = {backbone.name: backbone for backbone in find_backbones(["staintex-s", "staintex-l"], None).backbones}
    return backbones[name], BackgroundConversion(backbones.values(), SIZE).program(backbones[name])


def own(folder, name, outputs, images):
    keras.Model(images, outputs).save(folder / f"{name}.keras")
    return find_backbones([str(folder / f"{name}.keras")], None).backbones[0]


def test_a_program_gives_the_numbers_of_the_network(batch):
    backbone, program = program_of("staintex-s")
    expected = keras_forward(backbone.build(SIZE))([batch])
    np.testing.assert_allclose(openvino_forward(program)([batch[:2], batch[2:]]), expected, atol=1e-4)


def test_the_outputs_that_each_compiled_program_is_checked_with_are_those_of_the_network():
    backbone, program = program_of("staintex-s")
    expected = keras_forward(backbone.build(SIZE))([reference_images(SIZE)])
    np.testing.assert_allclose(np.load(program.with_name("reference.npy")), expected, atol=1e-4)


def test_a_flat_image_has_numbers_too():
    # On one backend the deviation of a constant was the root of a negative number.
    flat = np.stack([np.full((SIZE, SIZE, 3), value, np.float32) for value in (0, 100, 203, 244, 255)])
    _, program = program_of("staintex-l")
    assert np.isfinite(openvino_forward(program)([flat])).all()


def test_a_program_is_made_once():
    backbone, file = program_of("staintex-s")
    made = file.stat().st_mtime_ns
    again = BackgroundConversion([backbone], SIZE)
    assert again._process is None
    assert again.program(backbone).stat().st_mtime_ns == made


def test_a_network_that_gates_its_channels_is_never_run_wrongly(batch, tmp_path):
    # Keras writes the batch of one that it traced with into such a reshape.
    images = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(4, 3, strides=2)(images)
    gate = keras.layers.Reshape((1, 1, 4))(keras.layers.GlobalAveragePooling2D()(maps))
    gated = maps * keras.layers.Dense(4, activation="sigmoid")(gate)
    backbone = own(tmp_path, "gated", keras.layers.GlobalAveragePooling2D()(gated), images)
    program = BackgroundConversion([backbone], SIZE).program(backbone)
    if program is not None:
        expected = keras_forward(backbone.build(SIZE))([batch])
        np.testing.assert_allclose(openvino_forward(program)([batch]), expected, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_converted_is_left_to_keras(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"no network")
    broken = Backbone("broken", tmp_path / "broken.keras", "digest", "keras-file")
    with backend.silence_stderr():
        assert BackgroundConversion([broken], SIZE).program(broken) is None
