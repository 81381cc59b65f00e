"""Interface of backbones: available backbones, and kinds of backbones that find and build them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from bhsearch.errors import BackboneError
from bhsearch.models import backend
from bhsearch.models.backbones.licence import licence_text
from bhsearch.plugins import Registry

_JOINT = "joint"  # kind of joined backbones
NAME_SEPARATOR = ":"  # separates the name of a kind from an argument, for kinds of other packages


class BackboneRecord(TypedDict):
    """A backbone: name, path of the weights file (empty if there is no file), digest of the weights, and kind.

    A joint backbone also has `members`, the backbones that it joins.
    """

    name: str
    file: str
    digest: str
    kind: str
    members: NotRequired[list[BackboneRecord]]


@dataclass(frozen=True)
class Description:
    """Properties of a backbone, for lists of backbones.

    Attributes:
        n_parameters: Number of weights.
        n_features: Length of the feature vector.
        sizes: Sides of images that the backbone takes, such as `any` or `multiples of 14 px`.
        preprocessing: What is done to RGB in 0..255 first, such as `scaled to -1..1`.
    """

    n_parameters: int
    n_features: int
    sizes: str
    preprocessing: str


@dataclass(frozen=True)
class Backbone:
    """A backbone whose weights are available on this machine.

    Attributes:
        name: Name in the search space.
        file: File of the weights, or Keras file of the user; None if the backbone has no weight file.
        digest: Digest of the weights, or a version number of the code if the backbone has no weight file. Cached
            features and models are identified by this digest.
        kind: Name of the backbone's kind in `KINDS`.
        members: Backbones whose features are concatenated; empty unless the kind is `joint`.
    """

    name: str
    file: Path | None
    digest: str
    kind: str
    members: tuple[Backbone, ...] = ()

    def to_record(self) -> BackboneRecord:
        """Return the backbone as a JSON-compatible dict."""
        record: BackboneRecord = {
            "name": self.name,
            "file": str(self.file) if self.file else "",
            "digest": self.digest,
            "kind": self.kind,
        }
        if self.members:
            record["members"] = [member.to_record() for member in self.members]
        return record

    @classmethod
    def from_record(cls, record: BackboneRecord) -> Backbone:
        """Restore a backbone from the dict of `to_record`."""
        file = Path(record["file"]) if record["file"] else None
        members = tuple(map(cls.from_record, record.get("members", ())))
        return cls(record["name"], file, record["digest"], record["kind"], members)

    @classmethod
    def join(cls, name: str, members: Sequence[Backbone]) -> Backbone:
        """Return the backbone whose features are those of several backbones, concatenated in this order.

        Args:
            name: Name in the search space, such as `joint-1`.
            members: Two or more Keras networks.

        Raises:
            BackboneError: If a member is no Keras network, or there are fewer than two.
        """
        if len(members) < 2 or not all(member.is_keras for member in members):
            raise BackboneError(
                f"{name} must join two or more Keras networks, but joins {', '.join(each.name for each in members)}."
            )
        each = "\n".join(f"{member.name} {member.digest}" for member in members)
        return cls(name, None, hashlib.sha256(each.encode()).hexdigest()[:24], _JOINT, tuple(members))

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
        """Length of the feature vector, or an upper bound if the length is unknown until the network is built."""
        return KINDS.get(self.kind).most_features(self)

    @property
    def licence(self) -> str:
        """Licence of the weights as text: its name, `unknown`, or `no weights`."""
        kind = KINDS.get(self.kind)
        return licence_text(kind.licence(self), kind.needs_weights)

    @property
    def is_keras(self) -> bool:
        """Whether the backbone is a Keras network. Others run on OpenVINO, and have frozen features only."""
        return KINDS.get(self.kind).is_keras

    @property
    def from_scratch(self) -> bool:
        """Whether the network has no pretrained weights, and therefore no frozen features."""
        return KINDS.get(self.kind).from_scratch

    def describe(self, size: int) -> Description:
        """Return the properties of the backbone.

        Args:
            size: Side of the images in pixels, for backbones whose number of features depends on it. The backbone need
                not take images of this size.

        Raises:
            BackboneError: If the backbone must be built to know them, and it cannot be built.
        """
        return KINDS.get(self.kind).describe(self, size)

    def check_size(self, size: int) -> None:
        """Check that the network can be built for a size of images, without building it.

        Args:
            size: Side of the images in pixels.

        Raises:
            BackboneError: If it cannot.
        """
        KINDS.get(self.kind).check_size(self, size)

    def build(self, size: int) -> Any:
        """Build the network.

        Args:
            size: Side of the images in pixels.

        Returns:
            A Keras network from float32 RGB in 0..255, shape (batch, size, size, 3), to features, shape
            (batch, n_features). The network consists only of built-in layers and `keras.ops`, so that Keras can load
            models that contain the network without bhsearch.

        Raises:
            BackboneError: If the weights do not fit the architecture, or the file does not contain a network with these
                inputs and outputs.
        """
        backend.require()
        return KINDS.get(self.kind).build(self, size)

    def program(self, size: int) -> Any:
        """Return the OpenVINO model of a backbone that is no Keras network.

        Args:
            size: Side of the images in pixels.

        Returns:
            An `openvino.Model` with the input and output of the networks of `build`.

        Raises:
            BackboneError: If the file cannot be read, or does not take images of this size.
        """
        return KINDS.get(self.kind).program(self, size)

    def initial_weights(self, network: Any, random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Return the weights at the start of training.

        Args:
            network: Network from `build`.
            random: Random generator; used only for networks that are trained from scratch.

        Returns:
            One array per entry of `network.weights`, in the same order.
        """
        return KINDS.get(self.kind).initial_weights(network, random)


