"""Predict with a registered model on image files, per image and per case."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import CLASS_NAMES, BadFile, LeftOut
from bhsearch.data.images.decode import IMAGE_SUFFIXES, decode
from bhsearch.data.images.files import describe_left_out, find_images
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.data.layouts import breakhis, idc
from bhsearch.data.layouts.folders import case_finder
from bhsearch.data.layouts.naming import is_placeholder, spelling_key
from bhsearch.errors import DataError, PlaceError, SettingsError, StudyError
from bhsearch.evaluation.predictions import DISCLAIMER, write_use
from bhsearch.models.keras_settings import check_backend
from bhsearch.runtime.cache import explain_write_errors
from bhsearch.study.events import ProgressReporter
from bhsearch.study.startup import open_mlflow, start_framework

FORMATS = ("csv", "jsonl")
CASE_NOTE = "the probability of a case is the mean over its images"


@dataclass(frozen=True)
class ImageRow:
    """A row of the output for one image.

    Attributes:
        image: Path as it was given.
        case: Empty where unknown.
        probability: Calibrated P(malignant), to six significant digits.
        label: At the model's threshold.
        model: URI of the model.
        use: Statement on what the row must not be used for.
    """

    image: str
    case: str
    probability: float
    label: str
    model: str
    use: str


@dataclass(frozen=True)
class CaseRow:
    """A row of the output for one case.

    Attributes:
        case: As a pattern or BreakHis names give it.
        n_images: Images of the case that were read.
        probability: Mean of P(malignant) over these images, to six significant digits.
        label: At the model's threshold.
        model: URI of the model.
        use: Statement on what the row must not be used for.
    """

    case: str
    n_images: int
    probability: float
    label: str
    model: str
    use: str


@dataclass(frozen=True, eq=False)
class Model:
    """A registered model that is loaded.

    Attributes:
        uri: URI of the model.
        threshold: Smallest probability that is labelled malignant.
        case_pattern: Pattern that found the cases of its data; None if none was given.
        note: Text that belongs beside every number; may be empty.
        network: uint8 RGB in, calibrated P(malignant) out.
    """

    uri: str
    threshold: float
    case_pattern: str | None
    note: str
    network: Any

    @property
    def use(self) -> str:
        """Text that belongs beside every number: the note, and what the model must not be used for."""
        return f"{self.note}. {DISCLAIMER}" if self.note else DISCLAIMER

    def label(self, probability: float) -> str:
        """Return the class name of a probability."""
        return CLASS_NAMES[probability >= self.threshold]


def check_format(kind: str) -> None:
    """Refuse a format that is not known.

    Raises:
        SettingsError: Listing those that are.
    """
    if kind not in FORMATS:
        raise SettingsError(f"--format must be {' or '.join(FORMATS)}, but got {kind!r}.")


def check_output(file: Path) -> None:
    """Refuse a place where a file of predictions cannot be written, before any work is done for it.

    Raises:
        PlaceError: If a folder or a device such as /dev/null is there, or its folder cannot be made or written.
    """
    if file.exists() and not file.is_file():
        raise PlaceError(f"--output must be a file to write, but {str(file)!r} is a folder or a device.")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "cannot be written" if above.is_dir() else "is not a folder"
        raise PlaceError(f"--output must be in a folder that can be written, but {str(above)!r} {reason}.")


def open_model(uri: str | None, reporter: ProgressReporter) -> Model:
    """Load the champion of the MLflow store, or the model of a URI or a name.

    Raises:
        StudyError: If the model does not exist, or was not registered by bhsearch.
        RunError: If its file cannot be read.
    """
    from bhsearch.tracking.connection import require_store

    check_backend()
    require_store()
    start_framework(reporter)
    client = open_mlflow(reporter)
    from bhsearch.tracking import model_files, registry

    with reporter.step("loading the model"):
        found = registry.resolve(client, uri)
        return _load(found, model_files.download(found))


def _load(found: str, folder: Path) -> Model:
    from bhsearch.models.calibrated import load_network
    from bhsearch.tracking import model_files

    metadata = model_files.metadata_of(folder)
    if "threshold" not in metadata:
        raise StudyError(
            f"A model must have its threshold with it, but {found} has none: `python -m bhsearch.register` fixes one."
        )
    network = load_network(model_files.keras_file(folder))
    return Model(found, float(metadata["threshold"]), metadata.get("case_pattern"), metadata.get("note", ""), network)


@dataclass(frozen=True)
class Files:
    """The files that were found for the arguments of the command.

    Attributes:
        images: Files given by name, and the images of folders, each once.
        bad: Entries of folders that cannot be used, such as links to other folders.
        left_out: Other files of the folders, counted.
    """

    images: list[Path]
    bad: list[BadFile]
    left_out: list[LeftOut]


def find_files(places: Sequence[str]) -> Files:
    """Find the files that were named, and the images of folders at any depth, as training finds them.

    Raises:
        DataError: If a place does not exist, or there is no image at all.
    """
    found: dict[Path, None] = {}
    bad: list[BadFile] = []
    left_out: list[LeftOut] = []
    for given in places:
        place = Path(given)
        if not given.strip():
            raise DataError(f"FILES_OR_FOLDERS must be names, but got {given!r}, as an unset shell variable gives it.")
        if place.is_dir():
            images = find_images(place)
            found.update(dict.fromkeys(place / path for path in images.paths))
            bad += [BadFile(str(place / file.path), f"{place / file.path}: {file.reason}") for file in images.bad]
            left_out += images.left_out
        elif place.exists():
            found[place] = None
        else:
            raise DataError(f"FILES_OR_FOLDERS must exist, but there is no {given!r}.")
    if not found:
        raise DataError(
            f"There must be images, but {', '.join(places)} holds none (looked for {', '.join(IMAGE_SUFFIXES)})."
            f"{' ' + describe_left_out(left_out) + '.' if left_out else ''}"
        )
    return Files(list(found), bad, left_out)


def case_of(pattern: str | None, places: Sequence[str] = ()) -> Callable[[Path], str]:
    """Return a function that finds the case of a path: by a pattern, else by the names of BreakHis and IDC.

    The pattern is searched in the path relative to the given folder that holds the file, as in training, then in the
    whole path. A name that stands for an unknown case, such as `unknown`, is no case.

    Raises:
        SettingsError: If the pattern cannot be used.
    """
    by_pattern = case_finder(pattern)
    folders = [Path(place) for place in places]

    def find(path: Path) -> str:
        inside = [path.relative_to(folder) for folder in folders if path != folder and path.is_relative_to(folder)]
        found = next(filter(None, (by_pattern(way.as_posix()) for way in (*inside, path))), "")
        if pattern is None:
            found = case_in_name(path.name)
        return "" if found is None or is_placeholder(found) else found

    return find


def case_in_name(file_name: str) -> str:
    """Return the case in a file name of BreakHis or IDC; empty if it is neither."""
    try:
        return breakhis.parse(file_name).case
    except DataError:
        return idc.patient_of(file_name) or ""


def predict(
    model: Model, files: Sequence[Path], case: Callable[[Path], str], bad: list[BadFile], progress: Progress
) -> Iterator[ImageRow]:
    """Yield a row for each image that can be read.

    Args:
        model: From `open_model`.
        files: From `find_files`.
        case: From `case_of`.
        bad: List to which files that cannot be read are appended.
        progress: Called with (done, total) files.
    """
    from bhsearch.models.calibrated import predict_images

    good: list[Path] = []

    def images() -> Iterator[npt.NDArray[np.uint8]]:
        for done, path in enumerate(files, start=1):
            try:
                image = decode(path)
            except DataError as error:
                bad.append(BadFile(str(path), str(error)))
            else:
                good.append(path)
                yield image
            progress(done, len(files))

    for at, exact in enumerate(predict_images(model.network, images())):
        probability = _six(exact)
        yield ImageRow(str(good[at]), case(good[at]), probability, model.label(probability), model.uri, model.use)


def cases(model: Model, rows: Sequence[ImageRow]) -> list[CaseRow]:
    """Return a row for each known case, sorted by name.

    Args:
        model: That gave the rows.
        rows: Of images.
    """
    by_case: dict[str, list[float]] = {}
    spelt: dict[str, str] = {}  # the first of several spellings of a case names it
    for row in rows:
        if row.case:
            name = spelt.setdefault(spelling_key(row.case), row.case)
            by_case.setdefault(name, []).append(row.probability)
    found = []
    for name, values in sorted(by_case.items()):
        mean = _six(float(np.mean(values)))
        found.append(CaseRow(name, len(values), mean, model.label(mean), model.uri, model.use))
    return found


def _six(probability: float) -> float:
    return float(f"{probability:.6g}")


class Writer:
    """Writes rows of one kind as CSV with a header, or as JSON lines.

    Args:
        stream: Where to.
        kind: `csv` or `jsonl`.
        row: Class of the rows; its fields are the columns.
    """

    def __init__(self, stream: IO[str], kind: str, row: type[ImageRow | CaseRow]) -> None:
        self._stream, self._kind = stream, kind
        self._csv = csv.writer(stream, lineterminator="\n")
        if kind == "csv":
            self._csv.writerow(row.__dataclass_fields__)

    def write(self, row: ImageRow | CaseRow) -> None:
        """Write one row."""
        values = asdict(row)
        if self._kind == "csv":
            self._csv.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values.values()])
        else:
            self._stream.write(json.dumps(values) + "\n")


def write_to(stream: IO[str], kind: str, rows: Iterable[ImageRow]) -> None:
    """Write image rows to a stream, such as standard output. Case rows are left out: they have other columns.

    Raises:
        PlaceError: If the disk behind it is full.
    """
    with explain_write_errors("standard output"):
        writer = Writer(stream, kind, ImageRow)
        for row in rows:
            writer.write(row)
        stream.flush()


def write_files(file: Path, kind: str, model: Model, rows: Iterable[ImageRow]) -> list[tuple[Path, int]]:
    """Write predictions: image rows, case rows in a second file, and a text on their use in a third one.

    Each file appears under its name only when it is whole, and replaces an older one. Folders are made.

    Args:
        file: File of the image rows. With `predictions.csv`, the case rows are in `predictions_cases.csv` and the text
            in `predictions.README.txt`.
        kind: `csv` or `jsonl`.
        model: That gave the rows.
        rows: Of images; asked for one by one, and written as they come.

    Returns:
        The two files with their numbers of rows.

    Raises:
        PlaceError: If a file cannot be written.
    """
    beside = file.with_name(f"{file.stem}_cases{file.suffix}")
    kept: list[ImageRow] = []
    with whole(file) as images, whole(beside) as other:
        writer = Writer(images, kind, ImageRow)
        for row in rows:
            writer.write(row)
            kept.append(row)
        writer, by_case = Writer(other, kind, CaseRow), cases(model, kept)
        for found in by_case:
            writer.write(found)
    with explain_write_errors(f"the text beside --output {file}"):
        write_use(
            file,
            [
                model.use,
                f"Model {model.uri}. P(malignant) of at least {model.threshold!r} is labelled malignant.",
                f"{file.name}: one row per image.",
                f"{beside.name}: one row per case; {CASE_NOTE}.",
            ],
        )
    return [(file, len(kept)), (beside, len(by_case))]


@contextmanager
def whole(file: Path) -> Iterator[IO[str]]:
    """Open a stream to a file that appears under its name only when it is complete.

    Folders that are missing are made; they are gone again where nothing came of the file.

    Raises:
        PlaceError: If the file cannot be written.
    """
    if file.is_dir():
        raise PlaceError(f"--output must be a file to write, but {str(file)!r} is a folder.")
    missing = [folder for folder in file.parents if not folder.exists()]
    draft: Path | None = None
    try:
        with explain_write_errors(f"--output {file}", ""):
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{file.name[:100]}-", dir=file.parent)
            draft = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                yield stream
            draft.chmod(0o644)  # a temporary file is the owner's alone
            draft.replace(file)
    except BaseException:
        if draft is not None:
            draft.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
