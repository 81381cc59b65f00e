"""Predict P(malignant) of image files with a registered model, per image and per case."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import BadFile, LeftOut
from bhsearch.data.images.decode import IMAGE_SUFFIXES, decode
from bhsearch.data.images.files import describe_left_out, find_images
from bhsearch.data.images.pixel_cache import Progress
from bhsearch.data.layouts import breakhis, idc
from bhsearch.data.layouts.folders import case_finder
from bhsearch.data.layouts.naming import is_placeholder, spelling_key
from bhsearch.errors import DataError, PlaceError, SettingsError, StudyError
from bhsearch.evaluation.predictions import DISCLAIMER, write_use
from bhsearch.lifecycle.validation.training_facts import (
    Batch,
    Differences,
    TrainingFacts,
    compare,
    magnification_in_name,
    outputs,
)
from bhsearch.models.keras_settings import check_backend
from bhsearch.runtime.cache import explain_write_errors
from bhsearch.study.events import ProgressReporter
from bhsearch.study.startup import open_mlflow, start_framework

FORMATS = ("csv", "jsonl")
NO_CASES = "There are no rows per case: the case of no image is known. --case-pattern finds it in the paths."
CASE_NOTE = "the probability of a case is the mean over its images"


@dataclass(frozen=True)
class ImageRow:
    """A row of the output for one image.

    Attributes:
        image: Path of the image, as given or below a given folder.
        case: Case of the image; empty if unknown.
        probability: Calibrated P(malignant), rounded to six significant digits.
        label: Class name at the threshold of the model.
        model: URI of the model.
        use: Statement of the uses that are not allowed.
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
        case: Name of the case, found by the case pattern or in a BreakHis or IDC file name.
        n_images: Number of images of the case that were read.
        probability: Mean of P(malignant) over these images, rounded to six significant digits.
        label: Class name at the threshold of the model.
        model: URI of the model.
        use: Statement of the uses that are not allowed.
    """

    case: str
    n_images: int
    probability: float
    label: str
    model: str
    use: str


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded registered model.

    Attributes:
        uri: URI of the model.
        class_names: Names of the classes.
        threshold: Smallest probability that is labelled malignant.
        case_pattern: Case pattern of the data that the model was developed on; None if that data set has no pattern.
        note: Text shown with every number, such as that the data are synthetic; may be empty.
        network: Model from uint8 RGB to calibrated P(malignant).
        facts: Facts about the training images; None if the model carries none.
        run_id: Run from which the model was logged; empty if unknown.
        metadata: Metadata of the MLflow model.
    """

    uri: str
    class_names: tuple[str, ...]
    threshold: float
    case_pattern: str | None
    note: str
    network: Any
    facts: TrainingFacts | None = None
    run_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def use(self) -> str:
        """Text shown with every prediction: the note, and the uses that are not allowed."""
        return f"{self.note}. {DISCLAIMER}" if self.note else DISCLAIMER

    def label(self, probability: float) -> str:
        """Return the class name of a probability."""
        return self.class_names[probability >= self.threshold]


def check_output(file: Path) -> None:
    """Check that the file of predictions can be written, before any prediction is computed.

    Raises:
        PlaceError: If the path is a folder or a device such as /dev/null, or if its parent folder cannot be created or
            written.
    """
    if file.exists() and not file.is_file():
        raise PlaceError(
            f"--output must be the path of a file, but {str(file)!r} is a folder or a device. Give a file name."
        )
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "cannot be written" if above.is_dir() else "is not a folder"
        raise PlaceError(f"Cannot write --output {str(file)!r}: {str(above)!r} {reason}. Choose another folder.")


def open_model(uri: str | None, reporter: ProgressReporter) -> Model:
    """Load the model with a name or URI; if None is given, load the only champion of the MLflow store.

    Raises:
        StudyError: If the model does not exist, or was not registered by bhsearch.
        RunError: If the file of the model cannot be read.
    """
    from bhsearch.tracking.connection import require_store

    check_backend()
    require_store()
    start_framework(reporter)
    client = open_mlflow(reporter)
    return load_model(client, uri, reporter)


