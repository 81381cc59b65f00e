"""The published folds of BreakHis: what a paper trained on and tested on, and what lies on both sides of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from bhsearch.data.index import Index
from bhsearch.data.layouts import breakhis
from bhsearch.errors import DataError
from bhsearch.text import listed

ROW = "file name|magnification|fold|train or test"
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class OfficialFold:
    """One published fold.

    Attributes:
        number: As its file numbers it.
        part: `train` or `test` by file name, as the original tree writes it.
    """

    number: int
    part: dict[str, str]


@dataclass(frozen=True, eq=False)
class ResolvedFold:
    """A published fold on the images of a data set.

    Attributes:
        number: Of the fold.
        train: Images that it trains on. Shape (n_images,).
        test: Images that it tests on. Shape (n_images,).
        n_absent: Listed images that are not in the data set.
        torn_cases: Cases with slides, or images, on both sides, and those slides: first of train, then of test.
        torn_pictures: Sets of paths of pixel-identical images that lie on both sides.
    """

    number: int
    train: Bools
    test: Bools
    n_absent: int
    torn_cases: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    torn_pictures: tuple[tuple[str, ...], ...]

    def heading(self) -> str:
        """How much lies on both sides, and how much of the list is not here."""
        absent = f"; listed images that are not here: {self.n_absent:,}" if self.n_absent else ""
        cases, pictures = len(self.torn_cases), len(self.torn_pictures)
        return f"Fold {self.number}: on both sides: cases: {cases}, identical pictures: {pictures}{absent}"

    def leaks(self) -> list[str]:
        """What lies on both sides, one a line."""
        cases = [
            f"case {case}: train {', '.join(train)}; test {', '.join(test)}"
            for case, (train, test) in self.torn_cases.items()
        ]
        return [*cases, *(f"the same picture: {' = '.join(paths)}" for paths in self.torn_pictures)]


def read_folds(files: Sequence[Path]) -> list[OfficialFold]:
    """Read fold files such as `dsfold1.txt`, whose rows are `file name|magnification|fold|train or test`.

    Raises:
        DataError: If a file cannot be read, a row breaks the rule, an image is on both sides, or two files have the
            same number.
    """
    folds = [_read(file) for file in files]
    numbers = [fold.number for fold in folds]
    if len(set(numbers)) < len(numbers):
        raise DataError(f"each fold may be given once, but the files hold the folds {', '.join(map(str, numbers))}.")
    return sorted(folds, key=lambda fold: fold.number)


def _read(file: Path) -> OfficialFold:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"a fold file must be a text file that can be read, but {file} is not: {error}") from error
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
            raise DataError(f"{file}, line {at}: an image may be on one side only, but {name} is on both.")
    if len(numbers) != 1 or set(part.values()) != {"train", "test"}:
        raise DataError(
            f"a fold file must hold train and test rows of one fold, but {file} holds "
            f"{', '.join(sorted(set(part.values()))) or 'no'} rows of {len(numbers)} folds."
        )
    return OfficialFold(numbers.pop(), part)


def _parse(line: str) -> tuple[str, int, str]:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) != 4 or fields[3] not in ("train", "test") or not (fields[2].isascii() and fields[2].isdigit()):
        raise DataError(f"rows must be {ROW}, but got {line.strip()!r}.")
    name = breakhis.parse(PurePosixPath(fields[0]).name)
    if fields[1].upper().removesuffix("X") != str(name.magnification):
        raise DataError(f"the magnification must be that of the file name, but got {line.strip()!r}.")
    return name.file_name, int(fields[2]), fields[3]


def resolve_folds(index: Index, folds: Sequence[OfficialFold]) -> list[ResolvedFold]:
    """Find the images of published folds in a data set, by file name, and what lies on both sides of each.

    Raises:
        DataError: If none of a fold's images to train or to test on is there.
    """
    names = [_name_of(path) for path in index.column("path")]
    return [_resolve(index, np.array(names, dtype=object), fold) for fold in folds]


def _name_of(path: str) -> str:
    """The name as the original tree writes it; empty for a file of another name."""
    file = PurePosixPath(path).name
    return breakhis.parse(file).file_name if breakhis.looks_like(file) else ""


def _resolve(index: Index, names: npt.NDArray[np.object_], fold: OfficialFold) -> ResolvedFold:
    side = np.array([fold.part.get(name, "") for name in names], dtype=object)
    train, test = side == "train", side == "test"
    absent = sorted(set(fold.part) - set(names.tolist()))
    if not train.any() or not test.any():
        raise DataError(
            f"images of both sides of fold {fold.number} must be in the data set, but {train.sum()} of train and "
            f"{test.sum()} of test are. Not there:\n{listed(absent, 5)}"
        )
    case, slide = index.column("case"), index.column("slide")
    torn = sorted(set(case[train]) & set(case[test]))
    return ResolvedFold(
        number=fold.number,
        train=train,
        test=test,
        n_absent=len(absent),
        torn_cases={
            name: (
                tuple(sorted(set(slide[train & (case == name)]))),
                tuple(sorted(set(slide[test & (case == name)]))),
            )
            for name in torn
        },
        torn_pictures=_images_on_both_sides(index, train, test),
    )


def _images_on_both_sides(index: Index, train: Bools, test: Bools) -> tuple[tuple[str, ...], ...]:
    digest, path = index.column("pixels_digest"), index.column("path")
    shared = set(digest[train]) & set(digest[test])
    return tuple(sorted(tuple(sorted(path[(train | test) & (digest == one)])) for one in shared))
