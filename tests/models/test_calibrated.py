"""The calibration inside a network equals that of the evaluation, for any image size and after saving."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from bhsearch.errors import RunError
from bhsearch.evaluation.calibration import Calibration
from bhsearch.models.calibrated import calibrated, load_network, predict_images


def brightness(steepness=0.02):
    """P(malignant) that grows with the mean brightness of an image of any size."""
    images = keras.Input((None, None, 3), dtype="uint8")
    mean = ops.mean(ops.cast(images, "float32"), axis=(1, 2, 3))
    return keras.Model(images, ops.sigmoid((mean[:, None] - 128.0) * steepness))


def images_of(*sizes, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (1, 1, 3), np.uint8) * np.ones((*size, 1), np.uint8) for size in sizes]


SIZES = [(8, 9), (8, 9), (20, 5), (8, 9), (64, 64)]


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (2.5, -0.5), (0.1, 3.0)])
def test_the_calibration_inside_is_the_one_of_the_evaluation(slope, offset):
    images = images_of(*SIZES)
    raw = np.array(list(predict_images(brightness(), images)))
    found = np.array(list(predict_images(calibrated(brightness(), slope, offset), images)))
    assert found == pytest.approx(Calibration(slope, offset).apply(raw), abs=1e-6)


def test_probabilities_of_nought_and_one_stay_numbers():
    found = list(
        predict_images(
            calibrated(brightness(100.0), 1.5, 0.0), [np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)]
        )
    )
    assert found == pytest.approx([0.0, 1.0], abs=1e-6)
    assert np.isfinite(found).all()


def test_a_saved_one_answers_the_same(tmp_path):
    network = calibrated(brightness(), 2.0, 0.3)
    network.save(tmp_path / "model.keras")
    images = images_of(*SIZES)
    assert list(predict_images(load_network(tmp_path / "model.keras"), images)) == list(predict_images(network, images))


def test_sizes_that_alternate_come_back_in_their_order():
    images = images_of(*(SIZES * 20))
    expected = [1 / (1 + np.exp(-(image.mean() - 128.0) * 0.02)) for image in images]
    assert list(predict_images(brightness(), images)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("slope", "offset"), [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_a_line_that_turns_the_ranking_over_is_refused(slope, offset):
    with pytest.raises(ValueError, match="0 < slope"):
        calibrated(brightness(), slope, offset)


def test_a_file_that_would_execute_code_is_refused(tmp_path):
    images = keras.Input((None, None, 3), dtype="uint8")
    keras.Model(images, layers.Lambda(lambda x: ops.mean(ops.cast(x, "float32"), axis=(1, 2, 3)))(images)).save(
        tmp_path / "code.keras"
    )
    with pytest.raises(RunError, match=r"Cannot load the model .*code\.keras"):
        load_network(tmp_path / "code.keras")


def test_a_torn_file_is_refused(tmp_path):
    brightness().save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "torn.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(RunError, match=r"Cannot load the model .*torn\.keras"):
        load_network(tmp_path / "torn.keras")
