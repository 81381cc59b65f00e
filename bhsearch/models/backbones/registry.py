"""The backbones: what each network is, what it was trained on, where its weights come from, and how to build it."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

from bhsearch.errors import BackboneError
from bhsearch.models import backend
from bhsearch.models.backbones import cnn, staintex
from bhsearch.runtime.environment import keras_models

NETWORK_TIMEOUT_SECONDS = 5.0
AUTO_DOWNLOAD_MB = 25.0  # `auto` fetches small networks only
_HOST = "storage.googleapis.com"
_NOTHING_TO_TRAIN = "its filters are fixed, so there is nothing to train"


@dataclass(frozen=True)
class BackboneFacts:
    """What is known of a network beside its weights.

    Attributes:
        name: Name in the space and on the command line.
        builder: Name in `keras.applications`.
        alpha: Width multiplier, where the builder takes one.
        scaling: What the network was trained on, from RGB in 0..255: `tf` is -1..1, `torch` is 0..1 less the ImageNet
            mean over its deviation, `inside` means that the network does it itself, `efficientnet` that it leaves out
            the last step: see `scale`.
        weights_file: Keras's own file name of the ImageNet weights without the top.
        n_features: Length of the pooled feature vector.
        n_parameters: Million weights without the top.
        least_size: Smallest image side in pixels that the builder takes.
        licence: Of the weights.
        source: The paper.
    """

    name: str
    builder: str
    alpha: float | None
    scaling: str
    weights_file: str
    n_features: int
    n_parameters: float
    least_size: int
    licence: str
    source: str

    @property
    def size_mb(self) -> float:
        """Size of the weights in MB."""
        return 4 * self.n_parameters


_V1 = "mobilenet_{}_224_tf_no_top.h5"
_V2 = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_224_no_top.h5"
_TF = "weights_tf_dim_ordering_tf_kernels_notop.h5"
_V3 = "weights_mobilenet_v3_{}_224_1.0_float_no_top_v2.h5"
_EN, _EN2, _CN = "efficientnetb0_notop.h5", "efficientnetv2-b0_notop.h5", "convnext_tiny_notop.h5"
_HOWARD_1, _SANDLER = ("Apache-2.0", "Howard et al. 2017"), ("Apache-2.0", "Sandler et al. 2018")
_HOWARD, _HUANG = ("Apache-2.0", "Howard et al. 2019"), ("BSD-3-Clause", "Huang et al. 2017")
_TAN, _SZEGEDY = ("Apache-2.0", "Tan and Le 2019", "Tan and Le 2021"), ("Apache-2.0", "Szegedy et al. 2016")
# name, builder, alpha, scaling, file, features, million weights, least size, licence, source
_ROWS = (
    ("mobilenet-0.25", "MobileNet", 0.25, "tf", _V1.format("2_5"), 256, 0.22, 32, *_HOWARD_1),
    ("mobilenet-0.5", "MobileNet", 0.5, "tf", _V1.format("5_0"), 512, 0.83, 32, *_HOWARD_1),
    ("mobilenet-0.75", "MobileNet", 0.75, "tf", _V1.format("7_5"), 768, 1.83, 32, *_HOWARD_1),
    ("mobilenet-1.0", "MobileNet", 1.0, "tf", _V1.format("1_0"), 1024, 3.23, 32, *_HOWARD_1),
    ("mobilenetv2-0.35", "MobileNetV2", 0.35, "tf", _V2.format(0.35), 1280, 0.41, 32, *_SANDLER),
    ("mobilenetv2-0.5", "MobileNetV2", 0.5, "tf", _V2.format(0.5), 1280, 0.71, 32, *_SANDLER),
    ("mobilenetv2-0.75", "MobileNetV2", 0.75, "tf", _V2.format(0.75), 1280, 1.38, 32, *_SANDLER),
    ("mobilenetv2-1.0", "MobileNetV2", 1.0, "tf", _V2.format(1.0), 1280, 2.26, 32, *_SANDLER),
    ("mobilenetv3-small", "MobileNetV3Small", 1.0, "inside", _V3.format("small"), 576, 0.94, 32, *_HOWARD),
    ("mobilenetv3-large", "MobileNetV3Large", 1.0, "inside", _V3.format("large"), 960, 3.0, 32, *_HOWARD),
    ("efficientnetb0", "EfficientNetB0", None, "efficientnet", _EN, 1280, 4.05, 32, *_TAN[:2]),
    ("efficientnetv2b0", "EfficientNetV2B0", None, "inside", _EN2, 1280, 5.92, 32, *_TAN[::2]),
    ("densenet121", "DenseNet121", None, "torch", f"densenet121_{_TF}", 1024, 7.04, 32, *_HUANG),
    ("densenet201", "DenseNet201", None, "torch", f"densenet201_{_TF}", 1920, 18.32, 32, *_HUANG),
    ("resnet50v2", "ResNet50V2", None, "tf", f"resnet50v2_{_TF}", 2048, 23.56, 32, "MIT", "He et al. 2016"),
    ("convnext-tiny", "ConvNeXtTiny", None, "inside", _CN, 768, 27.82, 32, "MIT", "Liu et al. 2022"),
    ("inceptionv3", "InceptionV3", None, "tf", f"inception_v3_{_TF}", 2048, 21.8, 75, *_SZEGEDY),
    ("xception", "Xception", None, "tf", f"xception_{_TF}", 2048, 20.86, 71, "MIT", "Chollet 2017"),
)
REGISTRY = {facts.name: facts for facts in starmap(BackboneFacts, _ROWS)}


@dataclass(frozen=True)
class Backbone:
    """A backbone that can be had, on this machine, now.

    Attributes:
        name: A key of `REGISTRY`, a name of `staintex`, `cnn`, or the stem of the user's own file.
        file: Where its weights, or the user's own network, lie; None for fixed filters and what starts from scratch.
        digest: Of that file's bytes; what features and models were computed with.
    """

    name: str
    file: Path | None
    digest: str

    @property
    def size_mb(self) -> float:
        """Size of the weights in MB."""
        if self.file is None:
            return 4e-6 * cnn.N_PARAMETERS if self.from_scratch else 0.05
        return self.file.stat().st_size / 1e6

    @property
    def from_scratch(self) -> bool:
        """Whether it has no weights of its own, and so no features before it is trained."""
        return self.file is None and self.name == cnn.NAME

    def build(self, size: int) -> Any:
        """Build the network: float32 RGB in 0..255, (batch, size, size, 3) -> features, (batch, n_features).

        Raises:
            BackboneError: If the weights do not fit the architecture, or the file is no such network.
        """
        if self.file is None:
            return cnn.build(size) if self.from_scratch else staintex.build(self.name, size)
        if self.file.suffix == ".keras":  # the user's own, whatever it is called
            return _build_own(self.name, self.file, size)
        return _build_known(REGISTRY[self.name], self.file, size)


@dataclass(frozen=True)
class AvailableBackbones:
    """The backbones of a study, and those that were left out.

    Attributes:
        backbones: In the order they were asked for; for `auto`, what needs no weights first.
        left_out: Name and reason, for `auto` only.
    """

    backbones: tuple[Backbone, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def find_backbones(names: Iterable[str], weights_dir: Path | None, trainable: bool = False) -> AvailableBackbones:
    """Get backbones by name, or all that can be had with `auto`.

    ImageNet weights come from `weights_dir`, then from Keras's cache, then by download. `auto` downloads small networks
    only, and asks once whether there is a network. Random weights are never an answer.

    Args:
        names: As on the command line.
        weights_dir: The user's folder of weight files.
        trainable: Whether they will be trained themselves: `cnn` is for that only, and fixed filters are not.

    Raises:
        BackboneError: If a name is unknown, or a backbone asked for by name cannot be had or is of no use here.
    """
    names = list(dict.fromkeys(names))
    weights_dir = weights_dir.expanduser() if weights_dir is not None else None
    if weights_dir is not None and not weights_dir.is_dir():
        raise BackboneError(
            f"--weights-dir must be a folder of weight files, but got {str(weights_dir)!r}, which is not one."
        )
    found: dict[str, Backbone] = {}
    left_out: list[tuple[str, str]] = []
    for name in names:
        if name == "auto":
            some, left_out = _find_all(weights_dir, trainable)
            found.update(some)
        else:
            backbone = _find_one(name, weights_dir, trainable)
            if backbone.name in found and backbone.digest != found[backbone.name].digest:
                raise BackboneError(f"Two backbones are called {backbone.name!r}; rename one of the files.")
            found[backbone.name] = backbone
    return AvailableBackbones(tuple(found.values()), tuple(item for item in left_out if item[0] not in found))


def _find_all(weights_dir: Path | None, trainable: bool) -> tuple[dict[str, Backbone], list[tuple[str, str]]]:
    found: dict[str, Backbone] = {}
    left_out: list[tuple[str, str]] = []
    if trainable:
        found[cnn.NAME] = Backbone(cnn.NAME, None, cnn.DIGEST)
        left_out = [(name, _NOTHING_TO_TRAIN) for name in staintex.SIZES]
    else:
        found = {name: Backbone(name, None, staintex.DIGEST) for name in staintex.SIZES}
    online: bool | None = None
    for name, facts in REGISTRY.items():
        file = _local_file(facts, weights_dir)
        if file is None and facts.size_mb <= AUTO_DOWNLOAD_MB:
            online = _online() if online is None else online
            reason = "no weights here, and no network" if not online else "its weights could not be downloaded"
            file = _download(facts) if online else None
        elif file is None:
            reason = f"no weights here, and over {AUTO_DOWNLOAD_MB:.0f} MB to download: name it to have it"
        if file is None:
            left_out.append((name, reason))
        else:
            found[name] = Backbone(name, file, _digest(file))
    return found, left_out


def _find_one(name: str, weights_dir: Path | None, trainable: bool) -> Backbone:
    if name in staintex.SIZES:
        if trainable:
            raise BackboneError(
                f"A backbone of --regime finetune must be trainable, but {name!r}: {_NOTHING_TO_TRAIN}."
            )
        return Backbone(name, None, staintex.DIGEST)
    if name == cnn.NAME:
        if not trainable:
            raise BackboneError(
                f"The backbone {name!r} has no weights to freeze, as it is trained from scratch: "
                "give --regime finetune, or leave it out."
            )
        return Backbone(name, None, cnn.DIGEST)
    if name.endswith(".keras"):
        file = Path(name)
        if not file.is_file():
            raise BackboneError(f"A backbone of your own must be a Keras model file, but there is no file {name!r}.")
        return Backbone(file.stem, file.resolve(), _digest(file))
    if name not in REGISTRY:
        known = ", ".join([*([cnn.NAME] if trainable else staintex.SIZES), *REGISTRY])
        raise BackboneError(f"A backbone must be one of {known}, or a .keras file, but got {name!r}.")
    facts = REGISTRY[name]
    local = _local_file(facts, weights_dir)
    if local is None and _online():
        local = _download(facts)
    if local is None:
        places = [str(folder) for folder in (*([weights_dir] if weights_dir else []), *keras_models())]
        raise BackboneError(
            f"The backbone {name!r} needs its ImageNet weights, but {facts.weights_file} is not in "
            f"{' or '.join(places)}, and it could not be downloaded. "
            "Put the file into a folder and give it with --weights-dir, or leave the backbone out."
        )
    return Backbone(name, local, _digest(local))


def _local_file(facts: BackboneFacts, weights_dir: Path | None) -> Path | None:
    folders = [*([weights_dir] if weights_dir else []), *keras_models()]
    return next((file for file in (folder / facts.weights_file for folder in folders) if file.is_file()), None)


def _online() -> bool:
    try:
        with socket.create_connection((_HOST, 443), timeout=NETWORK_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def _download(facts: BackboneFacts) -> Path | None:
    """Let `keras.applications` fetch its own file; it checks the sum."""
    size = max(facts.least_size, 224)
    backend.import_backend()
    try:
        _construct(facts, "imagenet", size)
    except Exception:  # whatever the builder, the network or a proxy raises, the answer is the same: it cannot be had
        return None
    return _local_file(facts, None)


def _construct(facts: BackboneFacts, weights: str, size: int) -> Any:
    import keras

    options: dict[str, Any] = {} if facts.alpha is None else {"alpha": facts.alpha}
    return getattr(keras.applications, facts.builder)(
        include_top=False, weights=weights, input_shape=(size, size, 3), pooling="avg", **options
    )


def scale(images: Any, scaling: str) -> Any:
    """Bring RGB in 0..255 to what a network was trained on; `scaling` as in `BackboneFacts`."""
    from keras import layers

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if scaling == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    if scaling == "torch":
        factors = [1 / (255 * d) for d in deviation]
        return layers.Rescaling(factors, offset=[-m / d for m, d in zip(mean, deviation, strict=True)])(images)
    if scaling == "efficientnet":
        # The network takes off the mean and divides by the root of the deviation. Keras divides by the root once more
        # only where it fetches the weights itself; given them as a file it leaves that out, so it is done here.
        factors = [d**-0.5 for d in deviation]
        return layers.Rescaling(factors, offset=[255 * m * (1 - f) for m, f in zip(mean, factors, strict=True)])(images)
    return images


def _build_known(facts: BackboneFacts, file: Path, size: int) -> Any:
    import keras

    if size < facts.least_size:
        raise BackboneError(
            f"{facts.name} needs images of at least {facts.least_size} pixels, but --image-size is {size}."
        )
    try:
        network = _construct(facts, str(file), size)
    except (ValueError, OSError, KeyError) as error:
        raise BackboneError(
            f"The weights of {facts.name!r} must fit its architecture, but {file} does not: {_reason(error)}"
        ) from error
    network.trainable = False
    images = keras.Input((size, size, 3), dtype="float32")
    return keras.Model(images, network(scale(images, facts.scaling)), name=facts.name.replace(".", "_"))


def _build_own(name: str, file: Path, size: int) -> Any:
    """A network of the user's own: raw RGB in 0..255 in; features, or a map of them that is averaged, out."""
    import keras

    try:
        network = keras.saving.load_model(file, compile=False)
        network.trainable = False
        if (
            network.input_shape[-1] != 3
        ):  # Keras itself would spread the three channels over the filters, and say nothing
            raise ValueError(f"it takes an input of shape {network.input_shape}")
        images = keras.Input((size, size, 3), dtype="float32")
        features = network(images)
        if len(features.shape) == 4:
            features = keras.layers.GlobalAveragePooling2D()(features)
        if len(features.shape) != 2:
            raise ValueError(f"it gives an output of shape {features.shape}")
    except Exception as error:  # a foreign file can fail in any way; all of them mean the same to the user
        raise BackboneError(
            f"A backbone of your own must take RGB images of 0..255 and {size} x {size} pixels and give features, "
            f"shape (batch, n) or (batch, height, width, n), but {file} does not: "
            f"{_reason(error)}"
        ) from error
    # The prefix keeps a file called `image` apart from the layers of the deployed model.
    return keras.Model(images, features, name="own_" + name.replace(".", "_").replace(" ", "_"))


def _reason(error: Exception) -> str:
    """The line of an error that says why; Keras wraps it into the whole configuration."""
    text = (str(error) or repr(error)).rsplit("Exception encountered: ", 1)[-1]
    return text.strip().split("\n", 1)[0]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:24]
