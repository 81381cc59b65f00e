"""Augmentation by fixed views: a policy is a list of deterministic variants of an image.

In the frozen regime features are computed once per view, so a view must be the same each time. The first view of every
policy is the image itself, and the first n views of a policy are the same whatever the number asked for: so that more
views only add to what the cache has.

Source:
    Haematoxylin-eosin colour space: Ruifrok and Johnston 2001. Jitter in it: Tellez et al. 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bhsearch.errors import SettingsError
from bhsearch.models.augmentation.base import AUGMENTATIONS, VIEW_POLICIES

IDENTITY = "identity"
N_VIEWS = 8

# Optical densities of haematoxylin, eosin and the residual (their cross product), rows of unit length.
_HE = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
_HE = _HE / np.linalg.norm(_HE, axis=1, keepdims=True)
HE_TO_RGB = np.vstack([_HE, np.cross(_HE[0], _HE[1]) / np.linalg.norm(np.cross(_HE[0], _HE[1]))]).astype(np.float32)
RGB_TO_HE = np.linalg.inv(HE_TO_RGB).astype(np.float32)

# Factors on haematoxylin and eosin: a small design around 1, far corners first.
_STAIN = ((1.25, 0.85), (0.80, 1.15), (1.20, 1.20), (0.85, 0.85), (1.10, 0.70), (0.90, 1.35), (1.00, 1.15))
# Brightness, contrast and saturation factors.
_COLOUR = (
    (1.10, 1.15, 1.10),
    (0.90, 0.90, 0.85),
    (1.05, 0.85, 1.20),
    (0.95, 1.20, 0.90),
    (1.15, 1.00, 0.80),
    (0.85, 1.05, 1.15),
    (1.00, 0.80, 1.00),
)
# Share of the side that is kept, and where the window lies (0 top or left, 1 bottom or right).
_ZOOM = (
    (0.85, 0.5, 0.5),
    (0.75, 0.0, 0.0),
    (0.75, 1.0, 1.0),
    (0.75, 0.0, 1.0),
    (0.75, 1.0, 0.0),
    (0.65, 0.5, 0.5),
    (0.90, 0.2, 0.8),
)


def views_of(policy: str, n_views: int) -> tuple[str, ...]:
    """Names of the views of a policy, the image itself first.

    Raises:
        SettingsError: If the policy is unknown or the number is not in 1..8.
    """
    if policy not in VIEW_POLICIES and policy not in AUGMENTATIONS:
        known = ", ".join((*VIEW_POLICIES, *AUGMENTATIONS))
        raise SettingsError(f"The policy must be one of {known}, but got {policy!r}.")
    if not 1 <= n_views <= N_VIEWS:
        raise SettingsError(f"The number of views must be 1 to {N_VIEWS}, but got {n_views}.")
    if policy == "none":
        return (IDENTITY,)
    if policy == "dihedral-stain":  # one of each in turn: views that the other two policies have in the cache already
        return (IDENTITY, *(f"{('stain', 'dihedral')[k % 2]}{(k + 1) // 2}" for k in range(1, n_views)))
    return (IDENTITY, *(f"{policy}{k}" for k in range(1, n_views)))


def apply_view(images: Any, view: str) -> Any:
    """Make one view of a batch, symbolic or not.

    Args:
        images: float32 RGB in 0..255. Shape (batch, size, size, 3), square.
        view: A name that `views_of` gave.

    Returns:
        float32 RGB in 0..255, of the same shape.
    """
    if view == IDENTITY:
        return images
    policy, k = view[:-1], int(view[-1])
    if policy == "dihedral":
        return _dihedral(images, k)
    if policy == "stain":
        return _stain(images, *_STAIN[k - 1])
    if policy == "colour":
        return _colour(images, *_COLOUR[k - 1])
    if policy == "zoom":
        return _zoom(images, *_ZOOM[k - 1])
    return AUGMENTATIONS.get(policy).view(images, k)


def optical_density(images: Any) -> Any:
    """Optical density per channel, 0 for white. `images` is RGB in 0..255; the result is in 0..5.55."""
    from keras import ops

    return -ops.log((images + 1.0) / 256.0)


def _dihedral(images: Any, k: int) -> Any:
    """One of the eight symmetries of the square: a quarter turn k % 4 times, mirrored for k >= 4. Exact."""
    from keras import ops

    if k >= 4:
        images = ops.flip(images, axis=2)
    if k % 4 == 1:
        return ops.flip(ops.transpose(images, (0, 2, 1, 3)), axis=1)
    if k % 4 == 2:
        return ops.flip(ops.flip(images, axis=1), axis=2)
    if k % 4 == 3:
        return ops.flip(ops.transpose(images, (0, 2, 1, 3)), axis=2)
    return images


def _stain(images: Any, haematoxylin: float, eosin: float) -> Any:
    """Scale the two stains in optical density; the residual stays.

    The three steps (to stains, scale, back) are one matrix, multiplied out beforehand.
    """
    from keras import ops

    matrix = (RGB_TO_HE @ np.diag([haematoxylin, eosin, 1.0]) @ HE_TO_RGB).astype(np.float32)
    density = ops.matmul(optical_density(images), matrix)
    return ops.clip(256.0 * ops.exp(-density) - 1.0, 0.0, 255.0)


def _colour(images: Any, brightness: float, contrast: float, saturation: float) -> Any:
    from keras import ops

    grey = ops.matmul(images, np.full((3, 3), 1 / 3, np.float32))
    images = grey + (images - grey) * saturation
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return ops.clip((mean + (images - mean) * contrast) * brightness, 0.0, 255.0)


def _zoom(images: Any, share: float, top: float, left: float) -> Any:
    from keras import ops

    size = int(images.shape[1])
    side = round(size * share)
    row, column = round((size - side) * top), round((size - side) * left)
    window = images[:, row : row + side, column : column + side, :]
    return ops.image.resize(window, (size, size), interpolation="bilinear")
