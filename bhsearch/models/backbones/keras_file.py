"""User-defined backbones in `.keras` files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from bhsearch.errors import BackboneError
from bhsearch.models import backend
from bhsearch.models.backbones.base import (
    AvailableBackbones,
    Backbone,
    Description,
    KindDefaults,
    file_digest,
    reason_of,
)

_SUFFIX = ".keras"
_MOST_FEATURES = 4096  # assumed number of features in estimates of disk space
_WEIGHTS_SHARE = 0.3  # assumed share of the weights in a file, which may also contain the optimiser state


class KerasFile(KindDefaults):
    """Kind of backbones in `.keras` files. The name of a backbone is the stem of its file."""

    title = ".keras file"

    def names(self) -> tuple[str, ...]:
        """Return no names, since any file can be given."""
        return ()

    def claims(self, name: str) -> bool:
        """Return whether the name ends with `.keras`."""
        return name.endswith(_SUFFIX)

    def name_of(self, name: str) -> str:
        """Return the stem of the file."""
        return Path(name).stem

    def find(self, name: str, weights_dir: Path | None) -> Backbone:  # noqa: ARG002  # the name is the path
        """Find the file; see `BackboneKind.find`."""
        file = Path(name)
        if not file.is_file():
            raise BackboneError(f"There is no Keras model file {name!r}. Check the path in --backbones.")
        if not zipfile.is_zipfile(file):
            raise BackboneError(
                f"The file {name!r} is no .keras archive, or is damaged. Save the network again with "
                "network.save('NAME.keras'), or copy the file again."
            )
        return Backbone(file.stem, file.resolve(), file_digest(file), "keras-file")

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:  # noqa: ARG002
        """Return no backbones, since a file must be named."""
        return AvailableBackbones(())

    def build(self, backbone: Backbone, size: int) -> Any:
        """Load the network; see `Backbone.build`."""
        assert backbone.file is not None  # set by `find`
        return _build(backbone.name, backbone.file, size)

    def describe(self, backbone: Backbone, size: int) -> Description:
        """Build the network, at its own size if it has one, to count its weights and features."""
        assert backbone.file is not None  # set by `find`
        own = _own_size(backbone.file)
        network = backbone.build(size if own is None else own)
        sizes = "any that its layers take" if own is None else f"{own} px"
        return Description(network.count_params(), network.output_shape[-1], sizes, "its own")

    def model_mb(self, backbone: Backbone) -> float:
        """Return an estimate of the size of the weights in MB, as a share of the file size."""
        return _WEIGHTS_SHARE * self.size_mb(backbone)

    def most_features(self, backbone: Backbone) -> int:  # noqa: ARG002
        """Return an upper bound, since the length is unknown until the network is built."""
        return _MOST_FEATURES


KIND = KerasFile()


def _own_size(file: Path) -> int | None:
    """Return the only size of square images that a network takes; None if it takes several, or the file is invalid."""
    backend.require()
    import keras

    try:
        shape = keras.saving.load_model(file, compile=False).input_shape
    except Exception:  # `build` explains what is wrong with the file
        return None
    return shape[1] if len(shape) == 4 and shape[1] == shape[2] else None


def _build(name: str, file: Path, size: int) -> Any:
    """Load a user's network from RGB in 0..255 to features; feature maps are averaged over pixels."""
    import keras

    try:
        network = keras.saving.load_model(file, compile=False)
        network.trainable = False
        if network.input_shape[-1] != 3:  # Keras would silently broadcast the three channels
            raise ValueError(f"its input has the shape {network.input_shape}")
        images = keras.Input((size, size, 3), dtype="float32")
        features = network(images)
        if len(features.shape) == 4:
            features = keras.layers.GlobalAveragePooling2D()(features)
        if len(features.shape) != 2:
            raise ValueError(f"its output has the shape {features.shape}")
    except Exception as error:  # foreign files raise many types, with the same meaning for the user
        raise BackboneError(
            f"Cannot use {file} as a backbone: {reason_of(error).rstrip('.')}. A backbone maps RGB images in 0..255, "
            f"shape (batch, {size}, {size}, 3), to features, shape (batch, n_features) or (batch, height, width, "
            "n_features)."
        ) from error
    # The prefix avoids a name conflict with layers of the deployed model, such as `image`.
    return keras.Model(images, features, name="own_" + name.replace(".", "_").replace(" ", "_"))
