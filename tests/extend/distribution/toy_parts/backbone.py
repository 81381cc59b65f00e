"""A kind of backbone: mean and maximum of each colour, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bhsearch.models.backbones.base import AvailableBackbones, Backbone, KindDefaults


class ColourStatistics(KindDefaults):
    """Six numbers an image."""

    trainable = False
    needs_weights = False

    def names(self) -> tuple[str, ...]:
        return ("toy",)

    def claims(self, name: str) -> bool:
        return name == "toy"

    def find(self, name: str, weights_dir: Path | None) -> Backbone:
        return Backbone(name, None, "colour-statistics-v1", "toy")

    def find_all(self, weights_dir: Path | None, download: bool = True) -> AvailableBackbones:
        return AvailableBackbones((self.find("toy", weights_dir),))

    def build(self, backbone: Backbone, size: int) -> Any:
        import keras
        from keras import layers

        images = keras.Input((size, size, 3), dtype="float32")
        scaled = layers.Rescaling(1 / 255)(images)
        numbers = [layers.GlobalAveragePooling2D()(scaled), layers.GlobalMaxPooling2D()(scaled)]
        return keras.Model(images, layers.Concatenate()(numbers), name="toy")

    def most_features(self, backbone: Backbone) -> int:
        return 6


KIND = ColourStatistics()
