"""Shifts agree with OpenCV and with their definitions, and depend on the image and the case only."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bhsearch.models.augmentation.shifts import SHIFTS, case_stain_matrix
from bhsearch.models.augmentation.stain import HE_TO_RGB
from tests.models.conftest import tissue

NAMES = tuple(SHIFTS)
SIDES = (1, 2, 17, 50)


@pytest.fixture(scope="module")
def image():
    return tissue(1, 150)[0, :120]


def shifted(name, image, case="a"):
    return SHIFTS[name].apply(image, case)


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_is_a_function_of_image_and_case_and_keeps_the_size(name, image):
    for height in SIDES:
        for width in SIDES:
            part = image[:height, :width]
            before = part.copy()
            found = shifted(name, part)
            assert found.dtype == np.uint8
            assert found.shape == part.shape
            np.testing.assert_array_equal(found, shifted(name, np.ascontiguousarray(part)))
            np.testing.assert_array_equal(part, before)
    assert (shifted(name, image) != image).any()


@pytest.mark.parametrize("name", NAMES)
def test_only_shifts_by_case_depend_on_the_case(name, image):
    assert (shifted(name, image, "a") != shifted(name, image, "b")).any() == SHIFTS[name].by_case


def test_brightness_is_a_factor(image):
    reference = cv2.convertScaleAbs(image, alpha=0.7)
    assert np.abs(shifted("brightness", image).astype(int) - reference).max() <= 1


def test_compression_is_that_of_opencv(image):
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 30])
    reference = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    difference = np.abs(shifted("jpeg", image).astype(int) - reference)
    assert difference.mean() < 0.1 * np.abs(image.astype(int) - reference).mean()


@pytest.mark.parametrize("side", [120, 350])
def test_blur_is_gaussian_of_one_percent_of_the_side_and_at_least_a_pixel(side):
    image = tissue(1, side)[0]
    sigma = max(1.0, side / 100)
    reference = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    difference = np.abs(shifted("blur", image) - reference)
    assert difference.max() <= 1.5
    assert difference.mean() < 0.1 * np.abs(image - reference).mean()


def test_half_resolution_is_the_mean_of_squares_enlarged(image):
    mean = image.reshape(60, 2, 75, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    reference = cv2.resize(mean, (150, 120), interpolation=cv2.INTER_LINEAR)
    assert np.abs(shifted("half_resolution", image).astype(int) - reference).max() <= 2  # rounded twice


def test_the_stain_matrix_mixes_two_stains_of_other_directions_and_amounts():
    residual = HE_TO_RGB[2].astype(float)
    for case in map(str, range(50)):
        matrix = case_stain_matrix(case)
        np.testing.assert_allclose(residual @ matrix, residual, atol=1e-6)
        for stain in HE_TO_RGB[:2].astype(float):
            mixed = stain @ matrix
            amount = np.linalg.norm(mixed)
            assert 1 / 1.4 <= amount <= 1.4
            assert mixed.min() >= 0  # no stain makes light
            assert np.degrees(np.arccos(mixed @ stain / amount)) < 15


def test_pure_stain_becomes_the_stain_of_the_case():
    density = np.linspace(0.0, 1.0, 40)[:, None, None] * HE_TO_RGB[0]  # haematoxylin only
    image = (256 * np.exp(-density) - 1).round().astype(np.uint8)
    exact = 256 * np.exp(np.log((image + 1.0) / 256) @ case_stain_matrix("a")) - 1
    assert np.abs(shifted("stain", image) - np.clip(exact, 0, 255)).max() <= 0.51


def test_cases_of_the_same_letters_have_different_stains():
    assert not np.allclose(case_stain_matrix("ab"), case_stain_matrix("ba"))
