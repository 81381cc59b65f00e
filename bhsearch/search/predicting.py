"""Predictions of a registered model on images of one's own, image by image and case by case."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data import breakhis, readers
from bhsearch.data.decode import SUFFIXES, decode
from bhsearch.data.index import CLASS_NAMES, BadFile
from bhsearch.data.pixels import Progress
from bhsearch.data.store import writing
from bhsearch.errors import DataError, SettingsError, StudyError
from bhsearch.evaluation.predictions import DISCLAIMER

FORMATS = ("csv", "jsonl")
CASE_NOTE = "the probability of a case is the mean over its images"


@dataclass(frozen=True)
class Row:
    """One line of the output.

    Attributes:
        kind: `image` or `case`.
        image: Path as it was given; empty for a case.
        case: Empty where unknown.
        n_images: 1, or how many images of the case were read.
        probability: P(malignant), calibrated; of a case, the mean over its images.
        label: At the model's threshold.
    """

    kind: str
    image: str
    case: str
    n_images: int
    probability: float
    label: str


@dataclass(frozen=True, eq=False)
class Model:
    """A registered model, ready to be asked.

    Attributes:
        uri: Where it came from.
        threshold: A probability from here on is called malignant.
        case_pattern: What its data found cases with; None if they did not.
        note: What must stand beside its numbers; may be empty.
        network: uint8 RGB in, calibrated P(malignant) out.
    """

    uri: str
    threshold: float
    case_pattern: str | None
    note: str
    network: Any

    def label(self, probability: float) -> str:
        """Class name at the threshold."""
        return CLASS_NAMES[probability >= self.threshold]


def check_format(kind: str) -> None:
    """Refuse a format that is not known.

    Raises:
        SettingsError: Listing those that are.
    """
    if kind not in FORMATS:
        raise SettingsError(f"--format must be {' or '.join(FORMATS)}, but got {kind!r}.")


def open_model(uri: str | None) -> Model:
    """The champion of the MLflow store, or the model of a URI or a name.

    Raises:
        StudyError: If there is none, or it was not registered by bhsearch.
        RunError: If its file cannot be read.
    """
    from bhsearch.networks import backend
    from bhsearch.networks.calibrated import load_network
    from bhsearch.tracking.store import open_client, require_store

    require_store()
    backend.start()
    with backend.quiet():
        from bhsearch.tracking import kept, registry

    found = registry.resolve(open_client(patient=True), uri)
    folder = kept.download(found)
    metadata = kept.metadata_of(folder)
    if "threshold" not in metadata:
        raise StudyError(
            f"A model must have its threshold with it, but {found} has none: `python -m bhsearch.register` fixes one."
        )
    network = load_network(kept.keras_file(folder))
    return Model(found, float(metadata["threshold"]), metadata.get("case_pattern"), metadata.get("note", ""), network)


def find_files(places: Sequence[str]) -> list[Path]:
    """Files as given, and those of folders by their suffix, at any depth, sorted; each once.

    Raises:
        DataError: If a place does not exist, or there is no image at all.
    """
    found: dict[Path, None] = {}
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            found.update(dict.fromkeys(inside))
        elif place.exists():
            found[place] = None
        else:
            raise DataError(f"FILES_OR_FOLDERS must exist, but there is no {str(place)!r}.")
    if not found:
        raise DataError(f"There must be images, but {', '.join(places)} holds none (looked for {', '.join(SUFFIXES)}).")
    return list(found)


def case_of(pattern: str | None) -> Callable[[Path], str]:
    """A function from path to case: by a pattern, else by BreakHis names; empty where unknown.

    Raises:
        SettingsError: If the pattern cannot be used.
    """
    by_pattern = readers.case_finder(pattern)

    def find(path: Path) -> str:
        found = by_pattern(path.as_posix())
        if found is None:
            try:
                found = breakhis.parse(path.name).case
            except DataError:
                found = ""
        return found

    return find


def predict(
    model: Model, files: Sequence[Path], case: Callable[[Path], str], bad: list[BadFile], progress: Progress
) -> Iterator[Row]:
    """A row per image that can be read, then one per case.

    Args:
        model: From `open_model`.
        files: From `find_files`.
        case: From `case_of`.
        bad: Gets the files that cannot be read.
        progress: Called with (done, total) files.
    """
    from bhsearch.networks.calibrated import predict_images

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

    by_case: dict[str, list[float]] = {}
    for at, probability in enumerate(predict_images(model.network, images())):
        key = case(good[at])
        if key:
            by_case.setdefault(key, []).append(probability)
        yield Row("image", str(good[at]), key, 1, probability, model.label(probability))
    for key, values in sorted(by_case.items()):
        mean = float(np.mean(values))
        yield Row("case", "", key, len(values), mean, model.label(mean))


class Writer:
    """Writes rows as CSV or JSON lines, the disclaimer first.

    Args:
        stream: Where to.
        kind: `csv` or `jsonl`.
        model: Named in the header.
    """

    def __init__(self, stream: IO[str], kind: str, model: Model) -> None:
        self._stream, self._kind = stream, kind
        self._csv = csv.writer(stream, lineterminator="\n")
        said = f"{model.note}. {DISCLAIMER}" if model.note else DISCLAIMER
        if kind == "csv":
            stream.write(f"# {said}\n# {model.uri}, threshold {model.threshold!r}; {CASE_NOTE}\n")
            self._csv.writerow(Row.__dataclass_fields__)
        else:
            head = {"use": said, "model": model.uri, "threshold": model.threshold, "cases": CASE_NOTE}
            stream.write(json.dumps(head) + "\n")

    def write(self, row: Row) -> None:
        """Write one row."""
        if self._kind == "csv":
            self._csv.writerow(asdict(row).values())
        else:
            self._stream.write(json.dumps(asdict(row)) + "\n")


@contextmanager
def output(file: Path | None, standard: IO[str]) -> Iterator[IO[str]]:
    """A stream: standard output, or a file that appears under its name only when it is whole.

    Raises:
        PlaceError: If the file cannot be written.
    """
    if file is None:
        yield standard
        return
    with writing(f"--output {file}"):
        handle, draft = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            yield stream
        Path(draft).chmod(0o644)  # a temporary file is the owner's alone
        Path(draft).replace(file)
    finally:
        with suppress(FileNotFoundError):
            Path(draft).unlink()
