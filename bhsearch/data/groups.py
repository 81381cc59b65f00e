"""Groups: cases merged that share a picture or are spellings of one name, so that none is on two sides of a split."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from bhsearch.data.naming import spelling_key
from bhsearch.errors import DataError


def merge_groups(
    case: npt.NDArray[np.object_], pixels_digest: npt.NDArray[np.object_], *, by_spelling: bool = False
) -> npt.NDArray[np.int64]:
    """Number the groups of a data set: cases linked by pixel-identical images, directly or through other cases.

    Args:
        case: Case key per image. Shape (n_images,).
        pixels_digest: Digest of the decoded pixels per image. Shape (n_images,).
        by_spelling: Whether cases are also linked whose names are spellings of one name (`naming.spelling_key`), since
            they may be one patient. Not for keys that are paths.

    Returns:
        Group number per image, 0 to n_groups - 1, counted in the order of each group's smallest case key. It depends
        on which images there are, never on their order. Shape (n_images,).

    Raises:
        DataError: If the two arrays differ in length.
    """
    if len(case) != len(pixels_digest):
        raise DataError(f"every image needs a case and a digest, but got {len(case)} cases and {len(pixels_digest)}.")
    keys, case_number = np.unique(np.asarray(case, dtype=str), return_inverse=True)
    parent = list(range(len(keys)))

    def root_of(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first_with: dict[str, int] = {}
    for node, digest in zip(case_number.tolist(), pixels_digest.tolist(), strict=True):
        one, other = root_of(node), root_of(first_with.setdefault(digest, node))
        # `keys` is sorted, so the smaller number is the smaller key: it stays the root and names the group.
        parent[max(one, other)] = min(one, other)
    first_spelt: dict[str, int] = {}
    for node, key in enumerate(keys.tolist()) if by_spelling else ():
        one, other = root_of(node), root_of(first_spelt.setdefault(spelling_key(key), node))
        parent[max(one, other)] = min(one, other)
    roots = np.array([root_of(node) for node in range(len(keys))], dtype=np.int64)
    _, number = np.unique(roots, return_inverse=True)
    return number.astype(np.int64)[case_number]


def spellings(cases: Iterable[str]) -> list[tuple[str, ...]]:
    """The sets of names among some cases that are spellings of one name, each sorted."""
    by_key: dict[str, set[str]] = {}
    for case in set(cases):
        by_key.setdefault(spelling_key(case), set()).add(case)
    return sorted(tuple(sorted(names)) for names in by_key.values() if len(names) > 1)
