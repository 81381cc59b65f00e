"""Drift of a batch of cases from the cases of the training data, on features and on statistics of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.evaluation.predictions import FloatArray

BATCH_SIZES = (5, 10, 50)  # numbers of cases for which thresholds are determined
FEWEST_CASES = 22  # fewest training cases for a reference: two halves of 5 drawn and 6 remaining cases
_FEWEST_LEFT = 6  # fewest cases that remain for the reference when a batch is drawn
_MOST_CASES = 240  # cases that a reference is fitted to, so that registering stays fast
_MOST_COMPONENTS = 64
_N_DRAWS = 200
_QUANTILE = 0.98
N_COLOUR = 6  # numbers of `image_statistics` that describe colour; the others describe texture
# Draws from one half reuse the same cases, so their scores vary less than those of batches from other cases.
_MARGIN = 3.0
_MOST_FALSE_ALARMS = 0.005  # of one test, so that several tests together give at most 2 %
_FLOOR = 1e-6  # smallest variance of a feature, relative to the largest


@dataclass(frozen=True, eq=False)
class CaseMeans:
    """Features averaged over the images of each case.

    Attributes:
        mean: Mean feature vector of each case. Shape (n_cases, n_features).
        n_images: Number of images of each case. Shape (n_cases,).
        within: Variance of each feature between images of the same case; nan with one image per case. Shape
            (n_features,).
    """

    mean: FloatArray
    n_images: FloatArray
    within: FloatArray

    @classmethod
    def of(cls, features: npt.NDArray[Any], case: Sequence[str]) -> CaseMeans:
        """Average features over cases, in alphabetical order of the cases.

        Args:
            features: Feature vector of each image. Shape (n_images, n_features).
            case: Case of each image.
        """
        exact = np.asarray(features, np.float64)
        names, number = np.unique(np.asarray(case, str), return_inverse=True)
        count = np.bincount(number).astype(np.float64)
        mean = np.zeros((len(names), exact.shape[1]))
        np.add.at(mean, number, exact)
        mean /= count[:, None]
        freedom = float((count - 1).sum())
        squares = ((exact - mean[number]) ** 2).sum(axis=0)
        return cls(mean, count, squares / freedom if freedom else np.full(exact.shape[1], np.nan))

    def __len__(self) -> int:
        return len(self.mean)

    def select(self, rows: npt.NDArray[Any]) -> CaseMeans:
        """Return the means of some cases.

        Args:
            rows: Row numbers of the cases.
        """
        return CaseMeans(self.mean[rows], self.n_images[rows], self.within)


@dataclass(frozen=True, eq=False)
class Reference:
    """Distribution of the mean features of training cases.

    Attributes:
        mean: Mean over cases. Shape (n_features,).
        scale: Standard deviation over cases, bounded from below. Shape (n_features,).
        components: Principal directions of the standardised case means. Shape (n_components, n_features).
        gain: Inverse variance along each direction minus `rest`. Shape (n_components,).
        rest: Inverse variance along all other directions.
        n_cases: Number of cases.
        noise: Mean ratio of the variance within cases to that between the means of cases.
        inverse_images: Mean over cases of 1/(number of images).
    """

    mean: FloatArray
    scale: FloatArray
    components: FloatArray
    gain: FloatArray
    rest: float
    n_cases: int
    noise: float
    inverse_images: float

    @classmethod
    def fit(cls, cases: CaseMeans, shrinkage: float) -> Reference:
        """Estimate mean and covariance from case means.

        Args:
            cases: At least 3 cases.
            shrinkage: Weight of the identity in the correlation matrix, in (0, 1]; 1 treats features as independent.

        Source:
            Shrinkage of a covariance matrix to a multiple of the identity: Ledoit and Wolf, 2004, with a fixed weight.
        """
        variance = cases.mean.var(axis=0, ddof=1)
        floor = max(_FLOOR * float(variance.max()), 0.25 * float(np.median(variance)), np.finfo(float).tiny)
        scale = np.sqrt(np.maximum(variance, floor))
        standard = (cases.mean - cases.mean.mean(axis=0)) / scale
        _, singular, components = np.linalg.svd(standard, full_matrices=False)
        eigenvalues = singular**2 / (len(cases) - 1)
        average = max(float(eigenvalues.sum()) / standard.shape[1], np.finfo(float).tiny)
        kept = min(_MOST_COMPONENTS, len(cases) - 1, standard.shape[1]) if shrinkage < 1 else 0
        rest = 1.0 / (shrinkage * average)
        gain = 1.0 / ((1 - shrinkage) * eigenvalues[:kept] + shrinkage * average) - rest
        ratio = np.nanmean(cases.within / scale**2) if np.isfinite(cases.within).any() else 0.0
        return cls(
            mean=cases.mean.mean(axis=0),
            scale=scale,
            components=components[:kept],
            gain=gain,
            rest=rest,
            n_cases=len(cases),
            noise=float(ratio),
            inverse_images=float(np.mean(1 / cases.n_images)),
        )

    def score(self, batch: CaseMeans) -> float:
        """Return the distance of a batch of cases from the training cases.

        The squared Mahalanobis distance of the means is divided by the number of features and by its expected growth
        with small batches, few training cases and few images per case, so that scores of all batches are comparable.

        Source:
            Hotelling's two-sample T-squared statistic, with a covariance matrix from the training cases only.
        """
        gap = (batch.mean.mean(axis=0) - self.mean) / self.scale
        distance = float(self.rest * (gap @ gap) + self.gain @ (self.components @ gap) ** 2)
        more = max(0.0, float(np.mean(1 / batch.n_images)) - self.inverse_images)
        spread = (1 + self.noise * more) / len(batch) + 1 / self.n_cases
        return distance / (len(gap) * spread)


@dataclass(frozen=True, eq=False)
class DriftTest:
    """Test of whether a batch of cases differs from the training cases.

    Attributes:
        reference: Distribution of the cases in one half of the training cases.
        thresholds: Score above which a batch differs, by number of cases. A number n is missing if the half has fewer
            than n + max(n, `_FEWEST_LEFT`) cases.
        false_alarms: Share of batches of the other half whose score is above the threshold, by number of cases, before
            a threshold with more than 0.5 % was raised.
    """

    reference: Reference
    thresholds: Mapping[int, float]
    false_alarms: Mapping[int, float]

    @classmethod
    def fit(cls, cases: CaseMeans, shrinkage: float, seed: int = 0) -> DriftTest:
        """Determine thresholds on one half of the cases, and the share of false alarms on the other half.

        A threshold is a multiple of a high quantile of the scores of batches that are drawn from the half, each
        compared with the other cases of the half. It is raised to the 99.5 % quantile on the other half if more than
        0.5 % of the batches of the other half exceed it.

        Args:
            cases: At least `FEWEST_CASES` cases.
            shrinkage: See `Reference.fit`.
            seed: Random seed for the halves and the batches.

        Raises:
            ValueError: If there are fewer than `FEWEST_CASES` cases.
        """
        if len(cases) < FEWEST_CASES:
            raise ValueError(f"There must be at least {FEWEST_CASES} cases, but got {len(cases)}.")
        half, other = (cases.select(rows) for rows in halves(len(cases), seed))
        random = np.random.default_rng([seed, 1])
        reference = Reference.fit(half, shrinkage)
        thresholds, false_alarms = {}, {}
        for size in BATCH_SIZES:
            if len(half) < size + max(size, _FEWEST_LEFT):
                continue
            scores = []
            for _ in range(_N_DRAWS):
                drawn = random.permutation(len(half))
                without = Reference.fit(half.select(drawn[size:]), shrinkage)
                scores.append(without.score(half.select(drawn[:size])))
            thresholds[size] = _MARGIN * float(np.quantile(scores, _QUANTILE))
            batches = (other.select(random.permutation(len(other))[:size]) for _ in range(_N_DRAWS))
            checked = np.array([reference.score(batch) for batch in batches])
            false_alarms[size] = float(np.mean(checked > thresholds[size]))
            if false_alarms[size] > _MOST_FALSE_ALARMS:
                thresholds[size] = float(np.quantile(checked, 1 - _MOST_FALSE_ALARMS))
        return cls(reference, thresholds, false_alarms)

    def ratio(self, batch: CaseMeans) -> float:
        """Return the score of a batch divided by its threshold; nan for fewer than `BATCH_SIZES[0]` cases.

        The threshold is that of the largest determined size that does not exceed the number of cases.
        """
        sizes = [size for size in self.thresholds if size <= len(batch)]
        return self.reference.score(batch) / self.thresholds[max(sizes)] if sizes else float("nan")

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the content as arrays by name, for storage without pickling."""
        ref = self.reference
        return {
            "mean": ref.mean.astype(np.float32),
            "scale": ref.scale.astype(np.float32),
            "components": ref.components.astype(np.float32),
            "gain": ref.gain,
            "numbers": np.array([ref.rest, ref.n_cases, ref.noise, ref.inverse_images]),
            "sizes": np.array(list(self.thresholds), np.int64),
            "thresholds": np.array(list(self.thresholds.values())),
            "false_alarms": np.array(list(self.false_alarms.values())),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> DriftTest:
        """Restore a test from the arrays of `to_arrays`."""
        rest, n_cases, noise, inverse_images = map(float, arrays["numbers"])
        mean, scale, components, gain = (
            np.asarray(arrays[name], np.float64) for name in ("mean", "scale", "components", "gain")
        )
        sizes = list(map(int, arrays["sizes"]))
        return cls(
            Reference(mean, scale, components, gain, rest, int(n_cases), noise, inverse_images),
            dict(zip(sizes, map(float, arrays["thresholds"]), strict=True)),
            dict(zip(sizes, map(float, arrays["false_alarms"]), strict=True)),
        )


def halves(n_cases: int, seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide cases at random into the half that thresholds are determined on, and the half that they are checked on.

    Args:
        n_cases: Number of cases; of more than 240 cases, 240 are drawn.
        seed: Random seed.

    Returns:
        Row numbers of the cases of each half.
    """
    order = np.random.default_rng(seed).permutation(n_cases)[:_MOST_CASES]
    return order[: len(order) // 2], order[len(order) // 2 :]


def image_statistics(image: npt.NDArray[np.uint8]) -> FloatArray:
    """Return statistics of an image that change with its illumination, stain, focus and compression.

    Args:
        image: RGB. Shape (height, width, 3), at least 16 pixels on each side; smaller images are padded by reflection.

    Returns:
        Mean and standard deviation of each channel, and logarithms of the mean gradient and of the ratios to it of the
        gradient at half the resolution, of the Laplacian, and of the gradient across the borders of blocks of 8
        pixels, as JPEG uses. Shape (10,).
    """
    height, width = image.shape[:2]
    if min(height, width) < 16:
        pad = ((0, max(0, 16 - height)), (0, max(0, 16 - width)), (0, 0))
        image = np.pad(image, pad, mode="symmetric")
        height, width = image.shape[:2]
    exact = image.astype(np.float32)
    grey = exact.mean(axis=2)
    across, down = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=0))
    half = grey[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    coarse = np.abs(np.diff(half, axis=1)).mean() + np.abs(np.diff(half, axis=0)).mean()
    centre = 4 * grey[1:-1, 1:-1]
    laplacian = np.abs(centre - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]).mean()
    blocks = across[:, 7::8].mean() + down[7::8].mean()
    small = 1e-3  # images of one colour have no gradient
    gradient = across.mean() + down.mean() + small
    ratios = (np.array([coarse, laplacian, blocks], np.float64) + small) / gradient
    colour = np.concatenate([exact.mean(axis=(0, 1)), exact.std(axis=(0, 1))])
    return np.concatenate([colour, [np.log(gradient)], np.log(ratios)]).astype(np.float64)
