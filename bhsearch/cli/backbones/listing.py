"""The catalogue of backbones as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bhsearch.config.parsing import parse_names
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import names_by_reason
from bhsearch.models.backbones.catalogue import Catalogue, Entry, read_catalogue
from bhsearch.models.backbones.licence import NO_WEIGHTS, UNKNOWN, is_non_commercial
from bhsearch.models.frozen.precision import F32
from bhsearch.models.measured_speeds import MeasuredSpeed

MORE = "Files and folders are not searched for: name .keras, .onnx and .xml files, and folders of encoders."
_USES = {True: "non-commercial", False: "commercial use permitted", None: "commercial use unknown"}


def read(given: Iterable[str], weights_dir: Path | None, size: int) -> Catalogue:
    """Return the catalogue for the arguments of the command.

    Args:
        given: Names, each possibly several that are separated by commas, as in `--backbones`.
        weights_dir: Folder of weight files given by the user, or None.
        size: Side of the images in pixels.

    Raises:
        BackboneError: If `weights_dir` is not a folder.
        SettingsError: If a plugin cannot be imported.
    """
    return read_catalogue((name for text in given for name in parse_names(text)), weights_dir, size)


def require_usable(catalogue: Catalogue) -> None:
    """Check that all names given by the user were found.

    Raises:
        BackboneError: If one was not; the message has the reason for each.
    """
    if catalogue.unusable:
        raise BackboneError("\n".join(catalogue.unusable))


def rows(entry: Entry) -> list[tuple[str, str]]:
    """Return the facts of a backbone as pairs of heading and text."""
    found = entry.description
    whole = [
        ("kind", entry.kind),
        ("parameters", count(found.n_parameters)),
        ("features", f"{found.n_features:,}"),
        ("input", f"{found.sizes}; {found.preprocessing}"),
        ("", entry.not_at),
        ("licence", licence(entry.backbone.licence)),
        ("found in", entry.place),
        ("speed", "; ".join(map(_speed, entry.speeds)) or "not measured here yet"),
    ]
    return [row for row in whole if row[1]]


def licence(name: str) -> str:
    """Return a licence, and whether it permits commercial use.

    Args:
        name: Text of `models.backbones.licence.licence_text`.
    """
    if name == NO_WEIGHTS:
        return "none needed, no weights"
    return f"{name}, {_USES[is_non_commercial(name)]}" if name != UNKNOWN else UNKNOWN


def left_out(catalogue: Catalogue) -> list[str]:
    """Return the backbones that are not available, one line for each reason."""
    grouped = names_by_reason(catalogue.left_out)
    return [f"Not available ({reason}): {', '.join(names)}" for reason, names in grouped.items()]


def record(catalogue: Catalogue) -> dict[str, Any]:
    """Return the catalogue as a JSON-compatible dict."""
    return {
        "backbones": [
            {
                "name": entry.backbone.name,
                "kind": entry.kind,
                **asdict(entry.description),
                "licence": entry.backbone.licence,
                "non_commercial": is_non_commercial(entry.backbone.licence),
                "place": entry.place,
                "not_at_this_size": entry.not_at,
                "speeds": [asdict(speed) for speed in entry.speeds],
            }
            for entry in catalogue.entries
        ],
        "left_out": [{"name": name, "reason": reason} for name, reason in catalogue.left_out],
        "unusable": list(catalogue.unusable),
    }


def count(number: int) -> str:
    """Return a number of weights as text, such as `190,704` or `86.6 million`."""
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def _speed(speed: MeasuredSpeed) -> str:
    tiles = f", {speed.n_tiles} tiles each" if speed.n_tiles > 1 else ""
    number = f"{speed.images_per_second:,.{1 if speed.images_per_second < 100 else 0}f}"
    precision = "" if speed.precision == F32 else f", {speed.precision}"
    return f"{number} images a second at {speed.size} px ({speed.feature_backend}{precision}{tiles})"
