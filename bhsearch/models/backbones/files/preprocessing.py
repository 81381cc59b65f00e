"""What is done to images before a file of another framework encodes them, from `preprocessing.json` beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhsearch.errors import BackboneError

FILE = "preprocessing.json"
LAYOUTS = ("NCHW", "NHWC")
_KEYS = ("mean", "std", "scale", "size", "input_size", "layout", "output", "license", "licence")
_EXAMPLE = '{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": 224, "layout": "NCHW"}'
Colours = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an encoder: (RGB in 0..255 * scale - mean) / deviation, per channel.

    Attributes:
        file: File that states it.
        mean, deviation: Mean and standard deviation of red, green and blue.
        scale: Factor on pixels of 0..255, before the mean is subtracted.
        size: Side of the images in pixels; None if it is not stated.
        layout: `NCHW` or `NHWC`; None if it is not stated.
        output: Name of the output with the features; empty if it is not stated.
        licence: Licence of the weights; empty if it is not stated.
    """

    file: Path
    mean: Colours
    deviation: Colours
    scale: float
    size: int | None
    layout: str | None
    output: str
    licence: str

    def __str__(self) -> str:
        mean, deviation = (" ".join(f"{value:.3g}" for value in row) for row in (self.mean, self.deviation))
        scaled = "scaled to 0..1" if math.isclose(self.scale, 1 / 255) else f"multiplied by {self.scale:.3g}"
        return f"{scaled}, mean {mean}, deviation {deviation}"


def read_preprocessing(place: Path) -> Preprocessing:
    """Read the preprocessing of an encoder.

    Args:
        place: File or folder of the encoder. `NAME.preprocessing.json` beside a file `NAME.onnx` comes before
            `preprocessing.json`, so that a folder may contain several encoders; a folder may contain the file itself.

    Raises:
        BackboneError: If the file is missing or damaged, or a key is missing, unknown or out of range.
    """
    candidates = [place.with_name(f"{place.stem}.{FILE}"), place.with_name(FILE)]
    if place.is_dir():
        candidates.insert(0, place / FILE)
    file = next((each for each in candidates if each.is_file()), None)
    if file is None:
        raise BackboneError(
            f"The preprocessing of {place} is unknown: there is no file {candidates[-1]}. Create it with the mean and "
            f"standard deviation of the encoder's images, such as {_EXAMPLE}."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BackboneError(f"{file} is no valid JSON file: {error}. Correct it, such as to {_EXAMPLE}.") from error
    if not isinstance(content, dict):
        raise BackboneError(f"{file} must contain a JSON object, such as {_EXAMPLE}, but has {content!r}.")
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise BackboneError(f"{file} has the unknown key {unknown[0]!r}. Known keys: {', '.join(_KEYS)}.")
    deviation = _colours(content, "std", file)
    if min(deviation) <= 0:
        raise BackboneError(f"`std` must be above 0, but is {content['std']!r} in {file}.")
    scale = _number(content, "scale", 1 / 255, file)
    if scale <= 0:
        raise BackboneError(f"`scale` must be above 0, but is {scale!r} in {file}.")
    layout = content.get("layout")
    if layout is not None and layout not in LAYOUTS:
        raise BackboneError(f"`layout` must be {' or '.join(LAYOUTS)}, but is {layout!r} in {file}.")
    return Preprocessing(
        file=file,
        mean=_colours(content, "mean", file),
        deviation=deviation,
        scale=scale,
        size=_size(content, file),
        layout=layout,
        output=_text(content, "output", file),
        licence=_text(content, "license", file) or _text(content, "licence", file),
    )


def _colours(content: Mapping[str, Any], key: str, file: Path) -> Colours:
    if key not in content:
        raise BackboneError(
            f"{file} has no key {key!r}: it must state mean and standard deviation of the encoder's images, such as "
            f"{_EXAMPLE}. Mean 0 and deviation 1 leave pixels unchanged."
        )
    value = content[key]
    values = [value] * 3 if _is_number(value) else value
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise BackboneError(
            f"{key!r} must be a number or three numbers (red, green, blue), but is {value!r} in {file}."
        )
    red, green, blue = map(float, values)
    return red, green, blue


def _size(content: Mapping[str, Any], file: Path) -> int | None:
    """Return the side of the images: a number, or the last number of a list such as `[3, 224, 224]`."""
    given = [key for key in ("size", "input_size") if content.get(key) is not None]
    if not given:
        return None
    value = content[given[0]]
    sides = value if isinstance(value, list) else [value]
    if len(sides) == 3:  # with the channels, first or last
        sides = sides[1:] if sides[0] == 3 else sides[:-1]
    whole = bool(sides) and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if not whole or len(set(sides)) != 1 or any(content[other] != value for other in given):
        raise BackboneError(
            f"{given[0]!r} must be the side of square images in pixels, such as 224 or [3, 224, 224], but is {value!r} "
            f"in {file}."
        )
    side: int = sides[0]
    return side


def _text(content: Mapping[str, Any], key: str, file: Path) -> str:
    value = content.get(key) or ""
    if not isinstance(value, str):
        raise BackboneError(f"{key!r} must be text, but is {value!r} in {file}.")
    return value.strip()


def _number(content: Mapping[str, Any], key: str, default: float, file: Path) -> float:
    value = content.get(key, default)
    if not _is_number(value):
        raise BackboneError(f"{key!r} must be a number, but is {value!r} in {file}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
