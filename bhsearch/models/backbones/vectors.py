"""Encoders whose vectors were computed elsewhere: files of vectors in place of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bhsearch.config import VECTORS
from bhsearch.data.embeddings.table import VectorTable, name_of, table_of
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import AvailableBackbones, Backbone, Description, KindDefaults

NAME = "vectors"  # of the kind
_MODEL_MB = 0.1  # of a model, which has heads only


class VectorFiles(KindDefaults):
    """Kind of backbones that are files of vectors. The name of a backbone is the stem of its file."""

    title = "file of vectors"
    trainable = False

    def names(self) -> tuple[str, ...]:
        """Return no names, since files are given by `--features`."""
        return ()

    def claims(self, name: str) -> bool:
        """Return whether the name is that of a file of `--features`."""
        return name.startswith(VECTORS)

    def name_of(self, name: str) -> str:
        """Return the stem of the file, or the name of the folder."""
        return name_of(Path(name.removeprefix(VECTORS)).expanduser())

    def find(self, name: str, weights_dir: Path | None) -> Backbone:  # noqa: ARG002  # the name is the path
        """Convert the file unless the cache has it; see `BackboneKind.find`."""
        table = table_of(Path(name.removeprefix(VECTORS)).expanduser())
        return Backbone(table.name, table.file.resolve(), table.digest, NAME)

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:  # noqa: ARG002
        """Return no backbones, since a file must be named."""
        return AvailableBackbones(())

    def build(self, backbone: Backbone, size: int) -> Any:  # noqa: ARG002  # vectors have no size
        """Build a network that returns its input, vectors of shape (batch, n_features); see `Backbone.build`."""
        import keras

        vectors = keras.Input((_table(backbone).n_features,), dtype="float32", name="vectors")
        return keras.Model(vectors, keras.layers.Activation("linear")(vectors), name="encoder_elsewhere")

    def describe(self, backbone: Backbone, size: int) -> Description:  # noqa: ARG002
        """Return the properties of the vectors."""
        return Description(0, _table(backbone).n_features, "none, since it takes vectors", "done elsewhere")

    def size_mb(self, backbone: Backbone) -> float:  # noqa: ARG002
        """Return 0, since no model contains the encoder."""
        return 0.0

    def model_mb(self, backbone: Backbone) -> float:  # noqa: ARG002
        """Return the size of heads."""
        return _MODEL_MB

    def most_features(self, backbone: Backbone) -> int:
        """Return the length of the vectors."""
        return _table(backbone).n_features


KIND = VectorFiles()


def takes_vectors(backbone: Backbone) -> bool:
    """Return whether models with a backbone take vectors instead of images."""
    return backbone.kind == NAME


def _table(backbone: Backbone) -> VectorTable:
    """Return the table of a backbone.

    Raises:
        BackboneError: If the file has changed.
    """
    assert backbone.file is not None  # set by `find`
    table = table_of(backbone.file)
    if table.digest != backbone.digest:
        raise BackboneError(
            f"The file of vectors {backbone.file} must not change during a study, but its digest was "
            f"{backbone.digest} and is now {table.digest}. Restore the file, or create a new study with --study."
        )
    return table
