"""Interpretation of names: different spellings of one name, placeholders for unknown names, and names of parts."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)

_CACHED = 1 << 14  # maximum number of cached results; many images share the names of folders and cases

_PART_WORDS = {
    **dict.fromkeys(("train", "trains", "training", "trainings"), TRAIN),
    **dict.fromkeys(("val", "vals", "valid", "validation", "validations", "validate", "validating"), VALIDATION),
    **dict.fromkeys(("test", "tests", "testing", "testings"), TEST),
}
_PART_WORD = re.compile(
    r"(?:(?:[0-9]+|data|dataset|images?)[ _.-]+)?(?P<word>[a-z]+?)"
    r"(?:[ _.-]*(?:sets?|data|dataset|daten|split|part|partition|fold|subset|phase|images?|imgs?))*"
)
_DIVISION = r"(?:k?folds?|cv|splits?|sets?|subsets?|parts?|partitions?|phases?)"
_DIVISION_WORD = re.compile(_DIVISION)
_PART_COLUMN_WORD = re.compile(r"trains?|training|tests?|testing|vals?|valid|validation|holdout|heldout")
_WORD_BESIDE = re.compile(
    r"data|datasets?|cross|k|is|in|id|ids|no|nr|num|number|index|name|official|original|predefined|default|my|[0-9]+"
)
_DIVISION_FOLDER = re.compile(
    rf"{_DIVISION}(?:[ _.-]*[0-9]{{1,3}}|[ _.-]+[a-z])|"
    r"(?:train|training|test|testing|val|valid|validation)[ _.-]*[0-9]{1,3}|"
    r"dev|development|eval|evaluation|hold[ _.-]?out|held[ _.-]?out|unseen|external|internal"
)

_PLACEHOLDERS = frozenset(
    {"na", "n a", "nan", "nat", "nil", "none", "null", "undefined", "undef", "unknown", "unknowns", "unk", "unbekannt"}
    | {"inconnu", "desconocido", "missing", "empty", "blank", "not available", "not applicable", "not known", "no case"}
    | {"no patient", "unknown case", "unknown patient", "patient unknown", "case unknown", "not provided", "tbd", "tba"}
    | {"anonymous", "anonymized", "anonymised", "anonym", "ref", "value", "name", "div 0", "num"}
)


@lru_cache(_CACHED)
def folded(name: str) -> str:
    """Return a name in a form for comparison: lower case, composed letters, no invisible characters or outer blanks."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf").strip()


def spelling_key(name: str) -> str:
    """Return a key that is the same for all spellings of a name.

    The key ignores letter case, composition of accented letters, leading zeros, `.0` at the end of a number, and
    punctuation or blanks between words and numbers: `Case_0012`, `case 12` and `CASE12` have the same key. Separate
    numbers are not joined: `1-2` and `12` have different keys.
    """
    text = folded(name)
    if re.fullmatch(r"[0-9]+\.0+", text):
        text = text.partition(".")[0]
    tokens = re.findall(r"[0-9]+|[^\W\d_]+|[^\W_]", text)
    return " ".join(token.lstrip("0") or "0" if token.isdecimal() else token for token in tokens) or text


@lru_cache(_CACHED)
def is_placeholder(name: str) -> bool:
    """Return whether a name is a placeholder for an unknown value: `nan`, `N/A`, `<NA>`, `-`, `?`, `unknown`, ..."""
    words = " ".join(re.findall(r"[^\W_]+", folded(name)))
    return not words or words in _PLACEHOLDERS


@lru_cache(_CACHED)
def is_rounded_number(name: str) -> bool:
    """Return whether a name is a number as spreadsheets round long ones, such as `1.23457E+11` or `1,2E+11`."""
    return bool(re.fullmatch(r"[0-9](?:[.,][0-9]+)?e\+[0-9]{1,3}", folded(name)))


@lru_cache(_CACHED)
def part_of(name: str) -> str | None:
    """Return the part that a name in any common spelling means: `train`, `validation` or `test`; otherwise None."""
    match = _PART_WORD.fullmatch(folded(name))
    return _PART_WORDS.get(match["word"]) if match else None


def is_part_column(name: str) -> bool:
    """Return whether a column name suggests a division of the data: `split`, `Fold`, `train_test_split`, ..."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    tokens = re.findall(r"[^\W\d_]+|[0-9]+", folded(spaced))
    rest = [token for token in tokens if not _DIVISION_WORD.fullmatch(token)]
    if len(rest) < len(tokens):
        return all(_PART_COLUMN_WORD.fullmatch(token) or _WORD_BESIDE.fullmatch(token) for token in rest)
    named = [token for token in rest if token not in ("is", "in")]
    return bool(named) and all(_PART_COLUMN_WORD.fullmatch(token) for token in named)


@lru_cache(_CACHED)
def is_division_folder(name: str) -> bool:
    """Return whether a folder name suggests a division other than train, validation and test: `fold1`, ..."""
    return bool(_DIVISION_FOLDER.fullmatch(folded(name)))


def shown(name: str) -> str:
    """Return a name for display, with escapes if it contains decomposed or invisible characters."""
    plain = name.isprintable() and unicodedata.normalize("NFC", name) == name
    return name if plain else ascii(name)[1:-1]
