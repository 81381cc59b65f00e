"""Shifts of images: deterministic changes of stain, illumination, compression, focus and resolution.

Unlike a view, a shift is applied to the decoded image at its own size, before the image is resized for a network, as
another laboratory or scanner would change it. Shifts are for evaluation only; no model is trained on shifted images.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from bhsearch.data.arrays import Pixels
from bhsearch.models.augmentation.stain import HE_TO_RGB, RGB_TO_HE

BRIGHTNESS = 0.7  # factor on all channels
JPEG_QUALITY = 30
BLUR_SHARE = 0.01  # standard deviation of the blur, relative to the shorter side of the image; at least 1 pixel
STAIN_FACTOR = 1.4  # amounts of the stains change by a factor from 1 / 1.4 to 1.4
STAIN_DIRECTION = 0.05  # standard deviation of each component of a stain's direction, whose length is 1


@dataclass(frozen=True)
class Shift:
    """A deterministic change of an image.

    Attributes:
        title: Name for tables.
        key: Name with all constants of the change, for keys of cached features; must change with the implementation.
        apply: Function of an RGB image and the case of the image; returns an image of the same size.
        by_case: Whether the change depends on the case.
    """

    title: str
    key: str
    apply: Callable[[Pixels, str], Pixels]
    by_case: bool = False


def case_stain_matrix(case: str) -> npt.NDArray[np.float64]:
    """Return the matrix that changes the optical density of the images of a case.

    The amounts of haematoxylin and eosin and the direction of each stain are drawn for the case; the residual is kept.

    Args:
        case: Name of the case, which is the seed.

    Returns:
        Matrix by which optical densities (as row vectors) are multiplied from the right. Shape (3, 3).

    Source:
        Stain augmentation in the haematoxylin-eosin space of Ruifrok and Johnston, as in Tellez et al. 2019; drawing
        the directions, too, is ours: in Macenko's method, they also differ between laboratories.
    """
    random = np.random.default_rng(list(hashlib.sha256(case.encode()).digest()))
    amounts = np.exp(random.uniform(-1.0, 1.0, 2) * np.log(STAIN_FACTOR))
    directions = HE_TO_RGB.astype(np.float64)
    directions[:2] = np.abs(directions[:2] + STAIN_DIRECTION * random.standard_normal((2, 3)))
    directions[:2] /= np.linalg.norm(directions[:2], axis=1, keepdims=True)
    directions[:2] *= amounts[:, None]
    return RGB_TO_HE.astype(np.float64) @ directions


def with_case_stain(image: Pixels, case: str) -> Pixels:
    """Return an image with the stains of `case_stain_matrix`.

    Args:
        image: RGB. Shape (height, width, 3).
        case: Case of the image.
    """
    density = -np.log((np.arange(256) + 1) / 256).astype(np.float32)[image]
    changed = 256 * np.exp(-density @ case_stain_matrix(case).astype(np.float32)) - 1
    return np.asarray(np.clip(changed.round(), 0, 255), np.uint8)


def darker(image: Pixels, case: str = "") -> Pixels:  # noqa: ARG001
    """Return an image at `BRIGHTNESS` of its brightness. `case` has no effect."""
    levels = (np.arange(256) * BRIGHTNESS).round().astype(np.uint8)
    return levels[image]


def compressed(image: Pixels, case: str = "") -> Pixels:  # noqa: ARG001
    """Return an image after JPEG compression with `JPEG_QUALITY`. `case` has no effect."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(stream).convert("RGB"))


def blurred(image: Pixels, case: str = "") -> Pixels:  # noqa: ARG001
    """Return an image after a Gaussian blur; see `BLUR_SHARE`. `case` has no effect."""
    from scipy.ndimage import gaussian_filter  # imported late, because the plan of a study needs only the names

    sigma = max(1.0, BLUR_SHARE * min(image.shape[:2]))
    smooth = gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="mirror")
    return np.asarray(smooth.round().astype(np.uint8))


def at_half_resolution(image: Pixels, case: str = "") -> Pixels:  # noqa: ARG001
    """Return an image that was reduced to half its resolution and enlarged to its size again. `case` has no effect."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize(((width + 1) // 2, (height + 1) // 2), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


# By the name that is used in metrics and records.
SHIFTS = {
    "stain": Shift("stain per case", f"stain {STAIN_FACTOR} {STAIN_DIRECTION} v1", with_case_stain, by_case=True),
    "brightness": Shift(f"brightness x{BRIGHTNESS:g}", f"brightness {BRIGHTNESS} v1", darker),
    "jpeg": Shift(f"JPEG quality {JPEG_QUALITY}", f"jpeg {JPEG_QUALITY} v1", compressed),
    "blur": Shift("blur", f"blur {BLUR_SHARE} v1", blurred),
    "half_resolution": Shift("half resolution", "half resolution v1", at_half_resolution),
}
