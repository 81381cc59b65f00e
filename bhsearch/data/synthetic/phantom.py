"""The phantom: a built-in data set of synthetic tissue, with the folder structure and file names of BreakHis.

The phantom has known properties. Every case can be recognised by its stain, cut and texture, so an image-level split
leaks. The distributions of the two classes overlap, so a score without leaks is below 1. The module `tissue_style`
defines the style of a case, `tissue` draws its images, and this module lists the images and writes them to the cache.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bhsearch.data.dataset import CLASS_NAMES, Dataset
from bhsearch.data.images.decode import Progress
from bhsearch.data.layouts import breakhis
from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.synthetic.tissue_style import case_style
from bhsearch.errors import DataError
from bhsearch.runtime import cache

NAME = "phantom"
MAGNIFICATION = 100

# Version of the drawings, part of the cache key. Increase it when the same parameters give different files.
_VERSION = 1
_FIRST_SLIDE = 90_000  # far above the slide ids of BreakHis, the highest of which is 29960
_BENIGN_OF_FIVE = (0, 3)  # two cases of five are benign
_PAIRED_OF_EIGHT = 5  # one case of eight has two slides, so that a slide-level split leaks
# Numbers of independent random streams of a case. The seed of a generator is (seed, case, stream) or
# (seed, case, stream, image).
_PLAN, _PIXELS, _STYLE = 1, 2, 3


@dataclass(frozen=True)
class Parameters:
    """Parameters of a phantom.

    Attributes:
        cases: Number of cases, two fifths of which are benign. A phantom contains the cases of all phantoms with fewer
            cases and otherwise equal parameters.
        images: Mean number of images per case. The number of a case is between 0.5 and 1.5 times the mean.
        difficulty: Difficulty from 0 (classes almost separable) to 1 (images do not depend on the label, so the
            expected AUC is 0.5).
        seed: Random seed of the cases.
    """

    cases: int = 76
    images: int = 6
    difficulty: float = 0.5
    seed: int = 0

    @property
    def name(self) -> str:
        """Short name with all values that are not defaults, such as `phantom-cases120-difficulty0_7`."""
        changed = [f"{key}{value}" for key, value in asdict(self).items() if value != _DEFAULTS[key]]
        # MLflow does not allow dots in model names, which contain the data set's name.
        return "-".join([NAME, *changed]).replace(".", "_")


_DEFAULTS = asdict(Parameters())
_RANGES: dict[str, tuple[int, int]] = {
    "cases": (2, 10_000),
    "images": (1, 100),
    "difficulty": (0, 1),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class SyntheticImage:
    """Specification of one image to draw.

    Attributes:
        path: POSIX path relative to the data folder.
        label: 0 benign, 1 malignant.
        case: Number of the case, from 0.
        image: Number of the image within its case, from 0.
    """

    path: str
    label: int
    case: int
    image: int


def parse_spec(spec: str) -> Parameters:
    """Parse a specification `phantom` or `phantom:key=value,...`; the keys are the fields of `Parameters`.

    Raises:
        DataError: If a key is unknown or repeated, or a value is not a number or out of range.
    """
    head, colon, tail = spec.partition(":")
    if head != NAME or (colon and not tail):
        raise DataError(f"Synthetic data must be {NAME} or {NAME}:key=value,..., but got {spec!r}.\n{_known_keys()}")
    values: dict[str, float] = {}
    for item in tail.split(",") if colon else ():
        key, equals, text = item.partition("=")
        if not equals or key not in _RANGES:
            raise DataError(f"Phantom parameters must be key=value, but got {item!r} in {spec!r}.\n{_known_keys()}")
        if key in values:
            raise DataError(f"A phantom parameter must be given once, but {spec!r} has {key} twice.")
        values[key] = _number(key, text)
    return Parameters(**{**_DEFAULTS, **values})


def list_images(parameters: Parameters) -> list[SyntheticImage]:
    """List all images of a phantom, case by case."""
    planned = []
    for case in range(parameters.cases):
        rng = np.random.default_rng((parameters.seed, case, _PLAN))
        label = 0 if case % 5 in _BENIGN_OF_FIVE else 1
        # The subtype is only a part of the file name; the drawn image does not depend on it.
        subtype = str(rng.choice(list((breakhis.BENIGN_SUBTYPES, breakhis.MALIGNANT_SUBTYPES)[label])))
        least, most = (parameters.images + 1) // 2, parameters.images * 3 // 2
        n_images = int(rng.integers(least, most + 1))
        letters = ("AB", "CD") if case % 8 == _PAIRED_OF_EIGHT and n_images > 1 else ("",)
        for image in range(n_images):
            slide = f"{_FIRST_SLIDE + case}{letters[image % len(letters)]}"
            path = _path(label, subtype, slide, image // len(letters) + 1)
            planned.append(SyntheticImage(path, label, case, image))
    return planned


def draw_image(parameters: Parameters, image: SyntheticImage) -> npt.NDArray[np.uint8]:
    """Draw one image, which is determined by seed and difficulty, and by the image's label, case and number.

    Returns:
        RGB image. Shape (tissue.HEIGHT, tissue.WIDTH, 3).
    """
    from bhsearch.data.synthetic import (
        tissue,  # imports SciPy, which is not needed for a cached phantom
    )

    rng = np.random.default_rng((parameters.seed, image.case, _STYLE))
    style = case_style(rng, image.label, parameters.difficulty)
    return tissue.draw_tissue(style, np.random.default_rng((parameters.seed, image.case, _PIXELS, image.image)))


def phantom_folder(parameters: Parameters, progress: Progress | None = None) -> Path:
    """Return the cache folder of a phantom; draw the images if the folder is missing or incomplete.

    Args:
        parameters: Parameters of the phantom.
        progress: Called with the numbers of images done and in total during drawing.

    Raises:
        PlaceError: If the cache cannot be written or the disk is full. No partial cache entry remains.
    """
    facts = {**asdict(parameters), "version": _VERSION}
    return cache.get_or_create(NAME, facts, lambda folder: _fill(folder, parameters, progress))


def phantom_dataset(spec: str = NAME) -> Dataset:
    """Return a phantom as a data set; draw the images if they are not in the cache.

    Args:
        spec: See `parse_spec`.

    Raises:
        DataError: If the specification cannot be parsed.
        PlaceError: If the cache cannot be written or the disk is full. No partial cache entry remains.
    """
    parameters = parse_spec(spec)
    dataset = load_dataset(phantom_folder(parameters), layout="breakhis")
    return replace(dataset, name=parameters.name, layout=NAME, synthetic=True, has_cases=True, left_out=())


def _known_keys() -> str:
    rows = (f"  {key}={_DEFAULTS[key]}  ({low} to {high})" for key, (low, high) in _RANGES.items())
    return "\n".join(["Parameters and defaults:", *rows])


def _number(key: str, text: str) -> float:
    low, high = _RANGES[key]
    whole = isinstance(_DEFAULTS[key], int)
    # Digits only: int() and float() also accept "1_0", " 1", "nan" and digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,10}" if whole else r"[0-9]{1,10}(\.[0-9]{1,6})?", text) or not (
        low <= float(text) <= high
    ):
        kind = "a whole number" if whole else "a number of at most six decimals"
        raise DataError(f"The phantom parameter {key} must be {kind} from {low} to {high}, but got {text!r}.")
    return int(text) if whole else float(text)


def _path(label: int, subtype: str, slide: str, sequence: int) -> str:
    """Return the path of an image in the folder structure of BreakHis."""
    name = breakhis.parse(f"SOB_{'BM'[label]}_{subtype}-14-{slide}-{MAGNIFICATION}-{sequence:03d}.png")
    names = {**breakhis.BENIGN_SUBTYPES, **breakhis.MALIGNANT_SUBTYPES}
    folder = names[subtype].replace(" ", "_").replace("tumour", "tumor")  # spelling of BreakHis
    slide_folder = name.slide_key.replace("-", "_", 1)  # in BreakHis, only folder names have this form
    return (
        f"histology_slides/breast/{CLASS_NAMES[label]}/SOB/{folder}/{slide_folder}/"
        f"{breakhis.magnification_key(MAGNIFICATION)}/{name.file_name}"
    )


def _fill(folder: Path, parameters: Parameters, progress: Progress | None) -> None:
    planned = list_images(parameters)

    def save(image: SyntheticImage) -> None:
        file = folder / image.path
        file.parent.mkdir(parents=True, exist_ok=True)
        # Without compression, files do not depend on the zlib build, and reading takes half the time.
        Image.fromarray(draw_image(parameters, image)).save(file, compress_level=0)

    pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    try:
        for done, _ in enumerate(pool.map(save, planned), start=1):  # re-raises errors of the threads
            if progress is not None:
                progress(done, len(planned))
    finally:
        pool.shutdown(cancel_futures=True)  # skip the remaining images after an error or Ctrl-C
