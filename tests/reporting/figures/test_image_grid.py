"""The grid of right and wrong images: which are shown, and what the array holds."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting.figures import image_grid, style
from bhsearch.reporting.figures.image_grid import Example, compose, grid_figure, pick_examples
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY


def test_half_of_the_grid_is_wrong_and_both_classes_are_shown() -> None:
    base = simulate(26)
    decisions = cross_fitted_labels(base, BINARY)
    examples = pick_examples(base, decisions, BINARY)
    rows = [example.row for example in examples]
    assert len(set(rows)) == 16
    assert [example.correct for example in examples] == [True] * 8 + [False] * 8
    assert [example.correct for example in examples] == (decisions.predicted[0] == base.label)[rows].tolist()
    assert base.label[rows].tolist() == ([0] * 4 + [1] * 4) * 2


def test_each_kind_shows_different_cases_while_there_are_any() -> None:
    base = simulate(40)
    rows = [example.row for example in pick_examples(base, cross_fitted_labels(base, BINARY), BINARY)]
    for start in range(0, 16, 4):
        assert len(set(base.group[rows[start : start + 4]])) == 4


def test_a_trial_without_errors_fills_the_grid_with_right_images() -> None:
    base = simulate(26)
    perfect = dataclasses.replace(base, probability=base.label[None].astype(float))
    examples = pick_examples(perfect, cross_fitted_labels(perfect, BINARY), BINARY)
    assert len(examples) == 16
    assert all(example.correct for example in examples)


def test_captions_hold_probability_label_and_case() -> None:
    base = simulate(26)
    example = pick_examples(base, cross_fitted_labels(base, BINARY), BINARY)[0]
    assert example.caption == f"P {base.probability[0, example.row]:.2f}   benign\n{base.case[example.row]}"


@pytest.mark.parametrize("size", [(50, 50), (136, 136), (224, 160), (700, 460)])
def test_the_array_holds_every_image_in_a_frame_of_its_colour(size: tuple[int, int]) -> None:
    pixels = np.stack([np.full((*size, 3), 10 * number, dtype=np.uint8) for number in range(6)])
    examples = [Example(number, number % 2 == 0, "caption") for number in range(6)]
    canvas = compose(pixels, examples)
    cell_height, cell_width = canvas.shape[0] // 2, canvas.shape[1] // 4
    for number in range(6):
        down, across = divmod(number, 4)
        cell = canvas[down * cell_height :, across * cell_width :][:cell_height, :cell_width]
        frame = style.RIGHT if number % 2 == 0 else style.WRONG
        assert np.allclose(cell[0, 0, :3], 255 * np.array(to_rgb(frame)), atol=1)
        assert (cell[5 : 5 + 136, 5 : 5 + 136, :3] == 10 * number).all()
        assert (cell[148:, :, :3] < 128).any()  # the caption
    assert (canvas[cell_height:, 2 * cell_width :, :3] == 255).all()


def test_resizing_keeps_the_picture_and_its_brightness() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 700)[None, :, None], (460, 700, 3)).astype(np.uint8)
    small = image_grid._resized(ramp[None])[0].astype(float)
    assert small.mean() == pytest.approx(ramp.mean(), abs=1.5)
    assert (np.diff(small[0, :, 0]) >= 0).all()


def test_the_figure_is_one_array_and_a_few_words() -> None:
    pixels = np.zeros((16, 96, 96, 3), dtype=np.uint8)
    examples = [Example(row, row < 8, "P 0.50   benign\n14-123") for row in range(16)]
    picture = grid_figure(pixels, examples, "synthetic data (phantom)")
    assert not picture.template.figure.axes
    assert "synthetic data (phantom)" in [text.get_text() for text in picture.template.figure.texts]
    decoded = np.asarray(Image.open(io.BytesIO(style.to_png(picture))))
    canvas = compose(pixels, examples)[:, :, :3]
    shown = decoded[-canvas.shape[0] :, 20 : 20 + canvas.shape[1]]
    assert np.array_equal(shown, canvas[:, : shown.shape[1]])


def test_images_that_do_not_match_the_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the same length"):
        grid_figure(np.zeros((2, 9, 9, 3), dtype=np.uint8), [Example(0, True, "")])