@dataclass(frozen=True)
class AvailableBackbones:
    """Available backbones of a study, and backbones that are not available.

    Attributes:
        backbones: Available backbones in the order of the given names; for `auto`, in the order of the built-in kinds.
        left_out: Pairs of name and reason for each backbone that `auto` leaves out.
    """

    backbones: tuple[Backbone, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def names_by_reason(left_out: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names of backbones that are not available by the reason, from pairs of name and reason."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out:
        found.setdefault(reason, []).append(name)
    return found


class BackboneKind(Protocol):
    """Kind of backbones, such as the networks of `keras.applications`.

    Other packages provide kinds through entry points in `bhsearch.backbones`. The name of such a backbone is the name
    of the entry point, optionally followed by an argument: `toy` or `toy:ARGUMENT`. The option `--backbones auto` uses
    only built-in kinds.

    Attributes:
        title: Name of the kind for people, such as `published encoder`.
        trainable: Whether the networks can be trained (`--regime finetune`).
        from_scratch: Whether the networks have no pretrained weights. Such networks are not available in the frozen
            regime.
        needs_weights: Whether a weight file must be found or downloaded.
        is_keras: Whether the backbones are Keras networks, as those of other packages are; others have a `program`
            instead of a network.
    """

    title: str
    trainable: bool
    is_keras: bool
    from_scratch: bool
    needs_weights: bool

    def names(self) -> tuple[str, ...]:
        """Return the names of the backbones of this kind, for messages; empty if they cannot be listed."""

    def claims(self, name: str) -> bool:
        """Return whether a name on the command line refers to a backbone of this kind."""

    def name_of(self, name: str) -> str:
        """Return the name in the search space of the backbone to which a name on the command line refers."""

    def find(self, name: str, weights_dir: Path | None) -> Backbone:
        """Find the backbone with a name given by the user.

        Args:
            name: Name for which `claims` is true.
            weights_dir: Folder of weight files given by the user, or None.

        Raises:
            BackboneError: If the backbone is not available. The message says how to make it available.
        """

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:
        """Find the backbones of this kind that `--backbones auto` uses, and those that it leaves out.

        Args:
            weights_dir: Folder of weight files given by the user, or None.
            download: Whether small missing weights are downloaded.
        """

    def check_size(self, backbone: Backbone, size: int) -> None:
        """Check the side of the images; see `Backbone.check_size`."""

    def build(self, backbone: Backbone, size: int) -> Any:
        """Build the network; see `Backbone.build`."""

    def program(self, backbone: Backbone, size: int) -> Any:
        """Return the OpenVINO model of a backbone that is no Keras network; see `Backbone.program`."""

    def initial_weights(self, network: Any, random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Return the weights at the start of training; see `Backbone.initial_weights`."""

    def licence(self, backbone: Backbone) -> str:
        """Return the name of the licence of the weights; empty if it is unknown or there are no weights."""

    def describe(self, backbone: Backbone, size: int) -> Description:
        """Return the properties of the backbone; see `Backbone.describe`."""

    def size_mb(self, backbone: Backbone) -> float:
        """Return the size of the weights in MB."""

    def model_mb(self, backbone: Backbone) -> float:
        """Return the estimated size in MB of the weights in a model."""

    def most_features(self, backbone: Backbone) -> int:
        """Return the length of the feature vector, or an upper bound."""


class KindDefaults:
    """Optional base class with the defaults of most kinds of backbones."""

    title = "plugin"
    trainable = True
    is_keras = True
    from_scratch = False
    needs_weights = True

    def name_of(self, name: str) -> str:
        """Return the same name."""
        return name

    def check_size(self, backbone: Backbone, size: int) -> None:
        """Accept any size."""

    def program(self, backbone: Backbone, size: int) -> Any:
        """Raise an error, since backbones of most kinds are Keras networks."""
        raise NotImplementedError(f"The backbone {backbone.name!r} is a Keras network: use `build`.")

    def initial_weights(
        self,
        network: Any,
        random: np.random.Generator,  # noqa: ARG002  # used by kinds that draw initial weights
    ) -> list[npt.NDArray[np.float32]]:
        """Return the current weights of the network."""
        return [np.asarray(weight) for weight in network.weights]

    def licence(self, backbone: Backbone) -> str:  # noqa: ARG002  # used by kinds that know it
        """Return an empty text."""
        return ""

    def describe(self, backbone: Backbone, size: int) -> Description:
        """Build the network to count its weights and features."""
        network = backbone.build(size)
        return Description(network.count_params(), network.output_shape[-1], "not stated", "in the network")

    def size_mb(self, backbone: Backbone) -> float:
        """Return the size of the weight file in MB."""
        return backbone.file.stat().st_size / 1e6 if backbone.file is not None else 0.05

    def model_mb(self, backbone: Backbone) -> float:
        """Return nine tenths of the size of the weight file in MB, since a model does not store the names of layers."""
        return 0.9 * self.size_mb(backbone)


def file_digest(file: Path) -> str:
    """Return the digest of a file's content. 24 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:24]


def reason_of(error: Exception) -> str:
    """Return the line of an error message that states the reason, without the configuration that Keras adds."""
    text = (str(error) or repr(error)).rsplit("Exception encountered: ", 1)[-1]
    return text.strip().split("\n", 1)[0]


KINDS: Registry[BackboneKind] = Registry("bhsearch.backbones", "A kind of backbone")
