"""Grammar of file names of the BreakHis data set, and the published numbers of images."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bhsearch.data.images.decode import IMAGE_SUFFIXES
from bhsearch.errors import DataError

if TYPE_CHECKING:
    from bhsearch.data.dataset import Dataset

GRAMMAR = "SOB_<B|M>_<subtype>-<year>-<slide id>-<magnification>-<sequence>.png"
BENIGN_SUBTYPES = {"A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes tumour", "TA": "tubular adenoma"}
MALIGNANT_SUBTYPES = {
    "DC": "ductal carcinoma",
    "LC": "lobular carcinoma",
    "MC": "mucinous carcinoma",
    "PC": "papillary carcinoma",
}
SUBTYPES = {**BENIGN_SUBTYPES, **MALIGNANT_SUBTYPES}
MAGNIFICATIONS = (40, 100, 200, 400)

N_IMAGES = 7_909
N_SLIDES = 82  # called patients in the paper; 12 of the slides are second slides of a case
N_CASES = 70

# Images per subtype, in the order of MAGNIFICATIONS. Source: Spanhol et al., "A Dataset for Breast Cancer
# Histopathological Image Classification", IEEE TBME 63(7), 2016.
PUBLISHED_COUNTS = {
    "A": (114, 113, 111, 106),
    "F": (253, 260, 264, 237),
    "PT": (109, 121, 108, 115),
    "TA": (149, 150, 140, 130),
    "DC": (864, 903, 896, 788),
    "LC": (156, 170, 163, 137),
    "MC": (205, 222, 196, 169),
    "PC": (145, 142, 135, 138),
}

_NAME = re.compile(
    r"SOB_(?P<letter>[BM])_(?P<subtype>[A-Z]+)-(?P<year>[0-9]{2})-(?P<number>[0-9]+)(?P<suffix>[A-Z]*)"
    r"-(?P<magnification>40|100|200|400)-(?P<sequence>[0-9]{3}|[1-9][0-9]{3,})"
    rf"(?i:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})"
)


@dataclass(frozen=True)
class BreakhisName:
    """Fields of a BreakHis file name.

    Attributes:
        label: 0 benign, 1 malignant.
        subtype: `A`, `F`, `PT` or `TA` (benign), `DC`, `LC`, `MC` or `PC` (malignant).
        year: Two digits, such as `14`.
        slide: Slide id including letters, such as `16184CD`; not unique, see `slide_key`.
        case: Slide id without letters, such as `16184`. All slides of a case are from one patient.
        magnification: 40, 100, 200 or 400.
        sequence: Number of the image among the images of the same slide and magnification.
    """

    label: int
    subtype: str
    year: str
    slide: str
    case: str
    magnification: int
    sequence: int

    @property
    def slide_key(self) -> str:
        """Unique key of the slide, such as `SOB_B_TA-14-16184CD`.

        Slide ids are not unique: 13412 is the id of a slide with subtype DC and of a slide with subtype LC.
        """
        return f"SOB_{'BM'[self.label]}_{self.subtype}-{self.year}-{self.slide}"

    @property
    def file_name(self) -> str:
        """File name in the original notation."""
        return f"{self.slide_key}-{self.magnification}-{self.sequence:03d}.png"


def looks_like(file_name: str) -> bool:
    """Return whether a file name starts like a BreakHis name, even if it breaks the grammar."""
    return file_name.upper().startswith("SOB_")


def parse(file_name: str) -> BreakhisName:
    """Parse a BreakHis file name.

    Args:
        file_name: File name without folders. Any image suffix is accepted, since images may have been converted to
            another format.

    Raises:
        DataError: If the name breaks the grammar, or the subtype does not belong to the class.
    """
    match = _NAME.fullmatch(file_name)
    if match is None or match["subtype"] not in (BENIGN_SUBTYPES, MALIGNANT_SUBTYPES)["BM".index(match["letter"])]:
        raise DataError(f"{file_name!r} is not a BreakHis file name. {grammar_hint()}")
    return BreakhisName(
        label="BM".index(match["letter"]),
        subtype=match["subtype"],
        year=match["year"],
        slide=match["number"] + match["suffix"],
        case=match["number"],
        magnification=int(match["magnification"]),
        sequence=int(match["sequence"]),
    )


def grammar_hint() -> str:
    """Return a sentence that explains the grammar of BreakHis names."""
    return (
        f"BreakHis names are {GRAMMAR} with subtypes {', '.join(BENIGN_SUBTYPES)} (B) or "
        f"{', '.join(MALIGNANT_SUBTYPES)} (M) and magnifications {', '.join(map(str, MAGNIFICATIONS))}."
    )


def spelt_out(subtype: str) -> str:
    """Return the name and code of a subtype, such as `ductal carcinoma (DC)`; unknown codes are returned unchanged."""
    return f"{SUBTYPES[subtype]} ({subtype})" if subtype in SUBTYPES else subtype


def magnification_key(magnification: int) -> str:
    """Return the value of the column `magnification` of a data set, such as `40X`."""
    return f"{magnification}X"


def compare_counts(dataset: Dataset) -> list[str]:
    """Compare the numbers of images per magnification and subtype with the published numbers.

    Returns:
        One sentence per magnification whose numbers differ, and one sentence that lists missing magnifications. Empty
        if all numbers agree.
    """
    here = Counter(zip(dataset.column("magnification"), dataset.column("subtype"), strict=True))
    sentences, missing = [], []
    for at, magnification in enumerate(MAGNIFICATIONS):
        key = magnification_key(magnification)
        counts = {subtype: here[key, subtype] for subtype in PUBLISHED_COUNTS}
        published = {subtype: row[at] for subtype, row in PUBLISHED_COUNTS.items()}
        if not any(counts.values()):
            missing.append(key)
        elif counts != published:
            sentences.append(f"{key}: {_classes(counts)} here, {_classes(published)} published")
            if _classes(counts) == _classes(published):
                which = [f"{s} {counts[s]} instead of {published[s]}" for s in counts if counts[s] != published[s]]
                sentences[-1] += f", but by subtype {', '.join(which)}"
            sentences[-1] += "."
    if missing:
        sentences.append(f"{', '.join(missing)}: no images here.")
    return sentences


def _classes(counts: dict[str, int]) -> str:
    benign, malignant = (sum(counts[subtype] for subtype in names) for names in (BENIGN_SUBTYPES, MALIGNANT_SUBTYPES))
    return f"{benign:,} benign and {malignant:,} malignant"
