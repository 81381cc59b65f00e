"""Facts about the training images that a registered model carries, and how a batch of images differs from them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.decode import decode
from bhsearch.data.layouts import breakhis
from bhsearch.data.layouts.naming import spelling_key
from bhsearch.errors import DataError
from bhsearch.evaluation.drift import (
    BATCH_SIZES,
    FEWEST_CASES,
    N_COLOUR,
    CaseMeans,
    DriftTest,
    halves,
    image_statistics,
)
from bhsearch.models.resize import grid_of
from bhsearch.study.events import ProgressReporter
from bhsearch.text import plural, verb

if TYPE_CHECKING:
    from bhsearch.models.calibrated import ImageOutput

FILE = "training_features.npz"  # in the folder of the MLflow model
METADATA = "training"  # key of the metadata of the MLflow model
_MOST_IMAGES = 12  # images of each case that facts are computed on
ENCODER = "encoder"
_PARTS = {ENCODER: 0.2, "colour": 1.0, "texture": 1.0}  # tests, with their shrinkage; see `drift.Reference.fit`
_WHAT = {
    "encoder": "the features of the encoder",
    "colour": "brightness, contrast or stain",
    "texture": "sharpness, compression or field of view",
}
_SIZE_MARGIN = 1.1  # factor by which an image side may exceed the range of the training images
_LEAST_ODD, _MOST_ODD = 0.05, 0.5  # bounds of the share of images of a batch that may have another size
_ODD_QUANTILE = 0.98


@dataclass(frozen=True, eq=False)
class TrainingFacts:
    """Facts about the development images of a registered model. They contain no image.

    Attributes:
        heights, widths: 2.5 % and 97.5 % quantile of the heights and widths in pixels; 0 for a model of vectors.
        odd_sizes: Largest share of the images of a batch whose size may be outside these ranges, 0 to 1.
        magnifications: Magnifications of the images, such as `100X`; empty if none is known.
        n_tiles: Number of tiles into which the model cuts an image.
        tests: Drift tests by name, `encoder`, `colour` and `texture`; empty with fewer than `drift.FEWEST_CASES` cases.
    """

    heights: tuple[float, float]
    widths: tuple[float, float]
    odd_sizes: float
    magnifications: tuple[str, ...]
    n_tiles: int
    tests: Mapping[str, DriftTest]

    def metadata(self) -> dict[str, Any]:
        """Return the facts, except for the drift tests, as metadata of a model."""
        return {
            "heights": list(self.heights),
            "widths": list(self.widths),
            "odd_sizes": self.odd_sizes,
            "magnifications": list(self.magnifications),
            "n_tiles": self.n_tiles,
        }

    def file(self) -> bytes:
        """Return the content of the file of the drift tests."""
        arrays = {
            f"{name}.{key}": array for name, test in self.tests.items() for key, array in test.to_arrays().items()
        }
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # the stub has no keyword arrays
        return content.getvalue()

    @classmethod
    def load(cls, metadata: Mapping[str, Any], folder: Path) -> TrainingFacts | None:
        """Return the facts that a model carries; None if it carries none.

        Args:
            metadata: Metadata of the model.
            folder: Folder of the MLflow model.
        """
        kept = metadata.get(METADATA)
        if kept is None:
            return None
        arrays: dict[str, dict[str, Any]] = {}
        if (folder / FILE).is_file():
            with np.load(folder / FILE, allow_pickle=False) as content:
                for key in content.files:
                    name, _, part = key.partition(".")
                    arrays.setdefault(name, {})[part] = content[key]
        (low_height, high_height), (low_width, high_width) = kept["heights"], kept["widths"]
        return cls(
            heights=(float(low_height), float(high_height)),
            widths=(float(low_width), float(high_width)),
            odd_sizes=float(kept["odd_sizes"]),
            magnifications=tuple(kept["magnifications"]),
            n_tiles=int(kept["n_tiles"]),
            tests={name: DriftTest.from_arrays(each) for name, each in arrays.items()},
        )


@dataclass(eq=False)
class Batch:
    """What is kept of the images of a batch while they are predicted.

    Attributes:
        sizes: Height and width of each image.
        magnifications: Magnification of each image; empty if unknown.
        kept_cases: Case of each image whose arrays are kept: the first 12 images of each known case, which bounds the
            memory.
        features: Arrays of these images, by name of the drift test.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    magnifications: list[str] = field(default_factory=list)
    kept_cases: list[str] = field(default_factory=list)
    features: dict[str, list[npt.NDArray[Any]]] = field(default_factory=lambda: {name: [] for name in _PARTS})
    _n_kept: Counter[str] = field(default_factory=Counter)

    def add(
        self, case: str, magnification: str, output: ImageOutput, statistics: npt.NDArray[np.float64] | None
    ) -> None:
        """Add an image.

        Args:
            case: Case of the image; empty if unknown.
            magnification: Magnification of the image; empty if unknown.
            output: Output of the model for the image.
            statistics: `drift.image_statistics` of the image; None for a vector.
        """
        if statistics is not None:
            self.sizes.append(output.size)
        self.magnifications.append(magnification)
        key = spelling_key(case)
        if case and self._n_kept[key] < _MOST_IMAGES:
            self._n_kept[key] += 1
            self.kept_cases.append(key)
            self.features[ENCODER].append(output.features)
            if statistics is not None:
                self.features["colour"].append(statistics[:N_COLOUR])
                self.features["texture"].append(statistics[N_COLOUR:])

    def case_means(self, name: str) -> CaseMeans:
        """Return the arrays of a drift test averaged over the known cases.

        Args:
            name: `encoder`, `colour` or `texture`.
        """
        return CaseMeans.of(np.stack(self.features[name]), self.kept_cases)

    @property
    def n_cases(self) -> int:
        """Number of known cases."""
        return len(self._n_kept)


