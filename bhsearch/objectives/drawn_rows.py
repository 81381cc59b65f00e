"""The images on which heads with a hidden layer are trained if there are many: the same number of each case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.objectives.scoring import OutOfFoldScorer, ValidationFolds
from bhsearch.tasks import Task

MOST_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class DrawnRows:
    """Some images of a study, which represent all images of their cases.

    Attributes:
        rows: Indices of the images, in ascending order. Shape (n_drawn,).
        times: Number of images of the case that each image represents. Shape (n_drawn,).
        held_out: Training and validation images of each fold model among them.
        scorer: Scores of their out-of-fold predictions.
    """

    rows: npt.NDArray[np.intp]
    times: npt.NDArray[np.float64]
    held_out: ValidationFolds
    scorer: OutOfFoldScorer

    @classmethod
    def of(
        cls,
        label: npt.NDArray[np.int8],
        fold: npt.NDArray[np.int8],
        group: npt.NDArray[np.int64],
        held_out: ValidationFolds,
        task: Task,
        seed: int,
    ) -> DrawnRows | None:
        """Draw `MOST_ROWS` images; None if there are no more than that.

        Args:
            label: Class of each image, 0 or 1. Shape (n_images,).
            fold: Validation fold of each image in each repeat. Shape (n_repeats, n_images).
            group: Group number of each image. Shape (n_images,).
            held_out: Training and validation images of each fold model, made from `fold`.
            task: Task that names the score.
            seed: Random seed.
        """
        if len(label) <= MOST_ROWS:
            return None
        rows, times = draw_rows(group, MOST_ROWS, seed)
        folds = fold[:, rows]
        return cls(rows, times, type(held_out)(folds), OutOfFoldScorer(label[rows], folds, group[rows], task))


def draw_rows(
    group: npt.NDArray[np.int64], most: int, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Draw rows without replacement: all rows of small groups, and an equal number of each other group.

    Args:
        group: Group number of each row. Shape (n_rows,).
        most: Largest number of drawn rows; each group has at least one.
        seed: Random seed.

    Returns:
        Indices of the drawn rows in ascending order, and the number of rows of its group divided by that of the drawn
        ones, for each drawn row. Shape (n_drawn,) each.
    """
    _, number, sizes = np.unique(group, return_inverse=True, return_counts=True)
    quota = max((q for q in range(1, int(sizes.max()) + 1) if np.minimum(sizes, q).sum() <= most), default=1)
    order = np.random.default_rng(seed).permutation(len(group))
    order = order[np.argsort(number[order], kind="stable")]  # by group, shuffled within each
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the group
    rows = np.sort(order[place < quota])
    return rows, (sizes / np.minimum(sizes, quota))[number[rows]]
