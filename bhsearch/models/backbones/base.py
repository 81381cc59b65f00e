"""The interface of backbones: a network that is available, and the kind of network that it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bhsearch.plugins import Registry

NAME_SEPARATOR = ":"  # between the name of a kind of another package and an argument


@dataclass(frozen=True)
class Backbone:
    """A backbone that is available on this machine.

    Attributes:
        name: Name in the search space; `find` of its kind returns the backbone for this name.
        file: File with its weights, or the user's own network; None for a kind without weight files.
        digest: Digest of the weights, or a version where there is no file. Cached features and models depend on it.
        kind: Name of its kind in `KINDS`.
    """

    name: str
    file: Path | None
    digest: str
    kind: str

    @property
    def size_mb(self) -> float:
        """Size of the weights in MB."""
        return KINDS.get(self.kind).size_mb(self)

    @property
    def model_mb(self) -> float:
        """Estimated size in MB of the weights in a model."""
        return KINDS.get(self.kind).model_mb(self)

    @property
    def most_features(self) -> int:
        """Length of the feature vector, or an upper bound where it is not known before the network is built."""
        return KINDS.get(self.kind).most_features(self)

    @property
    def from_scratch(self) -> bool:
        """Whether the network has no weights before it is trained, and therefore no frozen features."""
        return KINDS.get(self.kind).from_scratch

    def build(self, size: int) -> Any:
        """Build the network.

        Args:
            size: Side of the images in pixels.

        Returns:
            A Keras network from float32 RGB in 0..255, shape (batch, size, size, 3), to features, shape
            (batch, n_features). It consists of stock layers and `keras.ops` only, so that a model that contains it can
            be loaded by Keras alone.

        Raises:
            BackboneError: If the weights do not fit the architecture, or the file does not contain such a network.
        """
        return KINDS.get(self.kind).build(self, size)

    def initial_weights(self, network: Any, random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Return the weights that a training starts from.

        Args:
            network: From `build`.
            random: Source of random numbers; used by networks that are trained from scratch only.

        Returns:
            An array for each of `network.weights`, in their order.
        """
        return KINDS.get(self.kind).initial_weights(network, random)


@dataclass(frozen=True)
class AvailableBackbones:
    """The backbones of a study, and those that were left out.

    Attributes:
        backbones: In the order in which they were given; for `auto`, kinds without weight files come first.
        left_out: Name and reason, for `auto` only.
    """

    backbones: tuple[Backbone, ...]
    left_out: tuple[tuple[str, str], ...] = ()


class BackboneKind(Protocol):
    """A kind of backbone, such as the networks of `keras.applications`.

    Another package offers one by an entry point in `bhsearch.backbones`. Its backbones are named by the name of the
    entry point, alone (`toy`) or with an argument (`toy:ARGUMENT`); `--backbones auto` does not use them.

    Attributes:
        trainable: Whether the network can be trained (`--regime finetune`).
        from_scratch: Whether the network has no weights before it is trained. Such a kind is not used in the frozen
            regime.
        needs_weights: Whether a weight file must be found or downloaded.
    """

    trainable: bool
    from_scratch: bool
    needs_weights: bool

    def names(self) -> tuple[str, ...]:
        """Return the names of its backbones, for messages; empty if they cannot be listed."""

    def claims(self, name: str) -> bool:
        """Return whether a name on the command line means a backbone of this kind."""

    def find(self, name: str, weights_dir: Path | None) -> Backbone:
        """Find a backbone that the user named.

        Args:
            name: A name that the kind claims.
            weights_dir: The user's folder of weight files.

        Raises:
            BackboneError: If it is not available, with what to do.
        """

    def find_all(self, weights_dir: Path | None) -> AvailableBackbones:
        """Find the backbones that `--backbones auto` uses."""

    def build(self, backbone: Backbone, size: int) -> Any:
        """Build the network; see `Backbone.build`."""

    def initial_weights(self, network: Any, random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Return the weights that a training starts from; see `Backbone.initial_weights`."""

    def size_mb(self, backbone: Backbone) -> float:
        """Return the size of the weights in MB."""

    def model_mb(self, backbone: Backbone) -> float:
        """Return the estimated size in MB of the weights in a model."""

    def most_features(self, backbone: Backbone) -> int:
        """Return the length of the feature vector, or an upper bound."""


class KindDefaults:
    """What most kinds have in common; a kind may derive from it."""

    trainable = True
    from_scratch = False
    needs_weights = True

    def initial_weights(
        self,
        network: Any,
        random: np.random.Generator,  # noqa: ARG002  # for kinds that draw them
    ) -> list[npt.NDArray[np.float32]]:
        """Return the weights that the network has."""
        return [np.asarray(weight) for weight in network.weights]

    def size_mb(self, backbone: Backbone) -> float:
        """Return the size of the weight file in MB."""
        return backbone.file.stat().st_size / 1e6 if backbone.file is not None else 0.05

    def model_mb(self, backbone: Backbone) -> float:
        """Return nine tenths of the weight file: a model stores no names of layers."""
        return 0.9 * self.size_mb(backbone)


def file_digest(file: Path) -> str:
    """Return the digest of a file's bytes, 24 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:24]


def reason_of(error: Exception) -> str:
    """Return the line of an error that states the reason; Keras surrounds it with the whole configuration."""
    text = (str(error) or repr(error)).rsplit("Exception encountered: ", 1)[-1]
    return text.strip().split("\n", 1)[0]


KINDS: Registry[BackboneKind] = Registry("bhsearch.backbones", "A kind of backbone")
