"""Networks of `keras.applications`: facts about each network, and finding and loading their weights."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from itertools import starmap
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
from bhsearch.runtime.environment import keras_models

NETWORK_TIMEOUT_SECONDS = 5.0
AUTO_DOWNLOAD_MB = 25.0  # `auto` downloads small networks only
_HOST = "storage.googleapis.com"
_KIND = "keras-applications"


@dataclass(frozen=True)
class BackboneFacts:
    """Facts about a network and its ImageNet weights.

    Attributes:
        name: Name in the search space and on the command line.
        builder: Name of the function in `keras.applications`.
        alpha: Width multiplier; None if the builder has no such argument.
        scaling: Scaling of RGB in 0..255 to the input range of the network: `tf` (to -1..1), `torch` (to 0..1, then
            standardised by mean and standard deviation of ImageNet), `inside` (the network scales its input), or
            `efficientnet` (the network scales its input except for one step, see `scale`).
        weights_file: File name of the ImageNet weights without the top, as used by Keras.
        n_features: Length of the pooled feature vector.
        n_parameters: Number of weights without the top, in millions.
        least_size: Minimum image side in pixels.
        licence: Licence of the weights as Keras documents it; empty if it does not.
        source: Paper that introduced the network.
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
_HOWARD, _HUANG = ("", "Howard et al. 2019"), ("BSD-3-Clause", "Huang et al. 2017")
_TAN, _SZEGEDY = ("", "Tan and Le 2019", "Tan and Le 2021"), ("Apache-2.0", "Szegedy et al. 2016")
# Licences are those of the page "Applications" in the documentation of Keras 2.3. Later documentation states none, so
# those of later networks are unknown.
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
    ("resnet50v2", "ResNet50V2", None, "tf", f"resnet50v2_{_TF}", 2048, 23.56, 32, "BSD", "He et al. 2016"),
    ("convnext-tiny", "ConvNeXtTiny", None, "inside", _CN, 768, 27.82, 32, "", "Liu et al. 2022"),
    ("inceptionv3", "InceptionV3", None, "tf", f"inception_v3_{_TF}", 2048, 21.8, 75, *_SZEGEDY),
    ("xception", "Xception", None, "tf", f"xception_{_TF}", 2048, 20.86, 71, "MIT", "Chollet 2017"),
)
_PREPROCESSING = {
    "tf": "scaled to -1..1",
    "torch": "scaled to 0..1, mean and deviation of ImageNet",
    "inside": "in the network",
    "efficientnet": "in the network",
}
REGISTRY = {facts.name: facts for facts in starmap(BackboneFacts, _ROWS)}


