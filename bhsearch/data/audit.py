"""The audit: duplicates, contradictions, and what would leak across a split that is not made by group."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bhsearch.data.grouping import merge_groups, sealed_part, spellings
from bhsearch.data.index import CLASS_NAMES
from bhsearch.data.layouts import breakhis
from bhsearch.data.layouts.naming import shown
from bhsearch.text import listed

if TYPE_CHECKING:
    import pandas as pd

    from bhsearch.data.index import BadFile, Index

Sets = tuple[tuple[str, ...], ...]
TOLD = ("error", "merged", "duplicate")
_BAD, _SAME_BYTES = "Files that could not be read", "Sets of files identical byte for byte"
_MERGED = "Groups merged from several cases"
_NARROW = 0.1  # share of the range of its samples below which an image is suspicious
NARROW = "Images that use less than a tenth of the range of their samples, and may be much too dark"
PAGES = "Files of several pages or frames, of which one is read"


@dataclass(frozen=True)
class Audit:
    """What is odd about a data set. Sets of images are tuples of paths, sorted.

    Attributes:
        name: Of the data set.
        synthetic: Whether the images are drawn by a program.
        has_cases: Whether the cases are known; if not, nothing here can rule out a leak.
        n_images: Images that were read.
        n_cases: Cases, as the names have them.
        n_slides: Slides; 0 where none are known.
        n_groups: Cases after merging those that share an image.
        identical_bytes: Sets of files that are equal byte for byte.
        identical_pixels_within_case: Sets of images of one case with the same pixels, equal bytes included.
        identical_pixels_across_cases: Sets of images of several cases with the same pixels.
        identical_pixels_across_parts: Sets of images with the same pixels, in the part that is the test and outside it.
        identical_pixels_both_labels: Sets of images with the same pixels that are called benign and malignant.
        merged_groups: Cases, where several make one group.
        groups_across_parts: Cases of each group that has images in the part that is the test and outside it.
        cases_with_several_subtypes: Case and its subtypes.
        cases_with_both_labels: Cases with benign and malignant images.
        siblings: Case and its slides, where a split by slide would separate them.
        cases_of_one_image: Cases that are a single image; empty where cases are unknown.
        bad: Files that were left out.
        count_differences: Sentences on published counts, for BreakHis.
        spellings: Sets of cases whose names are spellings of one name; grouping keeps them together.
        narrow_ranges: Images that use less than a tenth of the range of their samples, and the share that they use; as
            camera values of 12 bits do in a file of 16, which come out almost black.
        pages_left_out: Files of several pages or frames, of which one is read, and the number of the others.
    """

    name: str
    synthetic: bool
    has_cases: bool
    n_images: int
    n_cases: int
    n_slides: int
    n_groups: int
    identical_bytes: Sets
    identical_pixels_within_case: Sets
    identical_pixels_across_cases: Sets
    identical_pixels_across_parts: Sets
    identical_pixels_both_labels: Sets
    merged_groups: Sets
    groups_across_parts: Sets
    cases_with_several_subtypes: dict[str, tuple[str, ...]]
    cases_with_both_labels: tuple[str, ...]
    siblings: dict[str, tuple[str, ...]]
    cases_of_one_image: tuple[str, ...]
    bad: tuple[BadFile, ...]
    count_differences: tuple[str, ...]
    spellings: Sets = ()
    narrow_ranges: dict[str, float] = field(default_factory=dict)
    pages_left_out: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return asdict(self)

    def findings(self) -> list[AuditFinding]:
        """What a person should know, worst first; nothing that is in order is listed."""
        bad = [f"{file.path}: {file.reason}" for file in self.bad]
        candidates = [
            AuditFinding(
                "leak",
                "Groups of cases both in the data's own test part and outside it",
                _joined(self.groups_across_parts),
            ),
            AuditFinding(
                "leak",
                "Pictures both in the data's own test part and outside it",
                _paths(self.identical_pixels_across_parts),
            ),
            AuditFinding(
                "error", "Pictures called both benign and malignant", _paths(self.identical_pixels_both_labels)
            ),
            AuditFinding("error", "Cases in several spellings, kept together as one", _joined(self.spellings)),
            AuditFinding("error", _BAD, bad),
            AuditFinding("merged", "Pictures shared by several cases", _paths(self.identical_pixels_across_cases)),
            AuditFinding("merged", _MERGED, _joined(self.merged_groups)),
            AuditFinding(
                "siblings", "Cases of several slides, which a split by slide separates", _keyed(self.siblings)
            ),
            AuditFinding("note", "Cases filed under several subtypes", _keyed(self.cases_with_several_subtypes)),
            AuditFinding("note", "Cases with both benign and malignant images", list(self.cases_with_both_labels)),
            AuditFinding("duplicate", _SAME_BYTES, _paths(self.identical_bytes)),
            AuditFinding("duplicate", "Pictures repeated within a case", _paths(self.identical_pixels_within_case)),
            AuditFinding("note", "Cases of a single image", list(self.cases_of_one_image)),
            AuditFinding("note", "Differences from the published counts", list(self.count_differences)),
            AuditFinding("note", NARROW, [f"{path}: {share:.1%}" for path, share in self.narrow_ranges.items()]),
            AuditFinding("note", PAGES, [f"{path}: {n:,} not read" for path, n in self.pages_left_out.items()]),
        ]
        return [finding for finding in candidates if finding.examples]

    def summary_lines(self) -> list[str]:
        """The findings that stand beside the results, too, a sentence each.

        These are the ones with a weight of `TOLD`, and images that were read, but perhaps not as they were meant. Left
        out are those that another sentence implies: files that could not be read are counted elsewhere, equal bytes are
        equal pictures, and groups are merged for shared pictures or spellings. A leak ends the command, unless the
        division is made anew.
        """
        quiet = (_BAD, _SAME_BYTES, _MERGED)
        return [
            f.sentence
            for f in self.findings()
            if (f.weight in TOLD or f.what in (NARROW, PAGES)) and f.what not in quiet
        ]

    def head(self) -> list[str]:
        """How much there is, and what must be said beside every number of it."""
        slides = f", {self.n_slides:,} slides" if self.n_slides else ""
        head = [f"{self.name}: {self.n_images:,} images, {self.n_cases:,} cases{slides}, {self.n_groups:,} groups."]
        if self.synthetic:
            head.append("The data are synthetic: drawn by a program, not taken from tissue.")
        if not self.has_cases:
            head.append("The cases are unknown: each image is its own, so no split keeps a patient on one side.")
        return head

    def lines(self, most: int = 5) -> list[str]:
        """The audit as plain lines, at most `most` examples of each finding, then a count of the rest."""
        lines = self.head()
        for finding in self.findings():
            lines += [finding.title, *listed(finding.examples, most).splitlines()]
        return lines if self.findings() else [*lines, "Nothing odd was found."]


@dataclass(frozen=True)
class AuditFinding:
    """One kind of oddity.

    Attributes:
        weight: `leak` (a test would be worthless), `error` (the data are wrong), `merged` and `siblings` (grouping
            keeps them together), `duplicate` (they count once more than they should), or `note`.
        what: What there are, in the plural.
        examples: All of them, one a line.
    """

    weight: str
    what: str
    examples: list[str]

    @property
    def title(self) -> str:
        """Weight, kind and count in one line."""
        return f"{self.weight}: {self.what}: {len(self.examples):,}"

    @property
    def sentence(self) -> str:
        """Kind, count and the first example, for where the whole list has no room."""
        return f"{self.what}: {len(self.examples):,}, such as {self.examples[0]}."


def _with_groups(index: Index) -> pd.DataFrame:
    groups = merge_groups(index.column("case"), index.column("pixels_digest"), by_spelling=index.has_cases)
    return index.table.assign(group=groups)


def counts(index: Index) -> dict[str, Any]:
    """How many images, cases, slides and groups there are, in types that JSON has.

    A case or group with both labels is counted in both classes, and once in `all`; `slides` is 0 where none are known.
    """
    table = _with_groups(index)
    masks = {"all": table["label"] >= 0} | {name: table["label"] == at for at, name in enumerate(CLASS_NAMES)}

    def numbers(rows: pd.DataFrame) -> dict[str, int]:
        slides = rows.loc[rows["slide"] != "", "slide"].nunique()
        return {
            "images": len(rows),
            "cases": rows["case"].nunique(),
            "slides": slides,
            "groups": rows["group"].nunique(),
        }

    def images_by(column: str) -> dict[str, dict[str, int]]:
        known = table[table[column] != ""]
        lowest = known.groupby(column)["label"].min()
        # Benign subtypes first; a shorter value first, so that 40X comes before 100X.
        values = sorted(lowest.index, key=lambda value: (lowest[value], len(value), value))
        crossed = known.groupby([column, "label"]).size()
        rows = {}
        for value in values:
            row = {name: int(crossed.get((value, at), 0)) for at, name in enumerate(CLASS_NAMES)}
            rows[value] = row | {"all": sum(row.values())}
        return rows

    return {
        "name": index.name,
        "root": str(index.root),
        "layout": index.layout,
        "synthetic": index.synthetic,
        "has_cases": index.has_cases,
        "fingerprint": index.fingerprint,
        "classes": {name: numbers(table[mask]) for name, mask in masks.items()},
        "subtypes": images_by("subtype"),
        "magnifications": images_by("magnification"),
        "parts": images_by("part"),
        "bad": [asdict(file) for file in index.bad],
        "left_out": [asdict(item) for item in index.left_out],
        "notes": list(index.notes),
    }


def audit(index: Index) -> Audit:
    """Look for duplicates, contradictions and leaks in an index. Opens no image."""
    table = _with_groups(index)
    twins = table[table["pixels_digest"].duplicated(keep=False)]
    sided = table.assign(side=table["part"] == sealed_part(index)) if sealed_part(index) else table.assign(side=False)
    torn = table[table["group"].astype(str).isin(list(_several(sided, "group", "side")))]
    is_breakhis = index.layout == "breakhis" and not index.synthetic  # the phantom borrows the names only
    return Audit(
        name=index.name,
        synthetic=index.synthetic,
        has_cases=index.has_cases,
        n_images=len(table),
        n_cases=table["case"].nunique(),
        n_slides=table.loc[table["slide"] != "", "slide"].nunique(),
        n_groups=table["group"].nunique(),
        identical_bytes=_sorted_sets(_several(table, "bytes_digest", "path").values()),
        identical_pixels_within_case=_within_case(twins),
        identical_pixels_across_cases=_sets_that_differ(twins, "case"),
        identical_pixels_across_parts=_sets_that_differ(sided.loc[twins.index], "side"),
        identical_pixels_both_labels=_sets_that_differ(twins, "label"),
        merged_groups=_sorted_sets(_several(table, "group", "case").values()),
        groups_across_parts=_sorted_sets(tuple(set(cases)) for _, cases in torn.groupby("group")["case"]),
        cases_with_several_subtypes=_several(table[table["subtype"] != ""], "case", "subtype"),
        cases_with_both_labels=tuple(_several(table, "case", "label")),
        siblings=_several(table[table["slide"] != ""], "case", "slide"),
        cases_of_one_image=_cases_of_one_image(table) if index.has_cases else (),
        bad=index.bad,
        count_differences=tuple(breakhis.compare_counts(index)) if is_breakhis else (),
        spellings=tuple(spellings(index.column("case"))) if index.has_cases else (),
        narrow_ranges={path: used for path in table["path"] if (used := index.range_used.get(path, 1.0)) < _NARROW},
        pages_left_out={path: n for path in table["path"] if (n := index.pages_left_out.get(path, 0))},
    )


def _several(table: pd.DataFrame, by: str, of: str) -> dict[str, tuple[str, ...]]:
    """Keys of the column `by` that have several values of the column `of`, with those values; both sorted."""
    pairs = table[[by, of]].drop_duplicates()
    found: dict[str, list[str]] = {}
    for key, value in pairs[pairs[by].duplicated(keep=False)].itertuples(index=False):
        found.setdefault(str(key), []).append(str(value))
    return {key: tuple(sorted(found[key])) for key in sorted(found)}


def _sets_that_differ(table: pd.DataFrame, column: str) -> Sets:
    """Sets of images with the same pixels that differ in a column."""
    differing = table[table["pixels_digest"].isin(list(_several(table, "pixels_digest", column)))]
    return _sorted_sets(_several(differing, "pixels_digest", "path").values())


def _within_case(table: pd.DataFrame) -> Sets:
    twins = table[table.duplicated(["case", "pixels_digest"], keep=False)]
    sets: dict[tuple[str, str], list[str]] = {}
    for case, digest, path in twins[["case", "pixels_digest", "path"]].itertuples(index=False):
        sets.setdefault((case, digest), []).append(path)
    return _sorted_sets(tuple(paths) for paths in sets.values())


def _cases_of_one_image(table: pd.DataFrame) -> tuple[str, ...]:
    n_images = table["case"].value_counts()
    return tuple(sorted(n_images.index[n_images == 1]))


def _sorted_sets(sets: Iterable[tuple[str, ...]]) -> Sets:
    return tuple(sorted(tuple(sorted(paths)) for paths in sets))


def _joined(sets: Sets) -> list[str]:
    return [" = ".join(map(shown, members)) for members in sets]


def _paths(sets: Sets) -> list[str]:
    """Sets of files, what their folders have in common said once."""
    lines = []
    for paths in sets:
        common = posixpath.commonpath([posixpath.dirname(path) for path in paths])
        inside = " = ".join(path[len(common) :].lstrip("/") for path in paths)
        lines.append(f"{inside} (in {common})" if common else inside)
    return lines


def _keyed(values: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"{key}: {', '.join(members)}" for key, members in values.items()]
