"""`staintex`: fixed stain-texture filters, a backbone without weights that is always available.

Optical density is separated into haematoxylin and eosin. Each stain is filtered by complex Gabor filters of one
wavelength on a pyramid, whose levels average two by two pixels. The energies are pooled over orientations by mean,
standard deviation and maximum, and each of the resulting maps is pooled over the image by mean and standard deviation.
Features therefore do not depend on the orientation or position of structures. Further features are means, standard
deviations and area shares of the stains.

Source:
    Deconvolution: Ruifrok and Johnston 2001. Gabor energies as texture: Jain and Farrokhnia 1991. Pooling: ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.errors import BackboneError
from bhsearch.models.augmentation.stain import RGB_TO_HE, optical_density
from bhsearch.models.backbones.base import AvailableBackbones, Backbone, Description, KindDefaults

# Factor of the initial downscaling, and number of pyramid levels. The wavelengths are 10, 20 and 40 pixels for the
# small bank, and 5, 10, 20 and 40 pixels for the large bank, which is slower.
SIZES = {"staintex-s": (2, 3), "staintex-l": (1, 4)}
DIGEST = "fixed-filters-v3"  # used in place of a digest of weights; increase the version when a feature changes
WAVELENGTH = 5.0
N_ORIENTATIONS = 6
KERNEL = 15  # covers 2.5 standard deviations of the envelope on either side
STRIDE = 2  # every second pixel is enough, since energies vary as slowly as the envelope
_SHARES = ((0.15, 0.3, 0.5, 0.8), (0.1, 0.2, 0.4))  # thresholds of area shares for haematoxylin and for eosin
_SLOPE = 20.0  # slope of the soft thresholds, which make shares smooth functions of the stain
_TINY = 1e-6


def n_levels(name: str, size: int) -> int:
    """Return the number of pyramid levels, which is smaller for small images.

    Args:
        name: A key of `SIZES`.
        size: Side of the images in pixels.
    """
    shrink, most = SIZES[name]
    side = size // shrink
    return sum(side // 2**level >= KERNEL for level in range(most))


def n_features(name: str, size: int) -> int:
    """Return the number of features.

    Args:
        name: A key of `SIZES`.
        size: Side of the images in pixels.
    """
    per_stain = 3 * 2  # mean, standard deviation and maximum over orientations, by mean and deviation over the image
    means_and_deviations = 2 * (3 + 3)  # of the stains and of the colours
    return means_and_deviations + sum(map(len, _SHARES)) + 2 * per_stain * n_levels(name, size)


def _least_size(name: str) -> int:
    return SIZES[name][0] * KERNEL


def gabor_bank() -> npt.NDArray[np.float32]:
    """Return even and odd zero-mean Gabor filters. Shape (KERNEL, KERNEL, 1, 2 * N_ORIENTATIONS)."""
    half = KERNEL // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    envelope = np.exp(-(x**2 + y**2) / (2 * (0.56 * WAVELENGTH) ** 2))
    filters = []
    for wave in (np.cos, np.sin):
        for k in range(N_ORIENTATIONS):
            angle = np.pi * k / N_ORIENTATIONS
            carrier = wave(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / WAVELENGTH)
            carrier = carrier - (carrier * envelope).sum() / envelope.sum()  # zero mean: a flat stain has no texture
            filters.append(carrier * envelope / envelope.sum())
    return np.stack(filters, axis=-1)[:, :, None, :].astype(np.float32)


def build(name: str, size: int) -> Any:
    """Build the filters as a Keras network.

    Args:
        name: A key of `SIZES`.
        size: Side of the images in pixels.

    Returns:
        A network from float32 RGB in 0..255, shape (batch, size, size, 3), to features, shape (batch, n_features).
    """
    import keras
    from keras import layers, ops

    images = keras.Input((size, size, 3), dtype="float32")
    shrink, _ = SIZES[name]
    x = layers.AveragePooling2D(shrink)(images) if shrink > 1 else images
    # One plane per colour and stain, on which sums are several times as fast as on pixels of three values.
    height, width = x.shape[1:3]
    colours = ops.reshape(ops.transpose(x, (0, 3, 1, 2)), (-1, 3, height * width))
    stains = ops.matmul(np.ascontiguousarray(RGB_TO_HE.T), optical_density(colours))
    whole = [ops.reshape(stains[:, channel], (-1, height, width, 1)) for channel in (0, 1)]
    halved = [layers.AveragePooling2D(2)(stain) for stain in whole]
    numbers = _stain_numbers(colours, stains, halved)
    bank = layers.Conv2D(2 * N_ORIENTATIONS, KERNEL, strides=STRIDE, use_bias=False, trainable=False, name="gabor")
    for channel in (0, 1):
        level = whole[channel]
        for depth in range(n_levels(name, size)):
            if depth:
                level = halved[channel] if depth == 1 else layers.AveragePooling2D(2)(level)
            numbers += _texture_numbers(bank(level))
    network = keras.Model(images, ops.concatenate(numbers, axis=-1), name=name)
    bank.set_weights([gabor_bank()])
    return network


def _stain_numbers(colours: Any, stains: Any, halved: list[Any]) -> list[Any]:
    """Return means, standard deviations and area shares of stains, and means and standard deviations of colours.

    Args:
        colours: RGB in 0..255. Shape (batch, 3, n_pixels).
        stains: Amounts of haematoxylin, eosin and the residual. Shape (batch, 3, n_pixels).
        halved: Haematoxylin and eosin at half the resolution, which suffices for shares, at a quarter of the cost.
            Shape (batch, height, width, 1) each.

    Returns:
        Arrays of shape (batch, n_features).
    """
    from keras import ops

    numbers = [ops.mean(stains, axis=2), _spread(stains, (2,))]
    numbers += [ops.mean(colours, axis=2) / 255.0, _spread(colours, (2,)) / 255.0]
    for stain, edges in zip(halved, _SHARES, strict=True):
        plane = ops.reshape(stain, (-1, 1, stain.shape[1] * stain.shape[2]))
        above = ops.sigmoid(_SLOPE * (plane - np.array(edges, np.float32)[:, None]))
        numbers.append(ops.mean(above, axis=2))
    return numbers


def _spread(maps: Any, axes: tuple[int, ...] = (1, 2)) -> Any:
    """Compute the standard deviation of each map over the image, with a finite gradient for constant images.

    The square root has an infinite gradient at 0. For a constant image, the square root of 1 is computed and multiplied
    by 0.
    """
    from keras import ops

    away = maps - ops.mean(maps, axis=axes, keepdims=True)
    variance = ops.mean(ops.square(away), axis=axes)
    varies = ops.cast(variance > 0, "float32")
    return varies * ops.sqrt(variance + (1.0 - varies))


def _texture_numbers(responses: Any) -> list[Any]:
    """Pool filter responses over orientation, then over the image, on a logarithmic scale.

    Args:
        responses: Responses of the even filters, then of the odd filters. Shape
            (batch, height, width, 2 * N_ORIENTATIONS).
    """
    from keras import ops

    even, odd = responses[..., :N_ORIENTATIONS], responses[..., N_ORIENTATIONS:]
    power = ops.square(even) + ops.square(odd)
    energy = ops.sqrt(power + _TINY)
    mean = ops.mean(energy, axis=-1, keepdims=True)
    spread = ops.sqrt(ops.maximum(ops.mean(power, axis=-1, keepdims=True) - ops.square(mean), 0.0) + _TINY)
    maps = ops.concatenate([mean, spread, ops.max(energy, axis=-1, keepdims=True)], axis=-1)
    numbers = [ops.mean(maps, axis=(1, 2)), _spread(maps)]
    return [ops.log(number + 1e-3) for number in numbers]


class StainTexture(KindDefaults):
    """Kind of the fixed filter banks, which are always available."""

    title = "fixed filters"
    trainable = False
    needs_weights = False

    def names(self) -> tuple[str, ...]:
        """Return the names of the filter banks."""
        return tuple(SIZES)

    def claims(self, name: str) -> bool:
        """Return whether the name is a key of `SIZES`."""
        return name in SIZES

    def find(self, name: str, weights_dir: Path | None) -> Backbone:  # noqa: ARG002  # there are no weights
        """Return the filter bank."""
        return Backbone(name, None, DIGEST, "staintex")

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:  # noqa: ARG002
        """Return all filter banks."""
        return AvailableBackbones(tuple(self.find(name, weights_dir) for name in SIZES))

    def build(self, backbone: Backbone, size: int) -> Any:
        """Build the filters; see `Backbone.build`."""
        return build(backbone.name, size)

    def check_size(self, backbone: Backbone, size: int) -> None:
        """Check that a filter fits into the images; see `Backbone.check_size`."""
        least = _least_size(backbone.name)
        if size < least:
            raise BackboneError(
                f"{backbone.name} requires images of at least {least} pixels, but --image-size is {size}. Use "
                f"--image-size {least}, or leave the backbone out."
            )

    def describe(self, backbone: Backbone, size: int) -> Description:
        """Return the properties of the filters; see `Backbone.describe`."""
        n_weights, least = KERNEL**2 * 2 * N_ORIENTATIONS, _least_size(backbone.name)
        sizes = f"at least {least} px"
        return Description(n_weights, n_features(backbone.name, max(size, least)), sizes, "optical density of stains")

    def most_features(self, backbone: Backbone) -> int:
        """Return the number of features of large images, which have all levels."""
        return n_features(backbone.name, _least_size(backbone.name) * 2 ** SIZES[backbone.name][1])


KIND = StainTexture()
