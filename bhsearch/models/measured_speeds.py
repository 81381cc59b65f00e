"""Speeds of backbones that studies measured on this machine, from the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhsearch.models import keras_settings
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import SPEED_FILE, SPEEDS
from bhsearch.models.frozen.precision import F32
from bhsearch.runtime import cache


@dataclass(frozen=True)
class MeasuredSpeed:
    """A measured speed of a backbone.

    Attributes:
        size: Side of the images in pixels.
        n_tiles: Number of tiles per image.
        feature_backend: `openvino` or `keras`.
        precision: `f32` or `bf16`.
        images_per_second: Images per second, each with all its tiles.
    """

    size: int
    n_tiles: int
    feature_backend: str
    precision: str
    images_per_second: float


def measured_speeds(backbone: Backbone) -> tuple[MeasuredSpeed, ...]:
    """Return the speeds of a backbone that are in the cache, by size; empty if none was measured.

    A frozen study measures the speed of each of its backbones when it begins; see `FeatureCache.seconds_per_view`.
    Nothing is measured here. Speeds of another backend of Keras are left out, and those of changed images, which
    include the time of the change.
    """
    wanted = {"backbone": backbone.name, "weights": backbone.digest, "numerics": keras_settings.numerics()}
    found = {
        _speed(folder, facts)
        for folder, facts in cache.facts_of_entries(SPEEDS)
        if "pixels" not in facts and facts.items() >= wanted.items()
    }
    return tuple(
        sorted(
            (speed for speed in found if speed is not None),
            key=lambda speed: (speed.size, speed.n_tiles, speed.precision),
        )
    )


def _speed(folder: Path, facts: dict[str, Any]) -> MeasuredSpeed | None:
    """Return the speed in a cache entry; None if the entry was evicted or is damaged."""
    try:
        milliseconds = float(json.loads((folder / SPEED_FILE).read_text(encoding="utf-8"))["milliseconds"])
        n_tiles, size = int(facts["images"][0]), int(facts["images"][1])
        precision = str(facts.get("precision", F32))
        return MeasuredSpeed(size, n_tiles, str(facts["feature_backend"]), precision, 1000 / milliseconds)
    except (OSError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError):
        return None
