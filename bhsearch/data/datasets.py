"""From what a user calls the data to an index: the phantom, or files of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bhsearch.config import Settings
from bhsearch.data.dataset import Dataset
from bhsearch.data.images.decode import Progress
from bhsearch.data.loading import load_dataset
from bhsearch.data.synthetic.phantom import parse_spec, phantom_dataset, phantom_folder
from bhsearch.errors import SettingsError

PHANTOM = "phantom"


def is_phantom(data: str | None) -> bool:
    """Whether what a user calls the data is the phantom."""
    return data is None or data == PHANTOM or data.startswith(f"{PHANTOM}:")


def make_phantom(data: str | None, progress: Progress | None = None) -> None:
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
    class_map: Sequence[str] = (),
    ignore_columns: Sequence[str] = (),
    image_root: str | None = None,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set by the word or path that a user gives.

    Args:
        data: `phantom` or `phantom:key=value,...`, or None, which means `phantom`; else a folder or a manifest. A
            folder that is itself called phantom can be given as `./phantom`.
        layout: As in `load_dataset`.
        case_pattern: As in `load_dataset`.
        class_map: As in `load_dataset`.
        ignore_columns: As in `load_dataset`.
        image_root: As in `load_dataset`.
        skip_unreadable: As in `load_dataset`.
        progress: As in `load_dataset`; the phantom does not call it.

    Raises:
        DataError: If the data cannot be used.
        SettingsError: If an option does not fit the data.
    """
    spec = PHANTOM if data is None else data
    if not spec.strip():
        raise SettingsError(
            f"--data must be a folder, a manifest or {PHANTOM}, but got {spec!r}: the text is empty, as an unset shell "
            "variable gives it."
        )
    if spec == PHANTOM or spec.startswith(f"{PHANTOM}:"):
        if layout not in ("auto", PHANTOM) or any(
            option for option in (case_pattern, class_map, ignore_columns, image_root)
        ):
            raise SettingsError(
                "--layout, --case-pattern, --class-map, --ignore-column and --image-root are for images of your own, "
                f"but the data are {spec}."
            )
        return phantom_dataset(spec)
    return load_dataset(
        Path(spec).expanduser(),
        layout=layout,
        case_pattern=case_pattern,
        class_map=class_map,
        ignore_columns=ignore_columns,
        image_root=Path(image_root).expanduser() if image_root is not None else None,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )


def open_settings(settings: Settings, *, data: str | None = None, progress: Progress | None = None) -> Dataset:
    """Open the data of some settings, with everything in them that says how to read the data.

    Args:
        settings: What a user chose, now or for a study.
        data: Where the data are now, if not where the settings say.
        progress: As in `open_data`.

    Raises:
        DataError: As `open_data`.
        SettingsError: As `open_data`.
    """
    return open_data(
        settings.data if data is None else data,
        layout=settings.layout,
        case_pattern=settings.case_pattern,
        class_map=settings.class_map,
        ignore_columns=settings.ignore_columns,
        image_root=settings.image_root,
        skip_unreadable=settings.skip_unreadable,
        progress=progress,
    )
