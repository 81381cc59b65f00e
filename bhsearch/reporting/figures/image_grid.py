"""The grid of correctly and wrongly classified images: selection of the images, and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bhsearch.reporting.figures.palette import RIGHT, WRONG
from bhsearch.reporting.figures.picture import FRAME, MARGIN, Picture, Tile, Words
from bhsearch.reporting.figures.thumbnails import encode_image
from bhsearch.reporting.svg.elements import SIZE
from bhsearch.reporting.svg.text_width import shortened

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import IntArray, Predictions
    from bhsearch.evaluation.thresholds import HardLabels
    from bhsearch.tasks.base import Task

OUT_OF_FOLD = "out-of-fold, first repeat, one image a case where possible"
N_COLUMNS = 4
_TILE, _GAP = 136.0, 18.0  # side of an image, and distance of two images, in units
_CELL = (_TILE + 42.0, _TILE + _GAP)  # height and width of an image with its caption
_KEYS = 26.0  # height of the keys of the colours
_MOST_PIXELS = 144  # largest side of an embedded image; larger ones are reduced
_QUALITY = 80  # of JPEG: half the size of 90, and nuclei stay visible
_LONGEST_CASE = 20  # characters


@dataclass(frozen=True)
class Example:
    """An image selected for the grid.

    Attributes:
        row: Row of the image in the predictions.
        correct: Whether the predicted label is correct.
        caption: Probability, true label and case.
    """

    row: int
    correct: bool
    caption: str


def pick_examples(predictions: Predictions, decisions: HardLabels, task: Task, n_images: int = 16) -> list[Example]:
    """Return the most confidently correct and the most confidently wrong predictions of the first repeat.

    If possible, the examples are divided equally between four kinds: correctly and wrongly classified images of each
    class. Within a kind, images farthest from their threshold come first, and a second image of a case is chosen only
    after one of every case.

    Args:
        predictions: Out-of-fold predictions.
        decisions: Predicted labels of the same images.
        task: Task with the class names.
        n_images: Largest number of examples.

    Returns:
        At most `n_images` examples: correctly classified images first, and benign before malignant ones.
    """
    correct = decisions.predicted[0] == predictions.label
    margin = np.abs(predictions.probability[0] - decisions.threshold[0][predictions.fold[0]])
    kinds = [
        _clearest(predictions, margin, (correct == good) & (predictions.label == value))
        for good in (True, False)
        for value in (0, 1)
    ]
    take = _fair_shares([len(kind) for kind in kinds], n_images)
    return [
        Example(int(row), bool(correct[row]), _caption(predictions, int(row), task))
        for kind, count in zip(kinds, take, strict=True)
        for row in kind[:count]
    ]


def _clearest(predictions: Predictions, margin: npt.NDArray[np.floating], inside: npt.NDArray[np.bool_]) -> IntArray:
    """Return the rows of one kind of image: the most confident image of every case, then each second one, and so on.

    Args:
        predictions: Predictions.
        margin: Distance of each probability to the threshold. Shape (n_images,).
        inside: Whether each image is of this kind. Shape (n_images,).
    """
    rows = np.flatnonzero(inside)
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    seen: dict[int, int] = {}
    turn = np.zeros(len(rows), dtype=np.int64)
    for place, group in enumerate(predictions.group[rows].tolist()):
        turn[place] = seen[group] = seen.get(group, -1) + 1
    return rows[np.argsort(turn, kind="stable")]


def _fair_shares(available: Sequence[int], total: int) -> list[int]:
    """Distribute `total` places over kinds of images in turn.

    Args:
        available: Number of images of each kind.
        total: Number of places.

    Returns:
        Number of places of each kind, at most the number of its images.
    """
    shares = [0] * len(available)
    while sum(shares) < min(total, sum(available)):
        for kind, limit in enumerate(available):
            if shares[kind] < limit and sum(shares) < total:
                shares[kind] += 1
    return shares


def _caption(predictions: Predictions, row: int, task: Task) -> str:
    case = str(predictions.case[row])
    case = case if len(case) <= _LONGEST_CASE else f"{case[: _LONGEST_CASE - 1]}…"
    name = task.class_names[int(predictions.label[row])]
    return f"P {predictions.probability[0, row]:.2f}, {name}\n{case}"


def grid_picture(
    pixels: npt.NDArray[np.uint8], examples: Sequence[Example], note: str = "", sample: str = OUT_OF_FOLD
) -> Picture:
    """Return a picture of images in a grid; the frame shows whether the prediction is correct.

    Args:
        pixels: RGB images of one size, in the order of `examples`. Shape (n_images, height, width, 3).
        examples: Examples from `pick_examples`.
        note: Note in a corner; may be empty.
        sample: Sample of the images, shown below the title.

    Raises:
        ValueError: If there is no example, or the numbers of images and examples differ.
    """
    if not examples or len(pixels) != len(examples):
        raise ValueError(
            f"`pixels` and `examples` must have the same length, but got {len(pixels)} and {len(examples)}."
        )
    side = min(*pixels.shape[1:3], _MOST_PIXELS)
    tiles = []
    for place, (image, example) in enumerate(zip(pixels, examples, strict=True)):
        down, across = divmod(place, N_COLUMNS)
        tiles.append(
            Tile(
                MARGIN + FRAME + across * _CELL[1],
                _KEYS + down * _CELL[0],
                _TILE,
                encode_image(image, side, lossless=False, quality=_QUALITY),
                RIGHT if example.correct else WRONG,
                [shortened(line, _CELL[1] - 4, SIZE) for line in example.caption.split("\n")],
            )
        )
    n_correct = sum(example.correct for example in examples)
    return Picture(
        "Clearest right and worst wrong images",
        sample,
        note,
        tiles=tiles,
        words=[
            Words(MARGIN + 75 * place + shift, 12, text, colour=colour)
            for place, (name, own) in enumerate((("right", RIGHT), ("wrong", WRONG)))
            for shift, text, colour in ((0, "■", own), (14, name, ""))
        ],
        width=2 * (MARGIN + FRAME) + N_COLUMNS * _CELL[1] - _GAP,
        height=_KEYS + -(-len(tiles) // N_COLUMNS) * _CELL[0],
        alt=f"{n_correct} images that were classified right and {len(examples) - n_correct} that were classified wrong",
    )
