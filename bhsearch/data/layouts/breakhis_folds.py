"""Published folds of BreakHis, and cases and images that are in both the training and the test set of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Bools
from bhsearch.data.dataset import Dataset
from bhsearch.data.layouts import breakhis
from bhsearch.errors import DataError
from bhsearch.text import listed, plural

ROW = "file name|magnification|fold|train or test"


@dataclass(frozen=True)
class OfficialFold:
    """Published fold of BreakHis.

    Attributes:
        number: Number of the fold, as given in the fold file.
        part: `train` or `test` by file name, in the original notation of BreakHis.
    """

    number: int
    part: dict[str, str]


@dataclass(frozen=True, eq=False)
class ResolvedFold:
    """A published fold applied to a data set.

    Attributes:
        number: Number of the fold.
        train: Mask of the training images. Shape (n_images,).
        test: Mask of the test images. Shape (n_images,).
        n_missing: Number of listed images that are not in the data set.
        leaking_cases: Slides in the training set and slides in the test set, by case, for cases with images in both
            sets.
        leaking_images: Sets of paths of pixel-identical images, for images in both sets.
    """

    number: int
    train: Bools
    test: Bools
    n_missing: int
    leaking_cases: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    leaking_images: tuple[tuple[str, ...], ...]

    def heading(self) -> str:
        """Return one line with the numbers of leaking cases, leaking images and missing images."""
        missing = f"; listed images that are missing: {self.n_missing:,}" if self.n_missing else ""
        cases, images = len(self.leaking_cases), len(self.leaking_images)
        return f"Fold {self.number}: in both training and test: cases: {cases}, identical images: {images}{missing}"

    def leaks(self) -> list[str]:
        """Return the leaking cases and images, one line each."""
        cases = [
            f"case {case}: train {', '.join(train)}; test {', '.join(test)}"
            for case, (train, test) in self.leaking_cases.items()
        ]
        return [*cases, *(f"identical image: {' = '.join(paths)}" for paths in self.leaking_images)]


def read_folds(files: Sequence[Path]) -> list[OfficialFold]:
    """Read fold files such as `dsfold1.txt`, with rows `file name|magnification|fold|train or test`.

    Returns:
        One fold per file, sorted by number.

    Raises:
        DataError: If a file cannot be read, a row breaks the format, an image is in both sets, or two files have the
            same fold number.
    """
    folds = [_read(file) for file in files]
    numbers = [fold.number for fold in folds]
    if len(set(numbers)) < len(numbers):
        raise DataError(
            f"The fold files must have different fold numbers, but got {', '.join(map(str, numbers))}. Give each file "
            "once."
        )
    return sorted(folds, key=lambda fold: fold.number)


def _read(file: Path) -> OfficialFold:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the fold file {file} as text: {error}") from error
    part: dict[str, str] = {}
    numbers = set()
    for at, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, number, side = _parse(line)
        except DataError as error:
            raise DataError(f"{file}, line {at}: {error}") from error
        numbers.add(number)
        if part.setdefault(name, side) != side:
            raise DataError(f"{file}, line {at}: {name} is in both the training and the test set. Correct the file.")
    if len(numbers) != 1 or set(part.values()) != {"train", "test"}:
        raise DataError(
            f"{file} is not a fold file of BreakHis: it must contain train and test rows with one fold number, but "
            f"contains {', '.join(sorted(set(part.values()))) or 'no'} rows with "
            f"{plural(len(numbers), 'fold number')}."
        )
    return OfficialFold(numbers.pop(), part)


def _parse(line: str) -> tuple[str, int, str]:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) != 4 or fields[3] not in ("train", "test") or not (fields[2].isascii() and fields[2].isdigit()):
        raise DataError(f"Expected a row such as {ROW}, but got {line.strip()!r}.")
    name = breakhis.parse(PurePosixPath(fields[0]).name)
    if fields[1].upper().removesuffix("X") != str(name.magnification):
        raise DataError(f"The magnification differs from that in the file name: {line.strip()!r}.")
    return name.file_name, int(fields[2]), fields[3]


def resolve_folds(dataset: Dataset, folds: Sequence[OfficialFold]) -> list[ResolvedFold]:
    """Find the images of published folds in a data set by their file names.

    Raises:
        DataError: If the data set has no training image or no test image of a fold.
    """
    names = [_name_of(path) for path in dataset.column("path")]
    return [_resolve(dataset, np.array(names, dtype=object), fold) for fold in folds]


def _name_of(path: str) -> str:
    """Return the file name in the original notation of BreakHis; empty for names that are not from BreakHis."""
    file = PurePosixPath(path).name
    return breakhis.parse(file).file_name if breakhis.looks_like(file) else ""


def _resolve(dataset: Dataset, names: npt.NDArray[np.object_], fold: OfficialFold) -> ResolvedFold:
    side = np.array([fold.part.get(name, "") for name in names], dtype=object)
    train, test = side == "train", side == "test"
    missing = sorted(set(fold.part) - set(names.tolist()))
    if not train.any() or not test.any():
        raise DataError(
            f"{'No training' if not train.any() else 'No test'} images of fold {fold.number} were found in "
            f"{dataset.root}. Missing files:\n{listed(missing, 5)}\nGive the folder with all images of BreakHis."
        )
    case, slide = dataset.column("case"), dataset.column("slide")
    shared_cases = sorted(set(case[train]) & set(case[test]))
    return ResolvedFold(
        number=fold.number,
        train=train,
        test=test,
        n_missing=len(missing),
        leaking_cases={
            name: (
                tuple(sorted(set(slide[train & (case == name)]))),
                tuple(sorted(set(slide[test & (case == name)]))),
            )
            for name in shared_cases
        },
        leaking_images=_images_on_both_sides(dataset, train, test),
    )


def _images_on_both_sides(dataset: Dataset, train: Bools, test: Bools) -> tuple[tuple[str, ...], ...]:
    digest, path = dataset.column("pixels_digest"), dataset.column("path")
    shared = set(digest[train]) & set(digest[test])
    return tuple(sorted(tuple(sorted(path[(train | test) & (digest == one)])) for one in shared))
