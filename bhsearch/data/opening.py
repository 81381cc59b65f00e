"""From what a user calls the data to an index: the phantom, or files of the user's own."""

from __future__ import annotations

from pathlib import Path

from bhsearch.data.decode import Progress
from bhsearch.data.index import Index
from bhsearch.data.load import load_index
from bhsearch.data.phantom import parse_spec, phantom_folder, phantom_index
from bhsearch.errors import SettingsError

PHANTOM = "phantom"


def is_phantom(data: str | None) -> bool:
    """Whether what a user calls the data is the phantom."""
    return data is None or data == PHANTOM or data.startswith(f"{PHANTOM}:")


def draw_phantom(data: str | None, progress: Progress | None = None) -> None:
    """Draw the phantom into the cache, if it is not there yet. `open_data` would do that without a word.

    Args:
        data: `phantom` or `phantom:key=value,...`, or None, which means `phantom`.
        progress: Called with (done, total) images.

    Raises:
        DataError: If the spec cannot be read.
        PlaceError: If the cache cannot be written, or the disk is full; nothing half-made is left.
    """
    phantom_folder(parse_spec(PHANTOM if data is None else data), progress)


def open_data(
    data: str | None,
    *,
    layout: str = "auto",
    case_pattern: str | None = None,
    skip_bad_images: bool = False,
    progress: Progress | None = None,
) -> Index:
    """Open a data set by the word or path that a user gives.

    Args:
        data: `phantom` or `phantom:key=value,...`, or None, which means `phantom`; else a folder or a manifest. A
            folder that is itself called phantom can be given as `./phantom`.
        layout: As in `load_index`.
        case_pattern: As in `load_index`.
        skip_bad_images: As in `load_index`.
        progress: As in `load_index`; the phantom does not call it.

    Raises:
        DataError: If the data cannot be used.
        SettingsError: If an option does not fit the data.
    """
    spec = PHANTOM if data is None else data
    if spec == PHANTOM or spec.startswith(f"{PHANTOM}:"):
        if layout not in ("auto", PHANTOM) or case_pattern is not None:
            raise SettingsError(f"--layout and --case-pattern are for images of your own, but the data are {spec}.")
        return phantom_index(spec)
    return load_index(
        Path(spec).expanduser(),
        layout=layout,
        case_pattern=case_pattern,
        skip_bad_images=skip_bad_images,
        progress=progress,
    )