@dataclass(frozen=True)
class Differences:
    """How a batch differs from the training images.

    Attributes:
        warnings: One sentence per difference.
        drift: Score divided by its threshold, by name of the drift test; empty if the tests were not run. A value
            above 1 gives a warning.
        unchecked: Sentence that says why drift was not checked; empty if it was.
    """

    warnings: tuple[str, ...]
    drift: Mapping[str, float]
    unchecked: str = ""


def compare(batch: Batch, facts: TrainingFacts | None) -> Differences:
    """Compare a batch of images with the training images of a model.

    Sizes and magnifications are compared for every batch; drift is tested for at least `drift.BATCH_SIZES[0]` cases.
    """
    if facts is None:
        return Differences((), {}, "The model carries no facts about its training images: register it again.")
    warnings = [*_size_warnings(batch, facts), *_magnification_warnings(batch, facts)]
    if not facts.tests:
        return Differences(
            tuple(warnings), {}, f"Drift is not checked: the model was trained on fewer than {FEWEST_CASES} cases."
        )
    if batch.n_cases < BATCH_SIZES[0]:
        why = f"Drift is not checked: it needs {BATCH_SIZES[0]} known cases, but there are {batch.n_cases}."
        return Differences(tuple(warnings), {}, why)
    drift = {name: test.ratio(batch.case_means(name)) for name, test in facts.tests.items()}
    warnings += [
        f"The {plural(batch.n_cases, 'case')} differ from the training cases in {_WHAT[name]}: the drift score is "
        f"{value:.1f} times its threshold."
        for name, value in drift.items()
        if value > 1
    ]
    return Differences(tuple(warnings), drift)


def _is_odd(size: tuple[int, int], ranges: Sequence[tuple[float, float]]) -> bool:
    """Return whether an image side is outside the range of the training images by more than a tenth."""
    sides = zip(size, ranges, strict=True)
    return any(side * _SIZE_MARGIN < low or side > high * _SIZE_MARGIN for side, (low, high) in sides)


def _size_warnings(batch: Batch, facts: TrainingFacts) -> list[str]:
    ranges = (facts.heights, facts.widths)
    odd = [size for size in batch.sizes if _is_odd(size, ranges)]
    if len(odd) <= facts.odd_sizes * len(batch.sizes):
        return []
    (height, width), _ = Counter(odd).most_common(1)[0]
    trained = " x ".join(f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}" for low, high in reversed(ranges))
    return [
        f"{len(odd):,} of {plural(len(batch.sizes), 'image')} {verb(len(odd), 'has', 'have')} another size than "
        "the training images (for example "
        f"{width} x {height} pixels, but {trained} in training), so that they may show another field of view."
    ]


def _magnification_warnings(batch: Batch, facts: TrainingFacts) -> list[str]:
    trained = {name.casefold() for name in facts.magnifications}
    odd = Counter(name for name in batch.magnifications if name and name.casefold() not in trained)
    if not trained or odd.total() <= _LEAST_ODD * len(batch.magnifications):
        return []
    return [
        f"{odd.total():,} of {plural(len(batch.magnifications), 'image')} {verb(odd.total(), 'has', 'have')} the "
        "magnification "
        f"{' or '.join(sorted(odd))}, but the model was trained on {', '.join(facts.magnifications)}."
    ]


def magnification_in_name(file_name: str) -> str:
    """Return the magnification in a BreakHis file name, such as `100X`; an empty string for other names."""
    try:
        return breakhis.magnification_key(breakhis.parse(file_name).magnification)
    except DataError:
        return ""


def outputs(
    network: Any,
    n_tiles: int,
    images: Iterable[npt.NDArray[np.uint8]],
    names: Callable[[int], tuple[str, str]],
    batch: Batch,
) -> Iterator[ImageOutput]:
    """Yield the outputs of a registered model for each image, and add the image to a batch.

    Args:
        network: The calibrated network.
        n_tiles: Number of tiles into which the model cuts an image.
        images: RGB images of any sizes. Shape (height, width, 3) each.
        names: Function from the position of an image to its case and magnification; both are empty if unknown.
        batch: Batch to add the images to.
    """
    from bhsearch.models.calibrated import image_outputs
    from bhsearch.models.deployed_parts import with_features

    statistics: list[npt.NDArray[np.float64]] = []

    def watched() -> Iterator[npt.NDArray[np.uint8]]:
        for image in images:
            statistics.append(image_statistics(image))
            yield image

    for at, output in enumerate(image_outputs(with_features(network), watched(), n_tiles)):
        batch.add(*names(at), output, statistics[at])
        yield output


