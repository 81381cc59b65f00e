"""Audit a data set for duplicates, contradictory labels, and leaks across splits that do not keep groups together."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.data.grouping import merge_groups, sealed_part, spellings
from bhsearch.data.layouts import breakhis
from bhsearch.data.layouts.naming import shown
from bhsearch.text import listed, plural

if TYPE_CHECKING:
    import pandas as pd

    from bhsearch.data.dataset import BadFile, Dataset, LeftOut

Sets = tuple[tuple[str, ...], ...]
SUMMARY_SEVERITIES = ("error", "merged", "duplicate")
UNREADABLE, _SAME_BYTES = "Files that could not be read", "Sets of byte-identical files"
_MERGED = "Groups merged from several cases"
_NARROW_SHARE = 0.1  # share of the sample range below which an image is suspicious
NARROW = "Images that use less than a tenth of their sample range and may be much too dark"
PAGES = "Files with several pages or frames, of which one is read"


@dataclass(frozen=True)
class Audit:
    """Findings of the audit of a data set. A set of images is a sorted tuple of paths.

    Attributes:
        name: Name of the data set.
        synthetic: Whether the images are synthetic instead of photographs of tissue.
        has_cases: Whether the cases are known. If not, no split can rule out a leak.
        n_images: Number of images that were read.
        n_cases: Number of different case names.
        n_slides: Number of slides; 0 if slides are unknown.
        n_groups: Number of groups. A group consists of cases that share an image or a name in different spellings.
        identical_bytes: Sets of byte-identical files.
        identical_pixels_within_case: Sets of pixel-identical images of one case, byte-identical files included.
        identical_pixels_across_cases: Sets of pixel-identical images that belong to several cases.
        identical_pixels_across_parts: Sets of pixel-identical images inside and outside the predefined test part.
        identical_pixels_both_labels: Sets of pixel-identical images with both labels.
        merged_groups: Cases of each group that consists of several cases.
        groups_across_parts: Cases of each group with images inside and outside the predefined test part.
        cases_with_several_subtypes: Subtypes by case, for cases with several subtypes.
        cases_with_both_labels: Cases with benign and malignant images.
        siblings: Slides by case, for cases with several slides. A split by slide could separate them.
        cases_of_one_image: Cases with a single image; empty if cases are unknown.
        bad: Unreadable files that were skipped.
        count_differences: Sentences about differences from the published counts of BreakHis.
        spellings: Sets of case names that are different spellings of one name. Grouping keeps these cases together.
        narrow_ranges: Used share of the sample range by path, for images that use less than a tenth of the range. An
            example is an image with 12-bit camera values in a 16-bit file, which looks almost black.
        pages_left_out: Number of pages or frames that were not read, by path.
        left_out: Numbers of files in the folder that are not images of the data set.
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
    left_out: tuple[LeftOut, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as a JSON-able dictionary."""
        return asdict(self)

    def findings(self) -> list[AuditFinding]:
        """Return the non-empty findings, most severe first."""
        bad = [f"{file.path}: {file.reason}" for file in self.bad]
        candidates = [
            AuditFinding(
                "leak",
                "Groups of cases inside and outside the predefined test part",
                _joined(self.groups_across_parts),
            ),
            AuditFinding(
                "leak",
                "Images inside and outside the predefined test part",
                _paths(self.identical_pixels_across_parts),
            ),
            AuditFinding(
                "error", "Images labelled both benign and malignant", _paths(self.identical_pixels_both_labels)
            ),
            AuditFinding("error", "Cases with several spellings, kept together", _joined(self.spellings)),
            AuditFinding("error", UNREADABLE, bad),
            AuditFinding("merged", "Images shared by several cases", _paths(self.identical_pixels_across_cases)),
            AuditFinding("merged", _MERGED, _joined(self.merged_groups)),
            AuditFinding(
                "siblings", "Cases with several slides, which a split by slide separates", _keyed(self.siblings)
            ),
            AuditFinding("note", "Cases with several subtypes", _keyed(self.cases_with_several_subtypes)),
            AuditFinding("note", "Cases with both benign and malignant images", list(self.cases_with_both_labels)),
            AuditFinding("duplicate", _SAME_BYTES, _paths(self.identical_bytes)),
            AuditFinding("duplicate", "Images repeated within a case", _paths(self.identical_pixels_within_case)),
            AuditFinding("note", "Cases with a single image", list(self.cases_of_one_image)),
            AuditFinding("note", "Differences from the published counts", list(self.count_differences)),
            AuditFinding("note", NARROW, [f"{path}: {share:.1%}" for path, share in self.narrow_ranges.items()]),
            AuditFinding(
                "note",
                "Kinds of files that are left out",
                [f"{plural(item.count, f'{item.suffix} file')}: {item.reason}" for item in self.left_out],
            ),
            AuditFinding("note", PAGES, [f"{path}: {n:,} not read" for path, n in self.pages_left_out.items()]),
        ]
        return [finding for finding in candidates if finding.examples]

    def summary_lines(self) -> list[str]:
        """Return the findings to show with every result, one sentence each.

        Included are findings with a severity in `SUMMARY_SEVERITIES`, and images that may have been read incorrectly.
        Findings that follow from other information are left out: unreadable files are counted elsewhere, byte-identical
        files are also pixel-identical images, and groups are merged because of shared images or spellings. Leaks are
        left out because they end the command unless the predefined split is ignored.
        """
        implied = (UNREADABLE, _SAME_BYTES, _MERGED)
        return [
            f.sentence
            for f in self.findings()
            if (f.severity in SUMMARY_SEVERITIES or f.what in (NARROW, PAGES)) and f.what not in implied
        ]

    def head(self) -> list[str]:
        """Return lines on the size of the data set and the caveats that apply to all of its results."""
        counted = [plural(self.n_images, "image"), plural(self.n_cases, "case")]
        counted += [plural(self.n_slides, "slide")] if self.n_slides else []
        head = [f"{self.name}: {', '.join(counted)}, {plural(self.n_groups, 'group')}."]
        if self.synthetic:
            head.append("The data are synthetic: drawn by a program, not photographed from tissue.")
        if not self.has_cases:
            head.append(
                "The cases are unknown: each image is its own case, so no split keeps a patient's images together."
            )
        return head

    def lines(self, most: int = 5) -> list[str]:
        """Return the audit as lines of plain text.

        Args:
            most: Maximum number of examples per finding; further examples are only counted.
        """
        lines = self.head()
        for finding in self.findings():
            lines += [finding.title, *listed(finding.examples, most).splitlines()]
        return lines if self.findings() else [*lines, "No findings."]


@dataclass(frozen=True)
class AuditFinding:
    """Finding of one kind with all of its occurrences.

    Attributes:
        severity: `leak` (test results would be invalid), `error` (the data are wrong), `merged` (cases that grouping
            merges), `siblings` (slides that grouping keeps together), `duplicate` (images that count more than once),
            or `note`.
        what: Kind of the finding, as a plural noun phrase.
        examples: All occurrences, one line each.
    """

    severity: str
    what: str
    examples: list[str]

    @property
    def title(self) -> str:
        """Severity, kind and count in one line."""
        return f"{self.severity}: {self.what}: {len(self.examples):,}"

    @property
    def sentence(self) -> str:
        """Kind, count and first example in one sentence."""
        return f"{self.what}: {len(self.examples):,}, such as {self.examples[0]}."


def _with_groups(dataset: Dataset) -> pd.DataFrame:
    groups = merge_groups(dataset.column("case"), dataset.column("pixels_digest"), by_spelling=dataset.has_cases)
    return dataset.table.assign(group=groups)


def counts(dataset: Dataset) -> dict[str, Any]:
    """Count images, cases, slides and groups by class, subtype, magnification, part and site, and describe image sizes.

    A case or group with both labels counts in each class, and once in `all`. `slides` is 0 if slides are unknown.

    Returns:
        A JSON-able dictionary.
    """
    table = _with_groups(dataset)
    masks = {"all": table["label"] >= 0} | {name: table["label"] == at for at, name in enumerate(dataset.class_names)}

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
        # Benign subtypes come first; shorter values come first, so that 40X precedes 100X.
        values = sorted(lowest.index, key=lambda value: (lowest[value], len(value), value))
        crossed = known.groupby([column, "label"]).size()
        rows = {}
        for value in values:
            row = {name: int(crossed.get((value, at), 0)) for at, name in enumerate(dataset.class_names)}
            rows[value] = row | {"all": sum(row.values())}
        return rows

    return {
        "name": dataset.name,
        "root": str(dataset.root),
        "layout": dataset.layout,
        "synthetic": dataset.synthetic,
        "has_cases": dataset.has_cases,
        "fingerprint": dataset.fingerprint,
        "classes": {name: numbers(table[mask]) for name, mask in masks.items()},
        "subtypes": images_by("subtype"),
        "magnifications": images_by("magnification"),
        "parts": images_by("part"),
        "sites": images_by("site"),
        "sizes": _sizes(dataset),
        "bad": [asdict(file) for file in dataset.bad],
        "left_out": [asdict(item) for item in dataset.left_out],
        "notes": list(dataset.notes),
    }


def _sizes(dataset: Dataset) -> dict[str, Any]:
    """Return the spread of the image sizes in pixels, and the number of different sizes."""
    sizes = [dataset.sizes[path] for path in dataset.table["path"] if path in dataset.sizes]
    if not sizes:
        return {}
    heights, widths = np.array(sizes).T
    spread = {
        name: {"smallest": int(side.min()), "median": int(np.median(side)), "largest": int(side.max())}
        for name, side in (("width", widths), ("height", heights))
    }
    return {**spread, "different": len(set(sizes))}


def describe_sizes(sizes: Mapping[str, Any]) -> str:
    """Return the spread of image sizes, from `counts`, as a sentence."""
    if not sizes:
        return ""
    smallest, median, largest = (
        f"{sizes['width'][name]:,} x {sizes['height'][name]:,}" for name in ("smallest", "median", "largest")
    )
    if sizes["different"] == 1:
        return f"Image size, width x height: {median} px"
    return (
        f"Image sizes, width x height: {smallest} to {largest} px, median {median} px, "
        f"{sizes['different']:,} different sizes"
    )


def audit(dataset: Dataset) -> Audit:
    """Audit a data set without opening its images."""
    table = _with_groups(dataset)
    duplicates = table[table["pixels_digest"].duplicated(keep=False)]
    sided = (
        table.assign(side=table["part"] == sealed_part(dataset)) if sealed_part(dataset) else table.assign(side=False)
    )
    across = table[table["group"].astype(str).isin(list(_several(sided, "group", "side")))]
    is_breakhis = dataset.layout == "breakhis" and not dataset.synthetic  # the phantom only has BreakHis file names
    return Audit(
        name=dataset.name,
        synthetic=dataset.synthetic,
        has_cases=dataset.has_cases,
        n_images=len(table),
        n_cases=table["case"].nunique(),
        n_slides=table.loc[table["slide"] != "", "slide"].nunique(),
        n_groups=table["group"].nunique(),
        identical_bytes=_sorted_sets(_several(table, "bytes_digest", "path").values()),
        identical_pixels_within_case=_within_case(duplicates),
        identical_pixels_across_cases=_sets_that_differ(duplicates, "case"),
        identical_pixels_across_parts=_sets_that_differ(sided.loc[duplicates.index], "side"),
        identical_pixels_both_labels=_sets_that_differ(duplicates, "label"),
        merged_groups=_sorted_sets(_several(table, "group", "case").values()),
        groups_across_parts=_sorted_sets(tuple(set(cases)) for _, cases in across.groupby("group")["case"]),
        cases_with_several_subtypes=_several(table[table["subtype"] != ""], "case", "subtype"),
        cases_with_both_labels=tuple(_several(table, "case", "label")),
        siblings=_several(table[table["slide"] != ""], "case", "slide"),
        cases_of_one_image=_cases_of_one_image(table) if dataset.has_cases else (),
        bad=dataset.bad,
        count_differences=tuple(breakhis.compare_counts(dataset)) if is_breakhis else (),
        spellings=tuple(spellings(dataset.column("case"))) if dataset.has_cases else (),
        narrow_ranges={
            path: used for path in table["path"] if (used := dataset.range_used.get(path, 1.0)) < _NARROW_SHARE
        },
        pages_left_out={path: n for path in table["path"] if (n := dataset.pages_left_out.get(path, 0))},
        left_out=dataset.left_out,
    )


def _several(table: pd.DataFrame, by: str, of: str) -> dict[str, tuple[str, ...]]:
    """Return the sorted values of the column `of` by key of the column `by`, for keys with several values."""
    pairs = table[[by, of]].drop_duplicates()
    found: dict[str, list[str]] = {}
    for key, value in pairs[pairs[by].duplicated(keep=False)].itertuples(index=False):
        found.setdefault(str(key), []).append(str(value))
    return {key: tuple(sorted(found[key])) for key in sorted(found)}


def _sets_that_differ(table: pd.DataFrame, column: str) -> Sets:
    """Return the sets of pixel-identical images whose values in a column differ."""
    differing = table[table["pixels_digest"].isin(list(_several(table, "pixels_digest", column)))]
    return _sorted_sets(_several(differing, "pixels_digest", "path").values())


def _within_case(table: pd.DataFrame) -> Sets:
    duplicates = table[table.duplicated(["case", "pixels_digest"], keep=False)]
    sets: dict[tuple[str, str], list[str]] = {}
    for case, digest, path in duplicates[["case", "pixels_digest", "path"]].itertuples(index=False):
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
    """Format sets of paths, with the common folder written once per set."""
    lines = []
    for paths in sets:
        common = posixpath.commonpath([posixpath.dirname(path) for path in paths])
        inside = " = ".join(path[len(common) :].lstrip("/") for path in paths)
        lines.append(f"{inside} (in {common})" if common else inside)
    return lines


def _keyed(values: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"{key}: {', '.join(members)}" for key, members in values.items()]
