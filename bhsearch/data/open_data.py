"""Open a data set from the value of `--data`: synthetic tissue, a folder or a manifest."""

from __future__ import annotations

from pathlib import Path

from bhsearch.config import Settings
from bhsearch.data.dataset import Dataset
from bhsearch.data.embeddings.open import load_manifest, with_vectors
from bhsearch.data.images.decode import Progress
from bhsearch.data.layouts.base import NO_OPTIONS, LayoutOptions
from bhsearch.data.layouts.manifest import SUFFIXES
from bhsearch.data.layouts.registry import AUTO, require_known
from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.magnification import at_magnification
from bhsearch.data.synthetic.phantom import parse_spec, phantom_dataset, phantom_folder
from bhsearch.errors import SettingsError

PHANTOM, MANIFEST = "phantom", "manifest"


def is_phantom(data: str | None) -> bool:
    """Return whether a value of `--data` selects synthetic tissue."""
    return data is None or data == PHANTOM or data.startswith(f"{PHANTOM}:")


def check_layout(layout: str) -> None:
    """Check that a value of `--layout` is known, without opening data.

    Raises:
        UnknownPartError: If it is unknown.
    """
    if layout != PHANTOM:
        require_known(layout)


def make_phantom(data: str | None, progress: Progress | None = None) -> None:
    """Draw a synthetic data set into the cache, unless the cache contains it.

    `open_data` also draws a missing data set, but does not report progress.

    Args:
        data: `phantom` or `phantom:key=value,...`; None means `phantom`.
        progress: Called with the numbers of images done and in total.

    Raises:
        DataError: If the specification cannot be parsed.
        PlaceError: If the cache cannot be written or the disk is full. No partial cache entry remains.
    """
    phantom_folder(parse_spec(PHANTOM if data is None else data), progress)


def open_data(
    data: str | None,
    *,
    layout: str = AUTO,
    options: LayoutOptions = NO_OPTIONS,
    skip_unreadable: bool = False,
    both_classes: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set.

    Args:
        data: `phantom` or `phantom:key=value,...`, a folder, or a manifest; None means `phantom`. A folder with the
            name `phantom` must be given as `./phantom`.
        layout: See `load_dataset`.
        options: See `load_dataset`.
        skip_unreadable: See `load_dataset`.
        both_classes: See `load_dataset`.
        progress: See `load_dataset`. Not called for synthetic tissue.

    Raises:
        DataError: If the data cannot be used.
        SettingsError: If an option does not fit the data.
    """
    spec = PHANTOM if data is None else data
    if not spec.strip():
        raise SettingsError(
            f"--data must be a folder, a manifest or {PHANTOM}, but got {spec!r}. If you use a shell variable, check "
            "that it is set."
        )
    if spec == PHANTOM or spec.startswith(f"{PHANTOM}:"):
        if layout not in (AUTO, PHANTOM) or any(vars(options).values()):
            raise SettingsError(
                "--layout, --case-pattern, --class-map, --ignore-column and --image-root cannot be used with the "
                f"synthetic data {spec!r}. Remove these options, or give your own images with --data."
            )
        return phantom_dataset(spec)
    return load_dataset(
        Path(spec).expanduser(),
        layout=layout,
        options=options,
        skip_unreadable=skip_unreadable,
        both_classes=both_classes,
        progress=progress,
    )


def open_selected(
    settings: Settings, *, both_classes: bool = True, progress: Progress | None = None
) -> tuple[Dataset, Dataset]:
    """Open the data set that the settings name, and select the images of the magnification that they name.

    Args:
        settings: Settings of the data.
        both_classes: See `open_data`.
        progress: See `open_data`.

    Returns:
        The whole data set, and the selected images.

    Raises:
        DataError: See `open_data`.
        SettingsError: If an option does not fit the data, or no image has this magnification.
    """
    index = open_settings(settings, both_classes=both_classes, progress=progress)
    _, rows = at_magnification(index, settings.magnification)
    return index, index.select(rows)


def open_settings(
    settings: Settings, *, data: str | None = None, both_classes: bool = True, progress: Progress | None = None
) -> Dataset:
    """Open the data set of a study with all data options of the study's settings.

    Args:
        settings: Settings of a new or a stored study.
        data: Current location of the data if it differs from the settings.
        both_classes: See `open_data`.
        progress: See `open_data`.

    Raises:
        DataError: See `open_data`.
        SettingsError: See `open_data`.
    """
    place = settings.data if data is None else data
    options = LayoutOptions(
        case_pattern=settings.case_pattern,
        class_map=settings.class_map,
        ignore_columns=settings.ignore_columns,
        image_root=Path(settings.image_root).expanduser() if settings.image_root is not None else None,
    )
    files = [Path(file).expanduser() for file in settings.features]
    manifest = Path(place).expanduser()
    if files and settings.layout in (AUTO, MANIFEST) and manifest.suffix.lower() in SUFFIXES and manifest.is_file():
        return load_manifest(manifest, files, options, settings.features_key, both_classes=both_classes)
    found = open_data(
        place,
        layout=settings.layout,
        options=options,
        skip_unreadable=settings.skip_unreadable,
        both_classes=both_classes,
        progress=progress,
    )
    return with_vectors(found, files, settings.features_key) if files else found