class KerasApplications(KindDefaults):
    """Networks with ImageNet weights from the user's folder, Keras's cache, or a download."""

    title = "keras.applications"

    def names(self) -> tuple[str, ...]:
        """Return the names of all networks."""
        return tuple(REGISTRY)

    def claims(self, name: str) -> bool:
        """Return whether the name is in `REGISTRY`."""
        return name in REGISTRY

    def find(self, name: str, weights_dir: Path | None) -> Backbone:
        """Find the weights of a network, or download them; see `BackboneKind.find`."""
        facts = REGISTRY[name]
        local = _local_file(facts, weights_dir)
        if local is None and _online():
            local = _download(facts)
        if local is None:
            places = [str(folder) for folder in (*([weights_dir] if weights_dir else []), *keras_models())]
            raise BackboneError(
                f"The ImageNet weights of {name!r} were not found: {facts.weights_file} is not in "
                f"{' or '.join(places)}, and it could not be downloaded. Put the file into a folder and give that "
                "folder with --weights-dir, or leave the backbone out."
            )
        return Backbone(name, local, file_digest(local), _KIND)

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:
        """Find all networks with local weights, and download missing weights of small networks if `download` is true.

        The internet connection is tested at most once.
        """
        found, left_out = [], []
        online: bool | None = None
        for name, facts in REGISTRY.items():
            file = _local_file(facts, weights_dir)
            reason = "no local weights"
            if file is None and download and facts.size_mb <= AUTO_DOWNLOAD_MB:
                online = _online() if online is None else online
                reason = (
                    "no local weights, and no internet connection"
                    if not online
                    else "its weights could not be downloaded"
                )
                file = _download(facts) if online else None
            elif file is None and download:
                reason = f"no local weights, and more than {AUTO_DOWNLOAD_MB:.0f} MB to download; name it to use it"
            if file is None:
                left_out.append((name, reason))
            else:
                found.append(Backbone(name, file, file_digest(file), _KIND))
        return AvailableBackbones(tuple(found), tuple(left_out))

    def check_size(self, backbone: Backbone, size: int) -> None:
        """Check that the images are not too small; see `Backbone.check_size`."""
        least = REGISTRY[backbone.name].least_size
        if size < least:
            raise BackboneError(
                f"{backbone.name} requires images of at least {least} pixels, but --image-size is {size}. Use "
                f"--image-size {least}, or leave the backbone out."
            )

    def build(self, backbone: Backbone, size: int) -> Any:
        """Build the network with its weights; see `Backbone.build`."""
        self.check_size(backbone, size)
        assert backbone.file is not None  # set by `find`
        return _build(REGISTRY[backbone.name], backbone.file, size)

    def licence(self, backbone: Backbone) -> str:
        """Return the licence of the ImageNet weights."""
        return REGISTRY[backbone.name].licence

    def describe(self, backbone: Backbone, size: int) -> Description:  # noqa: ARG002  # features depend on no size
        """Return the properties of the network; see `Backbone.describe`."""
        facts = REGISTRY[backbone.name]
        return Description(
            round(1e6 * facts.n_parameters),
            facts.n_features,
            f"at least {facts.least_size} px",
            _PREPROCESSING[facts.scaling],
        )

    def most_features(self, backbone: Backbone) -> int:
        """Return the length of the feature vector."""
        return REGISTRY[backbone.name].n_features


KIND = KerasApplications()


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
    """Download and verify weights with `keras.applications`; return the file, or None if the download fails."""
    size = max(facts.least_size, 224)
    backend.import_backend()
    try:
        _construct(facts, "imagenet", size)
    except Exception:  # builders, networks and proxies raise many types, with the same consequence
        return None
    return _local_file(facts, None)


def _construct(facts: BackboneFacts, weights: str, size: int) -> Any:
    import keras

    options: dict[str, Any] = {} if facts.alpha is None else {"alpha": facts.alpha}
    return getattr(keras.applications, facts.builder)(
        include_top=False, weights=weights, input_shape=(size, size, 3), pooling="avg", **options
    )


def scale(images: Any, scaling: str) -> Any:
    """Scale RGB in 0..255 to the input range of a network.

    Args:
        images: RGB in 0..255. Shape (batch, size, size, 3).
        scaling: See `BackboneFacts`.
    """
    from keras import layers

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if scaling == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    if scaling == "torch":
        factors = [1 / (255 * d) for d in deviation]
        return layers.Rescaling(factors, offset=[-m / d for m, d in zip(mean, deviation, strict=True)])(images)
    if scaling == "efficientnet":
        # The network subtracts the mean and divides by the square root of the standard deviation. Keras divides by the
        # square root a second time only for weights that it downloads, not for a weight file, so this is done here.
        factors = [d**-0.5 for d in deviation]
        return layers.Rescaling(factors, offset=[255 * m * (1 - f) for m, f in zip(mean, factors, strict=True)])(images)
    return images


def _build(facts: BackboneFacts, file: Path, size: int) -> Any:
    import keras

    try:
        network = _construct(facts, str(file), size)
    except (ValueError, OSError, KeyError) as error:
        raise BackboneError(
            f"The weights file {file} does not fit the architecture of {facts.name!r}: {reason_of(error)}"
        ) from error
    network.trainable = False
    images = keras.Input((size, size, 3), dtype="float32")
    return keras.Model(images, network(scale(images, facts.scaling)), name=facts.name.replace(".", "_"))
