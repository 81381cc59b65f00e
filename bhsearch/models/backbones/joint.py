"""Joint backbones: several encoders whose features are concatenated (`--combine`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bhsearch.errors import BackboneError
from bhsearch.models import backend
from bhsearch.models.backbones.base import AvailableBackbones, Backbone, Description, KindDefaults
from bhsearch.models.backbones.licence import joint_licence


def with_joined(backbones: Mapping[str, Backbone], joints: Mapping[str, Sequence[str]]) -> dict[str, Backbone]:
    """Return single backbones together with the joint ones.

    Args:
        backbones: Backbones by name.
        joints: Names of the joined backbones by name of the joint one.
    """
    joined = {name: Backbone.join(name, [backbones[member] for member in members]) for name, members in joints.items()}
    return {**backbones, **joined}


class Joint(KindDefaults):
    """Kind of joint backbones. They are made by `Backbone.join`; nobody names them on a command line."""

    title = "joint encoder"
    trainable = False

    def names(self) -> tuple[str, ...]:
        """Return no names, since a study decides what is joined."""
        return ()

    def claims(self, name: str) -> bool:  # noqa: ARG002
        """Return false; see `names`."""
        return False

    def find(self, name: str, weights_dir: Path | None) -> Backbone:  # noqa: ARG002
        """Raise an error; see `names`."""
        raise BackboneError(f"{name!r} is chosen by a study with --combine, and cannot be named in --backbones.")

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:  # noqa: ARG002
        """Return no backbones; see `names`."""
        return AvailableBackbones(())

    def check_size(self, backbone: Backbone, size: int) -> None:
        """Check that all members take images of this size; see `Backbone.check_size`."""
        for member in backbone.members:
            member.check_size(size)

    def build(self, backbone: Backbone, size: int) -> Any:
        """Build one network with all encoders inside; see `Backbone.build`."""
        backend.require()
        import keras

        images = keras.Input((size, size, 3), dtype="float32")
        features = []
        for number, member in enumerate(backbone.members, start=1):
            network = member.build(size)
            # Layers of a network need different names, and two encoders may have the same.
            features.append(keras.Model(network.inputs, network.outputs[0], name=f"encoder{number}")(images))
        return keras.Model(images, keras.ops.concatenate(features, axis=-1), name=backbone.name.replace("-", "_"))

    def licence(self, backbone: Backbone) -> str:
        """Return the licences of all members; see `licence.joint_licence`."""
        return joint_licence(member.licence for member in backbone.members)

    def describe(self, backbone: Backbone, size: int) -> Description:
        """Return the properties of all members together; see `Backbone.describe`."""
        each = [member.describe(size) for member in backbone.members]
        return Description(
            sum(one.n_parameters for one in each),
            sum(one.n_features for one in each),
            "; ".join(dict.fromkeys(one.sizes for one in each)),
            "; ".join(dict.fromkeys(one.preprocessing for one in each)),
        )

    def size_mb(self, backbone: Backbone) -> float:
        """Return the size of the weights of all members in MB."""
        return sum(member.size_mb for member in backbone.members)

    def model_mb(self, backbone: Backbone) -> float:
        """Return the estimated size in MB of the weights of all members in a model."""
        return sum(member.model_mb for member in backbone.members)

    def most_features(self, backbone: Backbone) -> int:
        """Return an upper bound of the number of features of all members together."""
        return sum(member.most_features for member in backbone.members)


KIND = Joint()
