"""Drift of a batch of cases: shifted batches are found, others are not, and what is stored gives the same scores."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bhsearch.evaluation.drift import CaseMeans, DriftTest, Reference, halves, image_statistics


def drawn(n_cases: int, seed: int, n_images: int = 6, shift: float = 0.0, n_features: int = 30):
    """Features of cases that vary along a few directions, with noise within cases."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(4, n_features))
    case = np.repeat(np.arange(n_cases), n_images)
    centre = 2 * random.normal(size=(n_cases, 4)) @ directions + random.normal(size=(n_cases, n_features)) + shift
    return centre[case] + random.normal(size=(len(case), n_features)), case.astype(str)


def test_case_means_weigh_images_of_a_case_equally():
    features = np.array([[0.0, 1], [2, 3], [10, 10]])
    means = CaseMeans.of(features, ["a", "a", "b"])
    assert means.mean.tolist() == [[1, 2], [10, 10]]
    assert means.n_images.tolist() == [2, 1]
    assert means.within.tolist() == [2, 2]  # two squares of 1, one degree of freedom


@pytest.mark.parametrize("shrinkage", [0.2, 0.5, 1.0])
def test_the_score_is_a_scaled_mahalanobis_distance(shrinkage):
    """Against the same matrix, inverted as a whole."""
    means = CaseMeans.of(*drawn(20, seed=1))
    reference = Reference.fit(means, shrinkage)
    batch = CaseMeans.of(*drawn(7, seed=2, shift=0.7))
    standard = (means.mean - means.mean.mean(axis=0)) / reference.scale
    correlation = standard.T @ standard / 19
    average = np.trace(correlation) / 30
    matrix = (1 - shrinkage) * correlation + shrinkage * average * np.eye(30)
    gap = (batch.mean.mean(axis=0) - means.mean.mean(axis=0)) / reference.scale
    expected = gap @ np.linalg.inv(matrix) @ gap / 30 / (1 / 7 + 1 / 20)
    assert reference.score(batch) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shrinkage", [0.2, 1.0])
def test_a_shifted_batch_is_found_and_cases_like_the_others_are_not(shrinkage):
    test = DriftTest.fit(CaseMeans.of(*drawn(220, seed=3)), shrinkage)
    assert sorted(test.thresholds) == [5, 10, 50]
    assert max(test.false_alarms.values()) <= 0.02
    for seed in range(20):
        assert test.ratio(CaseMeans.of(*drawn(10, seed=100 + seed))) < 1
    assert test.ratio(CaseMeans.of(*drawn(10, seed=200, shift=6.0))) > 1


def test_a_threshold_that_the_other_half_exceeds_is_raised():
    features, case = drawn(40, seed=8)
    order = np.unique(case)  # cases are numbered in this order
    apart = np.isin(case, order[halves(40)[1]])
    test = DriftTest.fit(CaseMeans.of(features + 8 * apart[:, None], case), 1.0)
    assert min(test.false_alarms.values()) > 0.5
    other = CaseMeans.of(*drawn(40, seed=8)).select(halves(40)[1])
    shifted = CaseMeans(other.mean + 8, other.n_images, other.within)
    random = np.random.default_rng(5)
    ratios = [test.ratio(shifted.select(random.permutation(20)[:5])) for _ in range(200)]
    assert np.mean(np.array(ratios) > 1) < 0.06


def test_cases_with_few_images_raise_no_alarm():
    """Their means vary more than those of the training cases."""
    test = DriftTest.fit(CaseMeans.of(*drawn(120, seed=3, n_images=20)), 0.2)
    ratios = [test.ratio(CaseMeans.of(*drawn(10, seed=300 + seed, n_images=1))) for seed in range(20)]
    assert max(ratios) < 1


def test_sizes_that_half_of_the_cases_cannot_give_use_the_threshold_below():
    test = DriftTest.fit(CaseMeans.of(*drawn(40, seed=4)), 0.2)
    assert sorted(test.thresholds) == [5, 10]
    batch = CaseMeans.of(*drawn(60, seed=5))
    assert test.ratio(batch) == test.reference.score(batch) / test.thresholds[10]
    assert np.isnan(test.ratio(CaseMeans.of(*drawn(4, seed=5))))
    with pytest.raises(ValueError, match="at least 22 cases, but got 20"):
        DriftTest.fit(CaseMeans.of(*drawn(20, seed=4)), 0.2)


def test_a_stored_test_gives_the_same_ratio():
    test = DriftTest.fit(CaseMeans.of(*drawn(40, seed=4)), 0.2)
    stream = io.BytesIO()
    np.savez(stream, **test.to_arrays())
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as content:
        again = DriftTest.from_arrays(dict(content))
    batch = CaseMeans.of(*drawn(10, seed=6))
    assert again.ratio(batch) == pytest.approx(test.ratio(batch), rel=1e-4)
    assert (again.thresholds, again.false_alarms) == (test.thresholds, test.false_alarms)


def test_features_without_variance_do_not_divide_by_zero():
    features, case = drawn(30, seed=7)
    features[:, 0] = 3.0
    assert np.isfinite(Reference.fit(CaseMeans.of(features, case), 0.2).score(CaseMeans.of(features, case)))


def texture(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(60, 255, (24, 24, 3), dtype=np.uint8)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(coarse, np.int64) + random.integers(-9, 9, (96, 96, 1)), 0, 255).astype(np.uint8)


def test_statistics_change_with_brightness_focus_and_compression():
    image = texture()
    plain = image_statistics(image)
    dark = image_statistics((image * 0.7).round().astype(np.uint8))
    assert dark[:3] == pytest.approx(0.7 * plain[:3], abs=0.5)
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))
    assert image_statistics(blurred)[6] < plain[6] - 0.2
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=10)
    assert image_statistics(np.asarray(Image.open(stream)))[9] > plain[9] + 0.2


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 40, 3), (17, 16, 3)])
def test_statistics_of_small_images_are_finite(shape):
    assert np.isfinite(image_statistics(np.full(shape, 9, np.uint8))).all()