def load_model(client: Any, uri: str | None, reporter: ProgressReporter) -> Model:
    """Load a model from an opened MLflow store; see `open_model`."""
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
            f"The model {found} was not registered by bhsearch: it has no threshold. Register a model with `python -m "
            "bhsearch.register`."
        )
    network = load_network(model_files.network_file(folder))
    return Model(
        uri=found,
        class_names=model_files.class_names_of(metadata),
        threshold=float(metadata["threshold"]),
        case_pattern=metadata.get("case_pattern"),
        note=metadata.get("note", ""),
        network=network,
        facts=TrainingFacts.load(metadata, folder),
        run_id=model_files.run_of(folder),
        metadata=metadata,
    )


@dataclass(frozen=True)
class Files:
    """Files found for the arguments of the command.

    Attributes:
        images: Files given by name, and images in the given folders, without duplicates.
        bad: Folder entries that cannot be used, such as links to other folders.
        left_out: Counts of the other files in the folders.
    """

    images: list[Path]
    bad: list[BadFile]
    left_out: list[LeftOut]


def find_files(places: Sequence[str]) -> Files:
    """Return the given files, and the images at any depth in the given folders, found by the same rules as in training.

    Raises:
        DataError: If a path does not exist, or if no image is found.
    """
    found: dict[Path, None] = {}
    bad: list[BadFile] = []
    left_out: list[LeftOut] = []
    for given in places:
        place = Path(given)
        if not given.strip():
            raise DataError(
                f"FILES_OR_FOLDERS contains an empty name, {given!r}. If you use a shell variable, check that it is "
                "set."
            )
        if place.is_dir():
            images = find_images(place)
            found.update(dict.fromkeys(place / path for path in images.paths))
            bad += [BadFile(str(place / file.path), f"{place / file.path}: {file.reason}") for file in images.bad]
            left_out += images.left_out
        elif place.exists():
            found[place] = None
        else:
            raise DataError(f"There is no file or folder {given!r}. Check the path.")
    if not found:
        raise DataError(
            f"No images were found in {', '.join(places)} (known suffixes: "
            f"{', '.join(IMAGE_SUFFIXES)}).{' ' + describe_left_out(left_out) + '.' if left_out else ''}"
        )
    return Files(list(found), bad, left_out)


def case_of(pattern: str | None, places: Sequence[str] = ()) -> Callable[[Path], str]:
    """Return a function that returns the case of an image path; empty if the case is unknown.

    With a pattern, the function searches the path relative to the given folder that contains the file, as in training,
    and then the whole path. Without a pattern, the function reads the case from BreakHis and IDC file names.
    Placeholders such as `unknown` count as unknown.

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


def check_pattern(pattern: str | None, places: Sequence[str], files: Sequence[Path]) -> None:
    """Check that a pattern given by the user finds the case of at least one image.

    Args:
        pattern: The pattern; None if the user gave none.
        places: Files and folders given by the user; see `case_of`.
        files: The images in them.

    Raises:
        SettingsError: If the pattern cannot be used, or finds no case.
    """
    if pattern is not None and not any(map(case_of(pattern, places), files)):
        raise SettingsError(
            f"--case-pattern {pattern!r} finds no case in the path of any image, such as {str(files[0])!r}. Correct "
            "the pattern, or leave it out."
        )


def case_in_name(file_name: str) -> str:
    """Return the case in a BreakHis or IDC file name; an empty string for other names."""
    try:
        return breakhis.parse(file_name).case
    except DataError:
        return idc.patient_of(file_name) or ""


def predict(
    model: Model,
    files: Sequence[Path],
    case: Callable[[Path], str],
    bad: list[BadFile],
    progress: Progress,
    batch: Batch | None = None,
) -> Iterator[ImageRow]:
    """Yield one row per readable image.

    Args:
        model: Model from `open_model`.
        files: Images from `find_files`.
        case: Function from `case_of`.
        bad: List to which unreadable files are appended.
        progress: Called with (done, total) files.
        batch: Collects what is compared with the training images; None to collect nothing.

    Raises:
        DataError: At the end, if no image can be read.
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

    def row(at: int, exact: float) -> ImageRow:
        probability = six(exact)
        return ImageRow(str(good[at]), case(good[at]), probability, model.label(probability), model.uri, model.use)

    def names(at: int) -> tuple[str, str]:
        return case(good[at]), magnification_in_name(good[at].name)

    if batch is None or model.facts is None:
        found: Iterable[float] = predict_images(model.network, images())
    else:
        found = (each.probability for each in outputs(model.network, model.facts.n_tiles, images(), names, batch))
    yield from (row(at, exact) for at, exact in enumerate(found))
    if not good:
        reason = f" The first one is {bad[0].reason}" if bad else ""
        raise DataError(f"No image can be read.{reason}")


