"""The exported program accepts images of any size and agrees with Keras, or is not written."""

from __future__ import annotations

import keras
import numpy as np
import openvino
import pytest
from keras import ops

from bhsearch.errors import RunError, SettingsError
from bhsearch.models import openvino_export
from bhsearch.models.calibrated import calibrated
from bhsearch.models.resize import grid_of, resize_images
from tests.models.conftest import tissue


def network(mode, size=64):
    """P(malignant) from means over a coarse grid of the resized image: wrong pixels show in it."""
    images = keras.Input((None, None, 3), dtype="uint8", name="image")
    resized = resize_images(images, mode, size) / 255.0
    pooled = ops.average_pool(resized, size // 4, strides=size // 4)
    tiles = int(np.prod(grid_of(mode)))
    flat = ops.reshape(pooled, (-1, tiles * 48))
    kernel = np.random.default_rng(0).normal(0, 0.3, (tiles * 48, 1)).astype(np.float32)
    return calibrated(keras.Model(images, ops.sigmoid(ops.matmul(flat, kernel - kernel.mean()))), 1.4, -0.2)


@pytest.mark.parametrize("mode", ["crop", "squash", "tiles"])
def test_every_resize_answers_as_keras_does_at_any_size(mode, tmp_path):
    images = [*tissue(3, 60), *tissue(2, 100, seed=1)[:, :70], *tissue(1, 80, seed=2)[:, :, :24]]
    asked = network(mode)
    difference = openvino_export.export_openvino(asked, tmp_path, images)
    assert difference < 1e-4
    program = openvino.Core().compile_model(tmp_path / "model.xml", "CPU", openvino_export.PRECISION)
    answers = [float(program({0: image[None]})[0][0, 0]) for image in images]
    expected = [float(np.asarray(asked.predict_on_batch(image[None]))[0, 0]) for image in images]
    assert answers == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 0.02
    assert {file.name for file in tmp_path.iterdir()} == {"model.xml", "model.bin"}


def test_one_that_answers_otherwise_is_not_handed_out(tmp_path, monkeypatch):
    real = openvino_export._convertible
    monkeypatch.setattr(openvino_export, "_convertible", lambda asked: calibrated(real(asked), 1.0, 0.01))
    with pytest.raises(RunError, match=r"by 0\.002.*, more than the tolerance of 0\.0001"):
        openvino_export.export_openvino(network("crop"), tmp_path, tissue(2, 40))
    assert list(tmp_path.iterdir()) == []


def test_what_openvino_cannot_run_is_said(tmp_path):
    images = keras.Input((None, None, 3), dtype="uint8")
    blurred = ops.image.resize(ops.cast(images, "float32"), (8, 8), interpolation="lanczos3")
    asked = keras.Model(images, ops.sigmoid(ops.mean(blurred, axis=(1, 2, 3))[:, None]))
    with pytest.raises(RunError, match="OpenVINO cannot run"):
        openvino_export.export_openvino(asked, tmp_path, tissue(1, 40))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_export_lists_the_known():
    openvino_export.check_export(None)
    openvino_export.check_export("openvino")
    with pytest.raises(SettingsError, match="--export must be openvino, but got 'onnx'"):
        openvino_export.check_export("onnx")
