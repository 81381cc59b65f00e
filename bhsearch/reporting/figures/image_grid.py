"""The grid of correctly and wrongly classified images: selection of the images, pixels of the grid, and figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import get_data_path
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont

from bhsearch.reporting.figures import style, templates
from bhsearch.reporting.figures.templates import Panel, Template

if TYPE_CHECKING:
    from bhsearch.evaluation.predictions import IntArray, Predictions
    from bhsearch.evaluation.thresholds import HardLabels
    from bhsearch.tasks.base import Task

N_COLUMNS = 4
_TILE, _FRAME, _GAP, _CAPTION = 136, 5, 8, 30  # pixels
_OUTER = _TILE + 2 * _FRAME
_CELL = (_OUTER + _CAPTION, _OUTER + _GAP)  # height and width
_LONGEST_CASE = 20  # characters
_MARGIN, _TOP = 20, 85  # pixels beside and above the grid


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
    return f"P {predictions.probability[0, row]:.2f}   {name}\n{case}"


def compose(pixels: npt.NDArray[np.uint8], examples: Sequence[Example]) -> npt.NDArray[np.uint8]:
    """Arrange images in a grid of `N_COLUMNS` columns, and draw a frame around and a caption below each of them.

    The colour of a frame shows whether the predicted label is correct (`style.RIGHT`) or wrong (`style.WRONG`).
    Captions are drawn with Pillow, because text rendering takes most of the time of a Matplotlib figure.

    Args:
        pixels: RGB images of one size, without frame and caption. Shape (n_images, height, width, 3).
        examples: Caption of each image, and whether its predicted label is correct. Length n_images.

    Returns:
        RGBA pixels of the grid, all opaque. Shape (n_rows * cell height, N_COLUMNS * cell width, 4).
    """
    n_rows = -(-len(pixels) // N_COLUMNS)
    cells = np.full((n_rows * N_COLUMNS, *_CELL, 4), 255, dtype=np.uint8)
    inside = slice(_FRAME, _FRAME + _TILE)
    for cell, image, example in zip(cells, _resized(pixels), examples, strict=False):
        cell[:_OUTER, :_OUTER, :3] = np.round(255 * np.array(to_rgb(style.RIGHT if example.correct else style.WRONG)))
        cell[inside, inside, :3] = image
    grid = cells.reshape(n_rows, N_COLUMNS, *cells.shape[1:]).swapaxes(1, 2)
    picture = Image.fromarray(grid.reshape(n_rows * _CELL[0], N_COLUMNS * _CELL[1], 4))
    pen, font = ImageDraw.Draw(picture), ImageFont.truetype(get_data_path() + "/fonts/ttf/DejaVuSans.ttf", 10)
    for place, example in enumerate(examples):
        down, across = divmod(place, N_COLUMNS)
        pen.text((across * _CELL[1], down * _CELL[0] + _OUTER + 2), example.caption, style.INK, font, spacing=1)
    return np.asarray(picture)


def _resized(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize images to tiles by averaging evenly spaced pixels of larger images or repeating pixels of smaller ones.

    Args:
        pixels: RGB images. Shape (n_images, height, width, 3).

    Returns:
        RGB tiles. Shape (n_images, _TILE, _TILE, 3).
    """
    down, across = (_taps(size) for size in pixels.shape[1:3])
    total = np.zeros((len(pixels), _TILE, _TILE, 3), dtype=np.uint16)
    for rows in down:
        band = pixels[:, rows]
        for columns in across:
            total += np.take(band, columns, axis=2)
    return (total // (len(down) * len(across))).astype(np.uint8)


def _taps(size: int) -> IntArray:
    """Return the indices of the source pixels averaged into each tile pixel, along one axis. Shape (n_taps, _TILE)."""
    n_taps = min(-(-size // _TILE), 4)
    place = np.arange(_TILE) + (np.arange(n_taps)[:, None] + 0.5) / n_taps
    return (place * size / _TILE).astype(np.int64)


def grid_figure(pixels: npt.NDArray[np.uint8], examples: Sequence[Example], note: str = "") -> Panel:
    """Draw images in a grid; the frame shows whether the prediction is correct, the caption is that of the example.

    Args:
        pixels: RGB images of one size, in the order of `examples`. Shape (n_images, height, width, 3).
        examples: Examples from `pick_examples`.
        note: Note in a corner; may be empty.

    Raises:
        ValueError: If there is no example, or the numbers of images and examples differ.
    """
    if not examples or len(pixels) != len(examples):
        raise ValueError(
            f"`pixels` and `examples` must have the same length, but got {len(pixels)} and {len(examples)}."
        )
    canvas = compose(pixels, examples)
    template = _template(canvas.shape[0], canvas.shape[1], note)
    return Panel(template, [templates.Pasted(canvas, _MARGIN, 0)])


@lru_cache(4)
def _template(height: int, width: int, note: str) -> Template:
    """Return the template of a figure around a grid of the given size in pixels."""
    width, height = width - _GAP + 2 * _MARGIN, height + _TOP
    figure = style.new_figure(
        "Clearest right and worst wrong images",
        "out-of-fold, first repeat, one image a case where possible",
        note,
        width / style.DPI,
        height / style.DPI,
    )
    for place, (name, colour) in enumerate((("right", style.RIGHT), ("wrong", style.WRONG))):
        x, y = (_MARGIN + 75 * place) / width, 1 - 60 / height
        figure.text(x, y, f"■ {name}", size=9, color=colour, va="top")
    return Template(figure)
