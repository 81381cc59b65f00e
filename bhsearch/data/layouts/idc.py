"""The layout `idc`: patches of invasive ductal carcinoma (IDC), with one folder per patient and class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from bhsearch.data.images.decode import IMAGE_SUFFIXES
from bhsearch.data.images.files import Images
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.folders import tree_listing
from bhsearch.data.layouts.listing import ImageRecord, Listing, raise_data_errors

GRAMMAR = "<patient>/<0|1>/<patient>_idx5_x<X>_y<Y>_class<0|1>.png"

_NAME = re.compile(
    rf"(?P<patient>[^/]+)_idx[0-9]+_x[0-9]+_y[0-9]+_class(?P<label>[01])(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})",
    re.IGNORECASE,
)


def patient_of(file_name: str) -> str | None:
    """Return the patient in the file name of an IDC patch; None for other file names."""
    match = _NAME.fullmatch(file_name)
    return match["patient"] if match else None


def read_idc(paths: Sequence[str]) -> list[ImageRecord]:
    """Read the records of IDC patches from their paths.

    Raises:
        DataError: If a file name breaks the grammar or contradicts the folders.
    """
    rows, problems = [], []
    for path in paths:
        match = _NAME.fullmatch(path.rpartition("/")[2])
        *above, folder = PurePosixPath(path).parts[:-1] or ("",)
        patient = above[-1] if above else None  # None if the data folder is the folder of one patient
        if match is None:
            problems.append(path)
        elif folder != match["label"]:
            problems.append(f"{path} (the folder is {folder or 'missing'}, the file name says class{match['label']})")
        elif patient not in (None, match["patient"]):
            problems.append(f"{path} (the folder names patient {patient}, the file name {match['patient']})")
        else:
            rows.append(ImageRecord(path, int(match["label"]), match["patient"], match["patient"]))
    raise_data_errors(problems, f"These files break the naming of IDC, which is {GRAMMAR}.")
    return rows


class IdcTree:
    """Layout of IDC patches, which are stored and named according to `GRAMMAR`.

    Patient and label are read from the file name. They must equal the names of the folders of the file: the label that
    of the inner folder, the patient that of the outer folder, unless the outer folder is the data folder. Otherwise,
    `read` raises DataError.
    """

    pattern = GRAMMAR
    options = frozenset[str]()
    is_file = False
    names_dataset = True

    def detect(self, paths: Sequence[str], options: LayoutOptions) -> float:  # noqa: ARG002
        """Return a low confidence if any file name follows the grammar, otherwise 0; see `Layout.detect`."""
        return 0.2 if any(patient_of(path.rpartition("/")[2]) for path in paths) else 0.0

    def read(self, data: Path, images: Images, options: LayoutOptions) -> Listing:
        """List the images; see `Layout.read`."""
        return tree_listing(data, "idc", read_idc(images.paths), images, options)


LAYOUT = IdcTree()
