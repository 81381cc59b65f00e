"""Fixed views of images: deterministic augmentation for the frozen regime.

Features are computed once per view, so views must be deterministic. The first view of every policy is the image itself.
A larger number of views starts with the same views as a smaller number, so that cached features are reused.

Source:
    Stain jitter: Tellez et al. 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bhsearch.data.arrays import Float32Array
from bhsearch.errors import SettingsError
from bhsearch.models import backend
from bhsearch.models.augmentation.base import AUGMENTATIONS, plugin_views
from bhsearch.models.augmentation.operations import operations_of
from bhsearch.models.augmentation.policies import (
    COLOUR_VIEWS,
    DIHEDRAL_VIEWS,
    IDENTITY,
    N_VIEWS,
    POLICIES,
    STAIN_VIEWS,
    VIEW_POLICIES,
    ZOOM_VIEWS,
)
from bhsearch.models.augmentation.stain import from_optical_density, optical_density, stain_matrices


def views_of(policy: str, n_views: int) -> tuple[str, ...]:
    """Return the names of the first views of a policy, the image itself first.

    Args:
        policy: One of `VIEW_POLICIES`.
        n_views: Number of views, 1 to 8. The policy `none` always has one view.

    Raises:
        SettingsError: If the policy is unknown or the number of views is out of range.
    """
    views = POLICIES[policy].views if policy in POLICIES else plugin_views(policy)
    if views is None:
        known = ", ".join((*VIEW_POLICIES, *AUGMENTATIONS))
        raise SettingsError(f"The augmentation policy must be one of {known}, but got {policy!r}.")
    if not 1 <= n_views <= N_VIEWS:
        raise SettingsError(f"The number of views must be from 1 to {N_VIEWS}, but got {n_views}.")
    return (IDENTITY, *views[: n_views - 1])


def apply_view(images: Any, view: str) -> Any:
    """Compute one view of a batch.

    Args:
        images: float32 RGB in 0..255: a NumPy array, or a tensor of Keras, possibly symbolic. Shape (batch, size,
            size, 3).
        view: Name of the view, one of those returned by `views_of`.

    Returns:
        float32 RGB in 0..255, of the same type unless another package provides the view. Shape (batch, size, size, 3).
    """
    if view == IDENTITY:
        return images
    policy, number = view[:-1], int(view[-1]) - 1
    if policy == "dihedral":
        return _dihedral(images, *DIHEDRAL_VIEWS[number])
    if policy == "stain":
        return _stain(images, *STAIN_VIEWS[number])
    if policy == "colour":
        return _colour(images, *COLOUR_VIEWS[number])
    if policy == "zoom":
        return _zoom(images, *ZOOM_VIEWS[number])
    backend.require()
    return AUGMENTATIONS.get(policy).view(images, number + 1)


def _dihedral(images: Any, mirror_rows: int, mirror_columns: int, transpose: int) -> Any:
    """Apply one of the eight symmetries of the square, which need no interpolation."""
    ops = operations_of(images)
    if ops is np:  # NumPy moves whole pixels three times as fast as their channels
        whole = np.dtype((np.void, images.shape[-1] * images.itemsize))
        moved = _moved(np, np.ascontiguousarray(images).view(whole), mirror_rows, mirror_columns, transpose)
        return np.ascontiguousarray(moved).view(images.dtype)
    return _moved(ops, images, mirror_rows, mirror_columns, transpose)


def _moved(ops: Any, images: Any, mirror_rows: int, mirror_columns: int, transpose: int) -> Any:
    if mirror_rows:
        images = ops.flip(images, axis=1)
    if mirror_columns:
        images = ops.flip(images, axis=2)
    return ops.transpose(images, (0, 2, 1, 3)) if transpose else images


def _stain(images: Any, haematoxylin: float, eosin: float) -> Any:
    """Scale the amounts of the two stains, without a change of the residual."""
    ops = operations_of(images)
    matrix = stain_matrices(np.array([haematoxylin, eosin, 1.0])).astype(np.float32)
    return ops.clip(from_optical_density(ops.matmul(optical_density(images), matrix)), 0.0, 255.0)


def _colour(images: Any, brightness: float, contrast: float, saturation: float) -> Any:
    ops = operations_of(images)
    grey = ops.matmul(images, np.full((3, 3), 1 / 3, np.float32))
    images = grey + (images - grey) * saturation
    mean = ops.mean(ops.mean(images, axis=1, keepdims=True), axis=2, keepdims=True)  # faster than both axes at once
    return ops.clip((mean + (images - mean) * contrast) * brightness, 0.0, 255.0)


def _zoom(images: Any, share: float, top: float, left: float) -> Any:
    """Crop a window and resize it to the full side.

    All images share one window, so Keras's resize can be used, which is fast and available in every runtime of a
    deployed model. In contrast, `device_transforms.augment` needs one interpolation matrix per image.
    """
    size = int(images.shape[1])
    side = round(size * share)
    row, column = round((size - side) * top), round((size - side) * left)
    window = images[:, row : row + side, column : column + side, :]
    ops = operations_of(images)
    if ops is np:
        return _enlarged(window, size)
    return ops.image.resize(window, (size, size), interpolation="bilinear")


def _enlarged(images: Float32Array, size: int) -> Float32Array:
    """Enlarge images by bilinear interpolation between the centres of pixels, as Keras does."""
    n_images, side, _, n_channels = images.shape
    centre = (np.arange(size) + 0.5) * side / size - 0.5
    first = np.clip(np.floor(centre), 0, side - 2).astype(np.int64)
    share = np.clip(centre - first, 0.0, 1.0).astype(np.float32)  # of the next pixel
    columns = (n_channels * first[:, None] + np.arange(n_channels)).ravel()
    column_share = np.repeat(share, n_channels)
    enlarged = np.empty((n_images, size, size, n_channels), np.float32)
    for image, result in zip(images, enlarged, strict=True):  # one image at a time stays in the processor's cache
        lines = image.reshape(side, -1)
        rows = _between(lines[first], lines[first + 1], share[:, None])
        found = _between(rows.take(columns, axis=1), rows.take(columns + n_channels, axis=1), column_share)
        result[:] = found.reshape(size, size, n_channels)
    return enlarged


def _between(one: Float32Array, other: Float32Array, share: Float32Array) -> Float32Array:
    """Interpolate between two arrays in place, and return the first one."""
    other -= one
    other *= share
    one += other
    return one
