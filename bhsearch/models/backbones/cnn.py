"""`cnn`: a small convolutional network for training from scratch, without ImageNet weights.

The network has five strided stages, each of which halves the side and increases the number of channels, followed by
global average pooling. It has 0.2 million weights and takes a few milliseconds per image on a CPU. Initial weights are
drawn with NumPy, so that they are the same on all backends.

Source:
    Stages: Simonyan and Zisserman 2015, with strides for pooling (Springenberg et al. 2015) and batch normalisation
        (Ioffe and Szegedy 2015). Initial weights: He et al. 2015.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.backbones.base import AvailableBackbones, Backbone, Description, KindDefaults

NAME = "cnn"
DIGEST = "cnn-v1"  # used in place of a digest of weights; increase the version when the network changes
WIDTHS = (16, 32, 64, 96, 128)
KERNEL = 3
MOMENTUM = 0.9  # momentum of the moving statistics; Keras's default of 0.99 is too slow for a few hundred steps
N_PARAMETERS = sum(KERNEL**2 * a * b + 4 * b for a, b in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True))


def build(size: int) -> Any:
    """Build the network with arbitrary weights, which must be replaced by those of `initial_weights`.

    Args:
        size: Side of the images in pixels.

    Returns:
        A Keras network from float32 RGB in 0..255, shape (batch, size, size, 3), to features, shape (batch, 128).
    """
    import keras
    from keras import layers

    images = keras.Input((size, size, 3), dtype="float32")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    for k, width in enumerate(WIDTHS, start=1):
        x = layers.Conv2D(width, KERNEL, strides=2, padding="same", use_bias=False, name=f"stage{k}_conv")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"stage{k}_norm")(x)
        x = layers.ReLU(name=f"stage{k}_relu")(x)
    return keras.Model(images, layers.GlobalAveragePooling2D(name="pool")(x), name=NAME)


def initial_weights(network: Any, random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
    """Draw initial weights: He normal kernels, and batch normalisation without effect.

    Args:
        network: Network from `build`.
        random: Random generator.

    Returns:
        One array per entry of `network.weights`.

    Raises:
        ValueError: If the network has an unknown weight.
    """
    fixed = {"gamma": 1.0, "moving_variance": 1.0, "beta": 0.0, "moving_mean": 0.0}
    values = []
    for weight in network.weights:
        shape = tuple(weight.shape)
        if weight.name == "kernel":
            deviation = np.sqrt(2 / np.prod(shape[:-1]))
            values.append((random.standard_normal(shape) * deviation).astype(np.float32))
        elif weight.name in fixed:
            values.append(np.full(shape, fixed[weight.name], np.float32))
        else:
            raise ValueError(
                f"Cannot initialize the weight {weight.path!r} of the backbone cnn: it is neither a kernel nor part of "
                "a batch normalization."
            )
    return values


class ScratchNetwork(KindDefaults):
    """Kind with the single backbone `cnn`, which is trained from scratch and always available."""

    title = "network from scratch"
    from_scratch = True
    needs_weights = False

    def names(self) -> tuple[str, ...]:
        """Return the only name, `cnn`."""
        return (NAME,)

    def claims(self, name: str) -> bool:
        """Return whether the name is `cnn`."""
        return name == NAME

    def find(self, name: str, weights_dir: Path | None) -> Backbone:  # noqa: ARG002  # there are no weights
        """Return the backbone `cnn`."""
        return Backbone(name, None, DIGEST, "cnn")

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:  # noqa: ARG002
        """Return the backbone `cnn`."""
        return AvailableBackbones((self.find(NAME, weights_dir),))

    def build(self, backbone: Backbone, size: int) -> Any:  # noqa: ARG002  # there is one architecture
        """Build the network; see `Backbone.build`."""
        return build(size)

    def initial_weights(self, network: Any, random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Draw initial weights; see `Backbone.initial_weights`."""
        return initial_weights(network, random)

    def describe(self, backbone: Backbone, size: int) -> Description:  # noqa: ARG002
        """Return the properties of the network; see `Backbone.describe`."""
        return Description(N_PARAMETERS, WIDTHS[-1], "any", "scaled to -1..1")

    def size_mb(self, backbone: Backbone) -> float:  # noqa: ARG002
        """Return the size of the weights in MB."""
        return 4e-6 * N_PARAMETERS

    def most_features(self, backbone: Backbone) -> int:  # noqa: ARG002
        """Return the length of the feature vector."""
        return WIDTHS[-1]


KIND = ScratchNetwork()
