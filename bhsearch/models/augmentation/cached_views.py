"""Fixed views of images: deterministic augmentation for the frozen regime.

Features are computed once per view, so views must be deterministic. The first view of every policy is the image itself.
A larger number of views starts with the same views as a smaller number, so that cached features are reused.

Source:
    Stain jitter: Tellez et al. 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bhsearch.errors import SettingsError
from bhsearch.models.augmentation.base import AUGMENTATIONS, plugin_views
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
        images: float32 RGB in 0..255, possibly symbolic. Shape (batch, size, size, 3).
        view: Name of the view, one of those returned by `views_of`.

    Returns:
        float32 RGB in 0..255. Shape (batch, size, size, 3).
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
    return AUGMENTATIONS.get(policy).view(images, number + 1)


def _dihedral(images: Any, mirror_rows: int, mirror_columns: int, transpose: int) -> Any:
    """Apply one of the eight symmetries of the square, which need no interpolation."""
    from keras import ops

    if mirror_rows:
        images = ops.flip(images, axis=1)
    if mirror_columns:
        images = ops.flip(images, axis=2)
    return ops.transpose(images, (0, 2, 1, 3)) if transpose else images


def _stain(images: Any, haematoxylin: float, eosin: float) -> Any:
    """Scale the amounts of the two stains, without a change of the residual."""
    from keras import ops

    matrix = stain_matrices(np.array([haematoxylin, eosin, 1.0])).astype(np.float32)
    return ops.clip(from_optical_density(ops.matmul(optical_density(images), matrix)), 0.0, 255.0)


def _colour(images: Any, brightness: float, contrast: float, saturation: float) -> Any:
    from keras import ops

    grey = ops.matmul(images, np.full((3, 3), 1 / 3, np.float32))
    images = grey + (images - grey) * saturation
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return ops.clip((mean + (images - mean) * contrast) * brightness, 0.0, 255.0)


def _zoom(images: Any, share: float, top: float, left: float) -> Any:
    """Crop a window and resize it to the full side.

    All images share one window, so Keras's resize can be used, which is fast and available in every runtime of a
    deployed model. In contrast, `device_transforms.augment` needs one interpolation matrix per image.
    """
    from keras import ops

    size = int(images.shape[1])
    side = round(size * share)
    row, column = round((size - side) * top), round((size - side) * left)
    window = images[:, row : row + side, column : column + side, :]
    return ops.image.resize(window, (size, size), interpolation="bilinear")
