"""Groups: cases that share a pixel-identical image, merged, so that no picture can lie on two sides of a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bhsearch.errors import DataError


def merge_groups(case: npt.NDArray[np.object_], pixels_digest: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Number the groups of a data set: cases linked by pixel-identical images, directly or through other cases.

    Args:
        case: Case key per image. Shape (n_images,).
        pixels_digest: Digest of the decoded pixels per image. Shape (n_images,).

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
    roots = np.array([root_of(node) for node in range(len(keys))], dtype=np.int64)
    _, number = np.unique(roots, return_inverse=True)
    return number.astype(np.int64)[case_number]
