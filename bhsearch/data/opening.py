"""From what a user calls the data to an index: the phantom, or files of the user's own."""

from __future__ import annotations

from pathlib import Path

from bhsearch.data.decode import Progress
from bhsearch.data.index import Index
from bhsearch.data.load import load_index
from bhsearch.data.phantom import phantom_index
from bhsearch.errors import SettingsError

PHANTOM = "phantom"


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
