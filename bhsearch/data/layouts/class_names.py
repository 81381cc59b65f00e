"""Class names of folders and labels: known names, user-defined names, and suggestions for unknown names."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bhsearch.config.parsing import PLUS
from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.data.layouts.naming import folded, is_division_folder, part_of
from bhsearch.errors import SettingsError
from bhsearch.text import named

_NUMBERS = {"0": 0, "1": 1}
# Words from which an error message derives suggestions. Images are never labelled by these words.
_BENIGN = re.compile(
    r"b|benigns?|benign[aeo]|bénigne?|benin|bénin|gutartige?|godartad|normals?|healthy|gesund|neg|negatives?|false|no|0"
)
_MALIGNANT = re.compile(
    r"m|malignants?|malign[aeo]?|malin|bösartige?|boesartige?|elakartad|cancers?|cancerous|tumou?rs?|tumou?rous|krebs|"
    r"carcinomas?|invasive|insitu|situ|idc|pos|positives?|true|yes|1"
)
_NOT = ("non", "no", "not", "ohne", "kein", "sans", "sin")


@dataclass(frozen=True)
class ClassMap:
    """Mapping from names of folders or labels to classes.

    Attributes:
        labels: Label (0 benign, 1 malignant) by folded name, see `naming.folded`.
        given: Whether the user gave a class map.
    """

    labels: dict[str, int]
    given: bool = False

    def label_of(self, name: str) -> int | None:
        """Return the label of a name, ignoring letter case and treating `1.0` as `1`; None for an unknown name."""
        key = folded(name)
        if key not in self.labels and re.fullmatch(r"[0-9]+\.0*", key):
            key = key.partition(".")[0]
        return self.labels.get(key)

    def names(self) -> str:
        """Return the known names, separated by commas, for messages."""
        return ", ".join(self.labels)


def folder_classes(pairs: Sequence[str] = ()) -> ClassMap:
    """Return the mapping for class folders: `benign`, `malignant` and the names of a class map.

    Args:
        pairs: Pairs `benign=NAME` or `malignant=NAME` with one name each, as in `Settings.class_map`.

    Raises:
        SettingsError: If a pair is malformed, or a name is given for both classes.
    """
    labels: dict[str, int] = {}
    for pair in pairs:
        word, sign, name = pair.partition("=")
        label = folded(word)
        if not sign or label not in CLASS_NAMES or not folded(name):
            raise SettingsError(
                f"--class-map must look like benign=normal,malignant=cancer+invasive, with {' or '.join(CLASS_NAMES)} "
                f"before each =, but got {pair!r}."
            )
        if labels.setdefault(folded(name), CLASS_NAMES.index(label)) != CLASS_NAMES.index(label):
            raise SettingsError(f"--class-map assigns {name!r} to both classes. Assign it to one of them.")
    for at, name in enumerate(CLASS_NAMES):
        labels.setdefault(name, at)
    return ClassMap(labels, bool(pairs))


def manifest_classes(pairs: Sequence[str] = ()) -> ClassMap:
    """Return the mapping for the labels of a manifest: the names of `folder_classes`, and by default also 0 and 1.

    If a class map is given, 0 and 1 are known only if the class map contains them. For example, in data with the labels
    1 and 2, a 0 would be a third class.

    Args:
        pairs: See `folder_classes`.

    Raises:
        SettingsError: See `folder_classes`.
    """
    found = folder_classes(pairs)
    return found if found.given else ClassMap({**_NUMBERS, **found.labels})


def map_advice(names: Iterable[str]) -> str:
    """Return a sentence that suggests a class map for names, such as `--class-map benign=normal,malignant=cancer`.

    A name that suggests no class is assigned to a class that has no name yet; further names without a suggestion are
    listed for the user to decide.
    """
    by_class: tuple[list[str], list[str]] = ([], [])
    unclear: list[str] = []
    names = sorted(names, key=lambda name: (len(name), name))
    numbers = [re.fullmatch(r"[^0-9]*([0-9]+)(?:\.0*)?", name) for name in names]
    for at, name in enumerate(names):
        guess = min(at, 1) if all(numbers) else _guess(name)  # for labels 1 and 2, the lower one is benign
        (unclear if guess is None else by_class[guess]).append(name)
    while unclear and not all(by_class):
        by_class[bool(by_class[0])].append(unclear.pop(0))
    both = list(zip(CLASS_NAMES, by_class, strict=True))
    if any("," in name or PLUS.search(name) for names in by_class for name in names):
        table = ", ".join(f"{word} = {json.dumps(found, ensure_ascii=False)}" for word, found in both)
        option = f"class_map = {{{table}}} in the file of --config"
    else:
        text = ",".join(f"{word}={'+'.join(found) or 'NAME'}" for word, found in both)
        option = f"--class-map {shlex.quote(text)}"
    rest = f"\nAdd {named(unclear, 12)} to a class, or remove it from the data." if unclear else ""
    return f"Map the names to classes, after checking this suggestion: {option}{rest}"


def _guess(name: str) -> int | None:
    """Return the label that a name suggests, to be checked by the user; None if it suggests no class or both."""
    text = re.sub(r"\+\W*$", " pos", re.sub(r"[-–]\W*$", " neg", folded(name)))
    words = [word for word in re.findall(r"[0-9]+|[^\W\d_]+", text) if word not in ("class", "label", "klasse", "type")]
    return _guess_words([part for word in words for part in re.sub(r"^non(?=..)", "non ", word).split()])


def _guess_words(words: list[str]) -> int | None:
    if len(words) > 1 and (words[0] in _NOT or words[-1] in ("free", "frei")):
        rest = _guess_words(words[1:] if words[0] in _NOT else words[:-1])
        return None if rest is None else 1 - rest
    for sign, label in (("neg", 0), ("negative", 0), ("pos", 1), ("positive", 1)):
        if sign in words:
            return label
    benign, malignant = (any(pattern.fullmatch(word) for word in words) for pattern in (_BENIGN, _MALIGNANT))
    return int(malignant) if benign != malignant else None


def class_like_folders(paths: Iterable[str]) -> list[str]:
    """Return the folder names that look most like classes, by decreasing number of images; empty if there are none.

    All names are from the same depth, counted from the top or the bottom of the tree. Depths with at most 12 different
    names are considered, and depths whose names suggest classes are preferred.
    """
    split = [path.split("/")[:-1] for path in paths]
    split = [[f for f in folders if not part_of(f) and not is_division_folder(f)] for folders in split]
    deepest = max(map(len, split), default=0)
    best: tuple[float, Counter[str]] = (0.0, Counter())
    for at in (*range(deepest), *range(-1, -deepest - 1, -1)):
        names = Counter(folders[at] for folders in split if -len(folders) <= at < len(folders))
        if not 1 <= len(names) <= 12:
            continue
        suggestive = sum(count for name, count in names.items() if _guess(name) is not None)
        value = names.total() / len(split) + 2 * suggestive / len(split) - 0.01 * len(names) - (len(names) == 1)
        if value > best[0]:
            best = (value, names)
    return [name for name, _ in best[1].most_common()]
