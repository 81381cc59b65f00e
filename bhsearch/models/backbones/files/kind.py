"""Kinds of backbones in files of other frameworks, which OpenVINO runs: frozen features only."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import AvailableBackbones, Backbone, Description, KindDefaults
from bhsearch.models.backbones.encoders.config import licence_of
from bhsearch.models.backbones.files.check import n_features
from bhsearch.models.backbones.files.encoder import ONNX, OPENVINO, SAVED_MODEL, FileEncoder, files_of


class FileKind(KindDefaults):
    """Kind of encoders in one file format. Backbones have the names of their files, without suffix, or folders.

    Args:
        name: Name of the kind.
        title: Name of the kind for people.
        ending: Suffix of the files, or the name of the file that a folder of this format contains.
    """

    trainable = False
    is_keras = False

    def __init__(self, name: str, title: str, ending: str) -> None:
        self._name, self.title, self._ending = name, title, ending

    def names(self) -> tuple[str, ...]:
        """Return no names, since any file can be given."""
        return ()

    def claims(self, name: str) -> bool:
        """Return whether the name ends with the suffix of the format, or is a folder of the format."""
        return name.endswith(self._ending) if self._ending.startswith(".") else (Path(name) / self._ending).is_file()

    def name_of(self, name: str) -> str:
        """Return the stem of the file, or the name of the folder."""
        path = Path(name).resolve()
        return path.stem if self._ending.startswith(".") else path.name

    def find(self, name: str, weights_dir: Path | None) -> Backbone:  # noqa: ARG002  # the name is the path
        """Find, read and check the file; see `BackboneKind.find`."""
        file = Path(name).resolve()
        if not file.exists():
            raise BackboneError(f"There is no file {name!r}. Check the path in --backbones.")
        encoder = FileEncoder.of(file)
        digest = encoder.digest()
        n_features(encoder, digest)
        return Backbone(self.name_of(name), file, digest, self._name)

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:  # noqa: ARG002
        """Return no backbones, since a file must be named."""
        return AvailableBackbones(())

    def check_size(self, backbone: Backbone, size: int) -> None:
        """Check that the images have the size of the encoder; see `Backbone.check_size`."""
        own = encoder_of(backbone).size
        if size != own:
            raise BackboneError(
                f"{backbone.name} requires images of {own} pixels, but --image-size is {size}. Use --image-size {own}, "
                "or leave the backbone out."
            )

    def build(self, backbone: Backbone, size: int) -> Any:  # noqa: ARG002
        """Raise an error, since the encoder is no Keras network."""
        raise BackboneError(f"The backbone {backbone.name!r} is a {self.title} and no Keras network.")

    def program(self, backbone: Backbone, size: int) -> Any:
        """Return the OpenVINO model; see `Backbone.program`."""
        self.check_size(backbone, size)
        return encoder_of(backbone).program().openvino()

    def licence(self, backbone: Backbone) -> str:
        """Return the licence that the preprocessing file states, or else the README beside it; empty if none does."""
        encoder = encoder_of(backbone)
        return encoder.preprocessing.licence or licence_of(encoder.preprocessing.file.parent, {})

    def describe(self, backbone: Backbone, size: int) -> Description:  # noqa: ARG002  # it has one size
        """Return the properties of the encoder; see `Backbone.describe`."""
        encoder = encoder_of(backbone)
        preprocessing = f"{encoder.preprocessing}, {encoder.layout}"
        return Description(encoder.n_parameters, self.most_features(backbone), f"{encoder.size} px", preprocessing)

    def size_mb(self, backbone: Backbone) -> float:
        """Return the size of the files in MB."""
        assert backbone.file is not None  # set by `find`
        return sum(file.stat().st_size for file in files_of(backbone.file)) / 1e6

    def model_mb(self, backbone: Backbone) -> float:
        """Return the size of the files in MB, since a model contains the encoder as it is."""
        return self.size_mb(backbone)

    def most_features(self, backbone: Backbone) -> int:
        """Return the length of the feature vector."""
        return n_features(encoder_of(backbone), backbone.digest)


ONNX_FILE = FileKind("onnx-file", "ONNX file", ONNX)
OPENVINO_FILE = FileKind("openvino-file", "OpenVINO file", OPENVINO)
SAVED_MODEL_FOLDER = FileKind("saved-model", "SavedModel folder", SAVED_MODEL)


def encoder_of(backbone: Backbone) -> FileEncoder:
    """Return the encoder of a backbone.

    Raises:
        BackboneError: If its files have changed since it was found, or cannot be used.
    """
    return _encoder(backbone)


@lru_cache(maxsize=16)
def _encoder(backbone: Backbone) -> FileEncoder:
    assert backbone.file is not None  # set by `find`
    encoder = FileEncoder.of(backbone.file)
    if encoder.digest() != backbone.digest:
        raise BackboneError(
            f"The files of {backbone.name} have changed since the study began. Restore {backbone.file}."
        )
    return encoder