def predict_all(
    model: Model, files: Sequence[Path], case: Callable[[Path], str], bad: list[BadFile], progress: Progress
) -> tuple[list[ImageRow], Differences]:
    """Return the rows of all readable images, and how the images differ from the training images; see `predict`."""
    batch = Batch()
    rows = list(predict(model, files, case, bad, progress, batch))
    return rows, compare(batch, model.facts)


def cases(model: Model, rows: Sequence[ImageRow]) -> list[CaseRow]:
    """Return one row per known case, sorted by name.

    Args:
        model: Model that computed the image rows.
        rows: Image rows.
    """
    by_case: dict[str, list[float]] = {}
    spelt: dict[str, str] = {}  # a case with several spellings is named by the first one
    for row in rows:
        if row.case:
            name = spelt.setdefault(spelling_key(row.case), row.case)
            by_case.setdefault(name, []).append(row.probability)
    found = []
    for name, values in sorted(by_case.items()):
        mean = six(float(np.mean(values)))
        found.append(CaseRow(name, len(values), mean, model.label(mean), model.uri, model.use))
    return found


def six(probability: float) -> float:
    """Return a probability rounded to six significant digits, as it is written."""
    return float(f"{probability:.6g}")


class Writer:
    """Writer of rows of one class, as CSV with a header or as JSON lines.

    Args:
        stream: Output stream.
        kind: `csv` or `jsonl`.
        row: Class of the rows, whose fields are the columns.
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
    """Write image rows to a stream, such as standard output.

    Case rows are not written, because their columns differ.

    Raises:
        PlaceError: If the disk is full.
    """
    with explain_write_errors("standard output"):
        writer = Writer(stream, kind, ImageRow)
        for row in rows:
            writer.write(row)
        stream.flush()


def write_files(file: Path, kind: str, model: Model, rows: Iterable[ImageRow]) -> list[tuple[Path, int]]:
    """Write image rows, case rows and a README on the use of predictions to three files.

    Each file is created atomically and replaces an older file of the same name. Missing folders are created. If the
    case of no image is known, there is no file of case rows, and an older one is deleted.

    Args:
        file: File of the image rows. For `predictions.csv`, the case rows are written to `predictions_cases.csv` and
            the README to `predictions.README.txt`.
        kind: `csv` or `jsonl`.
        model: Model that computes the rows.
        rows: Image rows, written one by one as they are computed.

    Returns:
        Image file, and case file if there is one, each with its number of rows.

    Raises:
        PlaceError: If a file cannot be written.
    """
    beside = file.with_name(f"{file.stem}_cases{file.suffix}")
    kept: list[ImageRow] = []
    with whole(file) as images:
        writer = Writer(images, kind, ImageRow)
        for row in rows:
            writer.write(row)
            kept.append(row)
        by_case = cases(model, kept)
        if by_case:
            with whole(beside) as other:
                writer = Writer(other, kind, CaseRow)
                for found in by_case:
                    writer.write(found)
        else:
            with explain_write_errors(f"the older file {beside}", ""):
                beside.unlink(missing_ok=True)
    with explain_write_errors(f"the notes beside --output {file}"):
        write_use(
            file,
            [
                model.use,
                f"Model {model.uri}. P(malignant) of at least {model.threshold!r} is labelled malignant.",
                f"{file.name}: one row per image.",
                f"{beside.name}: one row per case; {CASE_NOTE}." if by_case else NO_CASES,
            ],
        )
    return [(file, len(kept)), *([(beside, len(by_case))] if by_case else [])]


@contextmanager
def whole(file: Path) -> Iterator[IO[str]]:
    """Open a stream to a file that is created atomically when the block ends without an error.

    Missing folders are created, and removed again if the block fails.

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
            draft.chmod(0o644)  # temporary files are readable by their owner only
            draft.replace(file)
    except BaseException:
        if draft is not None:
            draft.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
