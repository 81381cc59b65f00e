"""Published encoders in folders, as the model hubs give them: `config.json` and `model.safetensors`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.config.parsing import POOLINGS, split_pooling
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import NAME_SEPARATOR, AvailableBackbones, Backbone, Description, KindDefaults
from bhsearch.models.backbones.encoders.architecture import Architecture, read_architecture
from bhsearch.models.backbones.encoders.config import CONFIG, EncoderConfig, read_config
from bhsearch.models.backbones.encoders.hub import PREFIX, HubEncoder
from bhsearch.models.backbones.encoders.names import translate
from bhsearch.models.backbones.encoders.network import build
from bhsearch.models.backbones.encoders.tensors import PICKLES, TensorFiles, require_safe

_KIND = "encoder"
_VERSION = "encoder-v1"  # increase it when features of the same files change
_CACHED = "models--"  # prefix of the folder of a model in the cache of huggingface_hub
_WEIGHT_FILES = (*PICKLES, ".safetensors")


@dataclass(frozen=True)
class Encoder:
    """A published encoder whose files have been read, except for the values of its tensors.

    Attributes:
        config: Description of the encoder.
        architecture: Architecture of the encoder.
        tensors: Tensors in the files.
        names: Name in the files of each tensor, by its name here.
        pooling: How tokens are pooled, one of `config.parsing.POOLINGS`.
    """

    config: EncoderConfig
    architecture: Architecture
    tensors: TensorFiles
    names: dict[str, str]
    pooling: str

    @classmethod
    def of(cls, folder: Path, pooling: str | None) -> Encoder:
        """Read the files of an encoder.

        Args:
            folder: Folder of the encoder.
            pooling: One of `POOLINGS`; None for the pooling of the encoder's library.

        Raises:
            BackboneError: If the files are incomplete, contradict each other, or are no supported encoder.
        """
        if not folder.is_dir():
            raise BackboneError(f"There is no folder {str(folder)!r}. Check the path in --backbones.")
        config = read_config(folder)
        require_safe(folder)
        tensors = TensorFiles.of(folder)
        names = translate(config.naming, tensors.shapes, str(folder))
        architecture = read_architecture(config, tensors.shapes, names)
        pooling = pooling or config.pooling
        if "cls" in pooling and not architecture.class_token:
            raise BackboneError(f"The encoder {folder} has no class token. Use the mean of its patches: {folder}@mean.")
        return cls(config, architecture, tensors, names, pooling)

    @property
    def n_features(self) -> int:
        """Length of the feature vector."""
        return self.architecture.width * len(self.pooling.split("+"))

    def read(self, name: str) -> Any:
        """Return a tensor by its name here, as float32."""
        return self.tensors.read(self.names[name])

    def digest(self) -> str:
        """Return a digest of everything that determines the features. 24 hex digits.

        Raises:
            BackboneError: If a tensor contains NaN or infinite values.
        """
        for name in self.names.values():
            if not np.isfinite(self.tensors.read(name)).all():
                raise BackboneError(
                    f"The tensor {name} in {self.tensors.places[name]} contains NaN or infinite values. Download the "
                    "encoder again, or use another one."
                )
        facts = {key: value for key, value in asdict(self.config).items() if key not in ("naming", "licence")}
        text = json.dumps([_VERSION, facts, asdict(self.architecture), self.pooling, self.tensors.digest()])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


class EncoderFolder(KindDefaults):
    """Kind of published encoders. The name of a backbone is the name of its folder, with the pooling if it is given.

    Users name a folder, or a model of a hub, optionally followed by a pooling: `FOLDER`, `FOLDER@cls+mean`,
    `hf://OWNER/NAME`.
    """

    title = "published encoder"

    def names(self) -> tuple[str, ...]:
        """Return no names, since any folder can be given."""
        return ()

    def claims(self, name: str) -> bool:
        """Return whether the name is a path of a hub or with folders, a file of weights, or a folder of an encoder."""
        if name.startswith(PREFIX):
            return True
        path = Path(split_pooling(name)[0])
        if path.is_absolute() or path.suffix in _WEIGHT_FILES or (path / CONFIG).is_file():
            return True
        return len(path.parts) > 1 and NAME_SEPARATOR not in name  # or else it is the argument of another kind

    def name_of(self, name: str) -> str:
        """Return the name of the folder with the pooling; for a snapshot in a cache of models, its owner and name."""
        if name.startswith(PREFIX):
            encoder = HubEncoder.of(name)
            own = f"{encoder.owner}--{encoder.name}"
            return f"{own}@{encoder.pooling}" if encoder.pooling else own
        path, pooling = split_pooling(name)
        folder = Path(path).resolve()
        repository = folder.parent.parent.name
        is_snapshot = folder.parent.name == "snapshots" and repository.startswith(_CACHED)
        own = repository.removeprefix(_CACHED) if is_snapshot else folder.name
        return f"{own}@{pooling}" if pooling else own

    def find(self, name: str, weights_dir: Path | None) -> Backbone:  # noqa: ARG002  # the name is the path
        """Find and check the encoder, and download it if the name is that of a hub; see `BackboneKind.find`."""
        if name.startswith(PREFIX):
            hosted = HubEncoder.of(name)
            folder = hosted.folder().resolve()
            return Backbone(self.name_of(name), folder, Encoder.of(folder, hosted.pooling).digest(), _KIND)
        path, pooling = split_pooling(name)
        folder = Path(path).resolve()
        if folder.suffix in _WEIGHT_FILES and not folder.is_dir():
            raise BackboneError(
                f"A published encoder is named by its folder, but got the file {path!r}. Give the folder that contains "
                "config.json and model.safetensors."
            )
        before, at, wrong = path.rpartition("@")
        if at and not folder.is_dir() and Path(before).is_dir():
            raise BackboneError(f"The pooling of {before} must be one of {', '.join(POOLINGS)}, but is {wrong!r}.")
        if split_pooling(folder.name)[1]:
            raise BackboneError(f"The name of the folder {folder} ends with a pooling. Rename the folder.")
        encoder = Encoder.of(folder, pooling)
        return Backbone(self.name_of(name), folder, encoder.digest(), _KIND)

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:  # noqa: ARG002
        """Return no backbones, since a folder must be named."""
        return AvailableBackbones(())

    def check_size(self, backbone: Backbone, size: int) -> None:
        """Check that a whole number of patches fits into the images; see `Backbone.check_size`."""
        patch = _encoder_of(backbone).architecture.patch
        if size % patch or size < patch:
            near = [n * patch for n in (size // patch, size // patch + 1) if n]
            raise BackboneError(
                f"{backbone.name} requires images whose side is a multiple of its patches of {patch} pixels, but "
                f"--image-size is {size}. Use --image-size {' or '.join(map(str, near))}, or leave the backbone out."
            )

    def build(self, backbone: Backbone, size: int) -> Any:
        """Build the network; see `Backbone.build`."""
        self.check_size(backbone, size)
        encoder = _encoder_of(backbone)
        name = "encoder_" + re.sub(r"\W", "_", backbone.name)
        return build(encoder.config, encoder.architecture, encoder.read, encoder.pooling, size, name)

    def licence(self, backbone: Backbone) -> str:
        """Return the licence that the folder states; empty if it states none."""
        return _encoder_of(backbone).config.licence

    def describe(self, backbone: Backbone, size: int) -> Description:  # noqa: ARG002  # features depend on no size
        """Return the properties of the encoder; see `Backbone.describe`."""
        encoder = _encoder_of(backbone)
        architecture, config = encoder.architecture, encoder.config
        mean, deviation = (" ".join(f"{value:.3g}" for value in row) for row in (config.mean, config.deviation))
        return Description(
            architecture.n_parameters,
            encoder.n_features,
            f"multiples of {architecture.patch} px, trained at {architecture.patch * architecture.grid} px",
            f"scaled to 0..1, mean {mean}, deviation {deviation}",
        )

    def size_mb(self, backbone: Backbone) -> float:
        """Return the size of the weights in MB, as float32."""
        return 4e-6 * _encoder_of(backbone).architecture.n_parameters

    def model_mb(self, backbone: Backbone) -> float:
        """Return the size of the weights in MB, as float32."""
        return self.size_mb(backbone)

    def most_features(self, backbone: Backbone) -> int:
        """Return the length of the feature vector."""
        return _encoder_of(backbone).n_features


KIND = EncoderFolder()


def _encoder_of(backbone: Backbone) -> Encoder:
    assert backbone.file is not None  # set by `find`
    return Encoder.of(backbone.file, split_pooling(backbone.name)[1])