def vector_outputs(
    network: Any, vectors: npt.NDArray[np.float32], names: Callable[[int], tuple[str, str]], batch: Batch
) -> Iterator[ImageOutput]:
    """Yield the outputs of a registered model for each vector, and add the vector to a batch; see `outputs`."""
    from bhsearch.models.calibrated import vector_outputs
    from bhsearch.models.deployed_parts import with_features

    for at, output in enumerate(vector_outputs(with_features(network), vectors)):
        batch.add(*names(at), output, None)
        yield output


def _facts_of_vectors(network: Any, development: Dataset, name: str) -> TrainingFacts:
    """Compute the facts about development images of which a model takes the vectors; only the encoder is tested."""
    cases = development.column("case")
    rows = sampled_rows(cases.tolist())
    batch = Batch()

    def names(at: int) -> tuple[str, str]:
        return (str(cases[rows[at]]) if development.has_cases else "", "")

    for _ in vector_outputs(network, development.vectors[name].select(np.array(rows)).read(), names, batch):
        pass
    tests = {}
    if batch.n_cases >= FEWEST_CASES:
        tests = {ENCODER: DriftTest.fit(batch.case_means(ENCODER), _PARTS[ENCODER])}
    return TrainingFacts((0.0, 0.0), (0.0, 0.0), 1.0, _magnifications(development), 1, tests)


def _magnifications(development: Dataset) -> tuple[str, ...]:
    return tuple(sorted({name for name in development.column("magnification").tolist() if name}))


def collect_facts(
    network: Any, development: Dataset, resize: str, reporter: ProgressReporter, vectors: str | None = None
) -> TrainingFacts:
    """Compute the facts about the development images of a model, on up to 12 images of each case.

    Args:
        network: The calibrated network.
        development: The development images.
        resize: Resize mode of the model.
        reporter: Receives progress events.
        vectors: Name of the vectors that the network takes; None if it takes images.
    """
    if vectors is not None:
        with reporter.step("describing the training images"):
            return _facts_of_vectors(network, development, vectors)
    rows = sampled_rows(development.column("case").tolist())
    paths, cases = development.paths(), development.column("case")
    n_tiles = int(np.prod(grid_of(resize)))
    batch = Batch()
    with reporter.step("describing the training images") as progress:

        def images() -> Iterator[npt.NDArray[np.uint8]]:
            for done, row in enumerate(rows, start=1):
                yield decode(paths[row])
                progress(done, len(rows))

        def names(at: int) -> tuple[str, str]:
            return (str(cases[rows[at]]) if development.has_cases else "", "")

        for _ in outputs(network, n_tiles, images(), names, batch):
            pass
    heights, widths = (_range(side) for side in zip(*batch.sizes, strict=True))
    odd = [_is_odd(size, (heights, widths)) for size in batch.sizes]
    means = {name: batch.case_means(name) for name in _PARTS} if batch.n_cases >= FEWEST_CASES else {}
    return TrainingFacts(
        heights=heights,
        widths=widths,
        odd_sizes=_odd_share(odd, [str(cases[row]) for row in rows]),
        magnifications=_magnifications(development),
        n_tiles=n_tiles,
        tests={name: DriftTest.fit(each, _PARTS[name]) for name, each in means.items()},
    )


def _range(sides: Sequence[int]) -> tuple[float, float]:
    low, high = np.quantile(sides, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def _odd_share(odd: Sequence[bool], cases: Sequence[str]) -> float:
    """Return the share of images of another size that a batch may have.

    It is twice a high quantile over the half of the training cases that thresholds are determined on, because some
    cases have more patches at the edge of the tissue than others.
    """
    _, number = np.unique([spelling_key(case) for case in cases], return_inverse=True)
    share = np.bincount(number, np.asarray(odd, float)) / np.bincount(number)
    half, _ = halves(len(share))
    most = np.quantile(share[half] if len(half) else share, _ODD_QUANTILE, method="higher")
    return float(np.clip(2 * most, _LEAST_ODD, _MOST_ODD))


def sampled_rows(cases: Sequence[str]) -> list[int]:
    """Return the rows of up to 12 images of each case, spread evenly over the images of the case.

    Args:
        cases: Case of each image.
    """
    by_case: dict[str, list[int]] = {}
    for row, case in enumerate(cases):
        by_case.setdefault(case, []).append(row)
    found = []
    for rows in by_case.values():
        places = np.unique(np.linspace(0, len(rows) - 1, min(_MOST_IMAGES, len(rows))).round().astype(int))
        found += [rows[place] for place in places]
    return sorted(found)
