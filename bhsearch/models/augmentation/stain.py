"""The haematoxylin-eosin colour space, in optical density.

Source:
    Ruifrok and Johnston 2001.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.augmentation.operations import operations_of

# Optical densities of haematoxylin, eosin and the residual (the cross product of the two), as rows of unit length.
_HE = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
_HE = _HE / np.linalg.norm(_HE, axis=1, keepdims=True)
HE_TO_RGB = np.vstack([_HE, np.cross(_HE[0], _HE[1]) / np.linalg.norm(np.cross(_HE[0], _HE[1]))]).astype(np.float32)
RGB_TO_HE = np.linalg.inv(HE_TO_RGB).astype(np.float32)


def optical_density(images: Any) -> Any:
    """Convert RGB in 0..255 to optical density per channel: 0 for white, 5.55 for black."""
    return -operations_of(images).log((images + 1.0) / 256.0)


def from_optical_density(density: Any) -> Any:
    """Convert optical density per channel to RGB; densities below 0 give values above 255."""
    return 256.0 * operations_of(density).exp(-density) - 1.0


def stain_matrices(factors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return matrices that scale the amounts of the stains in images of optical density.

    Each matrix is the product of the conversion to stains, the scaling, and the conversion back.

    Args:
        factors: Factors on haematoxylin, eosin and the residual. Shape (..., 3).

    Returns:
        Matrices by which optical densities (as row vectors) are multiplied from the right. Shape (..., 3, 3).
    """
    to_stains, to_rgb = RGB_TO_HE.astype(np.float64), HE_TO_RGB.astype(np.float64)
    return np.asarray((to_stains * factors[..., None, :]) @ to_rgb)
