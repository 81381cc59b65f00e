"""Augmentation on the device: the host draws random parameters for each image, and the device applies them.

The compiled part depends neither on random numbers nor on the policy and strength. A change of these only changes the
inputs and needs no compilation, and a seed gives the same parameters on every backend.

Every policy except `none` rotates and mirrors images, since tissue on glass has no orientation and these transforms are
exact. The other transforms vary properties that differ between laboratories but not between diagnoses: stain, exposure,
scale and occlusion. Shear and elastic deformation are not used, since the shape of nuclei and glands determines the
label.

Source:
    Stain jitter: Tellez et al. 2019. Erasing: Zhong et al. 2020. Mixup: Zhang et al. 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Float32Array, Pixels
from bhsearch.errors import SettingsError
from bhsearch.models.augmentation.base import AUGMENTATIONS
from bhsearch.models.augmentation.policies import (
    BOX,
    BOX_ASPECT,
    BRIGHTNESS,
    CONTRAST,
    DIHEDRAL_VIEWS,
    FINETUNE_POLICIES,
    POLICIES,
    SHIFT,
    STAIN_FACTOR,
    STAIN_OFFSET,
    ZOOM,
)
from bhsearch.models.augmentation.stain import HE_TO_RGB, from_optical_density, optical_density, stain_matrices

SHOWN_STRENGTHS = (0.3, 0.6, 1.0)  # strengths in the figure of policies
SHOWN_SAMPLES = 2  # number of samples per strength in the figure


class AugmentationParams(NamedTuple):
    """Column ranges of an array of augmentation parameters with one row per image.

    Attributes:
        rows: Source row of the first row, and difference between the source rows of consecutive rows, in pixels. A
            difference of -1 mirrors the image.
        columns: The same two numbers for columns.
        transposed: 1 if rows and columns are exchanged at the end, otherwise 0.
        matrix: Matrix (3, 3) that transforms optical densities, in row-major order.
        offset: Offset added to the optical density per channel.
        colour: Factors on brightness and contrast.
        box: Top, left, height and width of the erased box in pixels.
    """

    rows: slice = slice(0, 2)
    columns: slice = slice(2, 4)
    transposed: slice = slice(4, 5)
    matrix: slice = slice(5, 14)
    offset: slice = slice(14, 17)
    colour: slice = slice(17, 19)
    box: slice = slice(19, 23)


COLUMNS = AugmentationParams()
N_COLUMNS = COLUMNS.box.stop
_N_DRAWS = 14


def draw_augmentation(random: np.random.Generator, n: int, policy: str, strength: float, size: int) -> Float32Array:
    """Draw augmentation parameters for n images.

    The drawn random numbers do not depend on policy and strength, and the strength only scales the transforms. Trials
    with the same seed therefore differ only by their policies and strengths.

    Args:
        random: Random generator.
        n: Number of images.
        policy: One of `FINETUNE_POLICIES`, or a policy of another package.
        strength: Strength of the augmentation, from 0 (only rotation and mirroring) to 1 (the strongest plausible).
        size: Side of the images in pixels.

    Returns:
        Augmentation parameters, see `AugmentationParams`. Shape (n, N_COLUMNS).

    Raises:
        SettingsError: If the policy is unknown or the strength is not in 0..1.
    """
    if policy not in FINETUNE_POLICIES and policy not in AUGMENTATIONS:
        known = ", ".join((*FINETUNE_POLICIES, *AUGMENTATIONS))
        raise SettingsError(f"The augmentation policy must be one of {known}, but got {policy!r}.")
    if not 0 <= strength <= 1:
        raise SettingsError(f"The strength of the augmentation must be from 0 to 1, but got {strength}.")
    if policy in AUGMENTATIONS:
        return AUGMENTATIONS.get(policy).draw(random, n, strength, size)
    unit = random.random((n, _N_DRAWS))
    both = 2 * unit - 1  # -1 to 1

    chosen = POLICIES[policy]

    def strength_of(transform: str) -> float:
        return strength * (chosen.strengths or {}).get(transform, 0.0)

    parameters = np.empty((n, N_COLUMNS))
    flips = (unit[:, :3] < 0.5) & chosen.dihedral
    lines = _lines(flips[:, :2], both[:, 3:6], strength_of("zoom"), size)
    parameters[:, COLUMNS.rows], parameters[:, COLUMNS.columns] = lines
    parameters[:, COLUMNS.transposed] = flips[:, 2:]
    matrix, offset = _stains(both[:, 6:10], strength_of("stain"))
    parameters[:, COLUMNS.matrix], parameters[:, COLUMNS.offset] = matrix.reshape(n, 9), offset
    parameters[:, COLUMNS.colour] = np.array([BRIGHTNESS, CONTRAST]) ** (both[:, 10:12] * strength_of("colour"))
    parameters[:, COLUMNS.box] = _boxes(unit[:, 10:14], strength_of("erasing"), size)
    return parameters.astype(np.float32)


def dihedral(view: int, n: int, size: int) -> Float32Array:
    """Return augmentation parameters that apply one dihedral view to n images.

    Args:
        view: Number of the view, 0 to 7; 0 is the image itself.
        n: Number of images.
        size: Side of the images in pixels.

    Returns:
        Augmentation parameters, see `AugmentationParams`. Shape (n, N_COLUMNS).
    """
    flips = np.tile(np.array(((0, 0, 0), *DIHEDRAL_VIEWS)[view], bool), (n, 1))
    parameters = np.zeros((n, N_COLUMNS))
    lines = _lines(flips[:, :2], np.zeros((n, 3)), 0.0, size)
    parameters[:, COLUMNS.rows], parameters[:, COLUMNS.columns] = lines
    parameters[:, COLUMNS.transposed] = flips[:, 2:]
    parameters[:, COLUMNS.matrix] = np.eye(3).ravel()
    parameters[:, COLUMNS.colour] = 1.0
    return parameters.astype(np.float32)


def _lines(flips: npt.NDArray[np.bool_], moves: Any, strength: float, size: int) -> tuple[Any, Any]:
    """Return the columns `rows` and `columns` of `AugmentationParams`. Shape (n_images, 2) each."""
    centre = (size - 1) / 2
    step = np.where(flips, -1.0, 1.0) * ZOOM ** (moves[:, :1] * strength)
    start = centre - centre * step + moves[:, 1:] * strength * SHIFT * size
    return np.stack([start[:, 0], step[:, 0]], axis=1), np.stack([start[:, 1], step[:, 1]], axis=1)


def _stains(moves: Any, strength: float) -> tuple[Any, Any]:
    """Return the matrices and offsets of stain jitter in optical density. Shapes (n_images, 3, 3) and (n_images, 3)."""
    amounts = moves[:, :2] * strength
    # The residual is the difference between the stains of a laboratory and the two standard stains. Scale it by the
    # mean factor of the two stains: with an unchanged residual, pale nuclei turn green.
    factors = STAIN_FACTOR ** np.column_stack([amounts, amounts.mean(axis=1)])
    matrix = np.eye(3) + (stain_matrices(factors) - stain_matrices(np.ones(3)))  # exactly the identity at strength 0
    return matrix, moves[:, 2:] * strength * STAIN_OFFSET @ HE_TO_RGB[:2].astype(np.float64)


def _boxes(unit: Any, strength: float, size: int) -> Any:
    """Return top, left, height and width of boxes inside the image, in whole pixels. Shape (n_images, 4)."""
    side = np.sqrt(unit[:, 0] * strength * BOX) * size
    longer = np.sqrt(BOX_ASPECT) ** (2 * unit[:, 1] - 1)
    height, width = np.round(side * longer), np.round(side / longer)
    top, left = np.floor(unit[:, 2] * (size - height + 1)), np.floor(unit[:, 3] * (size - width + 1))
    return np.stack([top, left, height, width], axis=1) * (height * width > 0)[:, None]  # an empty box is all zeros


def augment(images: Any, parameters: Any) -> Any:
    """Augment images: rotation, mirroring, zoom and shift, then stain, then colour, then erasing.

    Args:
        images: float32 RGB in 0..255. Shape (batch, size, size, 3).
        parameters: Parameters from `draw_augmentation` for this image size. Shape (batch, N_COLUMNS).

    Returns:
        float32 RGB in 0..255. Shape (batch, size, size, 3).
    """
    from keras import ops

    size = ops.shape(images)[1]
    # With channels first, each step is one matrix product or one pass over rows, which halves the time on a CPU.
    seen = _stain(_geometric(ops.transpose(images, (0, 3, 1, 2)), parameters), parameters)
    mean = ops.mean(seen, axis=(2, 3), keepdims=True)
    brightness, contrast = (_as_image(parameters[:, COLUMNS.colour][:, k]) for k in (0, 1))
    # Erase the box by zero contrast, which fills it with the mean.
    factor = brightness * contrast * (1.0 - _box_mask(parameters[:, COLUMNS.box], size))
    changed = ops.clip(mean * brightness + (seen - mean) * factor, 0.0, 255.0)
    return ops.transpose(changed, (0, 2, 3, 1))


def _as_image(values: Any) -> Any:
    """Reshape one value per image for multiplication with images."""
    from keras import ops

    return ops.reshape(values, (-1, 1, 1, 1))


def _geometric(images: Any, parameters: Any) -> Any:
    """Resample rows and columns by one matrix product each, then transpose. Shape (batch, 3, size, size)."""
    from keras import ops

    size = ops.shape(images)[2]
    rows = _interpolation(parameters[:, COLUMNS.rows], size)
    columns = ops.transpose(_interpolation(parameters[:, COLUMNS.columns], size), (0, 2, 1))
    seen = ops.matmul(ops.matmul(rows[:, None], images), columns[:, None])
    transposed = _as_image(parameters[:, COLUMNS.transposed])
    return seen * (1.0 - transposed) + ops.transpose(seen, (0, 1, 3, 2)) * transposed


def _interpolation(line: Any, size: Any) -> Any:
    """Return a matrix per image for linear interpolation with mirrored borders. Shape (batch, size, size)."""
    from keras import ops

    index = ops.arange(size, dtype="float32")
    last = ops.cast(size, "float32") - 1.0
    source = line[:, :1] + line[:, 1:] * index
    source = ops.clip(last - ops.abs(last - ops.abs(source)), 0.0, last)
    return ops.relu(1.0 - ops.abs(source[:, :, None] - index))


def _stain(images: Any, parameters: Any) -> Any:
    """Transform optical densities by matrix and offset; values may exceed 255. Shape (batch, 3, size, size)."""
    from keras import ops

    size = ops.shape(images)[2]
    matrix = ops.transpose(ops.reshape(parameters[:, COLUMNS.matrix], (-1, 3, 3)), (0, 2, 1))
    density = ops.matmul(matrix, ops.reshape(optical_density(images), (-1, 3, size * size)))
    changed = from_optical_density(density + parameters[:, COLUMNS.offset][:, :, None])
    return ops.reshape(changed, (-1, 3, size, size))


def _box_mask(box: Any, size: Any) -> Any:
    """Return 1 inside the box of each image and 0 outside. Shape (batch, 1, size, size)."""
    from keras import ops

    index = ops.arange(size, dtype="float32")

    def within(k: int) -> Any:
        first, length = box[:, k : k + 1], box[:, k + 2 : k + 3]
        return ops.cast((index >= first) & (index < first + length), "float32")

    return (within(0)[:, :, None] * within(1)[:, None, :])[:, None]


def draw_mixup(random: np.random.Generator, n_batches: int, strength: float) -> Float32Array:
    """Draw the mixup coefficient of each batch: max(lambda, 1 - lambda) with lambda from Beta(alpha, alpha).

    Args:
        random: Random generator.
        n_batches: Number of batches.
        strength: Parameter alpha, 0 to 1; 0 disables mixup, 1 gives the uniform distribution.

    Returns:
        Weight of the original image in each mixed image, 0.5 to 1. Shape (n_batches,).

    Raises:
        SettingsError: If the strength is not in 0..1.
    """
    if not 0 <= strength <= 1:
        raise SettingsError(f"The strength of mixup must be from 0 to 1, but got {strength}.")
    if strength == 0:
        return np.ones(n_batches, np.float32)
    share = random.beta(strength, strength, n_batches)
    return np.maximum(share, 1 - share).astype(np.float32)


def mixup(images: Any, targets: Any, weights: Any, share: Any) -> tuple[Any, Any, Any]:
    """Mix each image of a batch with the image at the mirrored position in the batch (mixup).

    The loss of a mixed image is the sum of the losses for the targets of both images, each multiplied by the share and
    the weight of its image. Since cross-entropy is linear in the target, this equals the loss for one mixed target with
    one mixed weight.

    Args:
        images: RGB images. Shape (batch, height, width, 3).
        targets: Targets in 0..1. Shape (batch,).
        weights: Non-negative weights. The sum of the weights does not change if `share` is constant. Shape (batch,).
        share: Weight of the original image in each mixed image, 0.5 to 1; an image with share 1 is exactly unchanged.
            Shape (batch,).

    Returns:
        Mixed images, targets and weights, of the same shapes.
    """
    from keras import ops

    own = _as_image(share)
    mixed = images * own + ops.flip(images, axis=0) * (1.0 - own)
    other = ops.flip(weights, axis=0) * (1.0 - share)
    total = weights * share + other
    part = other / ops.where(total > 0, total, 1.0)
    return mixed, targets + (ops.flip(targets, axis=0) - targets) * part, total


def examples(images: Sequence[Pixels], random: np.random.Generator) -> list[tuple[str, list[Pixels]]]:
    """Return example images of each policy for `reporting.figures.augmentation`.

    Args:
        images: One or more images, which are used in turn, one per policy. Shape (size, size, 3) each.
        random: Random generator.

    Returns:
        Pairs of a policy and its images: the original image, then `SHOWN_SAMPLES` samples for each of
        `SHOWN_STRENGTHS`.
    """
    size = images[0].shape[0]
    rows = []
    for k, policy in enumerate(FINETUNE_POLICIES[1:]):
        image = images[k % len(images)]
        parameters = [draw_augmentation(random, SHOWN_SAMPLES, policy, strength, size) for strength in SHOWN_STRENGTHS]
        batch = np.repeat(image[None].astype(np.float32), SHOWN_SAMPLES * len(SHOWN_STRENGTHS), axis=0)
        seen = np.asarray(augment(batch, np.concatenate(parameters)))
        rows.append((policy, [image, *seen.round().astype(np.uint8)]))
    return rows
