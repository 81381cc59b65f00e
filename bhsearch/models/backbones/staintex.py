"""`staintex`: fixed stain-texture filters as a backbone. It has no weights to get, so it is always there.

Optical density is taken apart into haematoxylin and eosin; each is filtered by complex Gabor filters of one wavelength
on a pyramid (the next level is the mean of two by two pixels); the energies are pooled over orientation by mean,
standard deviation and maximum, and every map by mean and standard deviation over the image, so that neither the
orientation nor the place of a structure counts. The stains' own means, spreads and shares of the image come beside.

Source:
    Deconvolution: Ruifrok and Johnston 2001. Gabor energies as texture: Jain and Farrokhnia 1991. Pooling: ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.augmentation.stain import RGB_TO_HE, optical_density

# Factor by which the images are shrunk first, and levels of the pyramid behind it. Wavelengths: 10, 20 and 40 pixels
# for the small bank, 5 to 40 for the large one, which takes longer.
SIZES = {"staintex-s": (2, 3), "staintex-l": (1, 4)}
DIGEST = "fixed-filters-v3"  # stands for the weights that it does not have; raise it when a number changes
WAVELENGTH = 5.0
N_ORIENTATIONS = 6
KERNEL = 15  # covers 2.5 standard deviations of the envelope on either side
STRIDE = 2  # an energy varies no faster than the envelope, so every second pixel says it all
_SHARES = ((0.15, 0.3, 0.5, 0.8), (0.1, 0.2, 0.4))  # optical densities of haematoxylin, of eosin
_SLOPE = 20.0  # soft thresholds: a share that moves smoothly with the stain
_TINY = 1e-6


def gabor_bank() -> npt.NDArray[np.float32]:
    """Even and odd Gabor filters, free of the mean. Shape (KERNEL, KERNEL, 1, 2 * N_ORIENTATIONS)."""
    half = KERNEL // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    envelope = np.exp(-(x**2 + y**2) / (2 * (0.56 * WAVELENGTH) ** 2))
    filters = []
    for wave in (np.cos, np.sin):
        for k in range(N_ORIENTATIONS):
            angle = np.pi * k / N_ORIENTATIONS
            carrier = wave(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / WAVELENGTH)
            carrier = carrier - (carrier * envelope).sum() / envelope.sum()  # a flat stain has no texture
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
    shrink, n_levels = SIZES[name]
    seen = layers.AveragePooling2D(shrink)(images) if shrink > 1 else images
    stains = ops.matmul(optical_density(seen), RGB_TO_HE)
    numbers = _stain_numbers(seen, stains)
    bank = layers.Conv2D(2 * N_ORIENTATIONS, KERNEL, strides=STRIDE, use_bias=False, trainable=False, name="gabor")
    for channel in (0, 1):
        level = stains[..., channel : channel + 1]
        for depth in range(n_levels):
            if depth:
                level = layers.AveragePooling2D(2)(level)
            if level.shape[1] < KERNEL:
                break  # small images have fewer levels
            numbers += _texture_numbers(bank(level))
    network = keras.Model(images, ops.concatenate(numbers, axis=-1), name=name)
    bank.set_weights([gabor_bank()])
    return network


def _stain_numbers(images: Any, stains: Any) -> list[Any]:
    """Means, spreads and shares of the stains, and the means and spreads of the colours. Each of shape (batch, k)."""
    from keras import layers, ops

    numbers = [ops.mean(stains, axis=(1, 2)), _spread(stains)]
    numbers += [ops.mean(images, axis=(1, 2)) / 255.0, _spread(images) / 255.0]
    coarse = layers.AveragePooling2D(2)(stains)  # shares need no more, and cost a quarter
    for channel, edges in enumerate(_SHARES):
        above = ops.sigmoid(_SLOPE * (coarse[..., channel : channel + 1] - np.array(edges, np.float32)))
        numbers.append(ops.mean(above, axis=(1, 2)))
    return numbers


def _spread(maps: Any) -> Any:
    """Standard deviation over the image, (batch, k); written out, as a backend's own gives none for a flat image.

    A flat image has a deviation of 0, and the root no slope there: it is taken of 1 instead, and 0 put in its place.
    """
    from keras import ops

    away = maps - ops.mean(maps, axis=(1, 2), keepdims=True)
    variance = ops.mean(ops.square(away), axis=(1, 2))
    varies = ops.cast(variance > 0, "float32")
    return varies * ops.sqrt(variance + (1.0 - varies))


def _texture_numbers(responses: Any) -> list[Any]:
    """Pool filter responses over orientation, then over the image, each number on a logarithmic scale.

    Args:
        responses: Even, then odd. Shape (batch, height, width, 2 * N_ORIENTATIONS).
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
