"""The grid of right and wrong images: which are shown, and how."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting.figures import palette
from bhsearch.reporting.figures.image_grid import Example, grid_picture, pick_examples
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
    assert example.caption == f"P {base.probability[0, example.row]:.2f}, benign\n{base.case[example.row]}"


@pytest.mark.parametrize("size", [(50, 50), (144, 144), (224, 160), (700, 460)])
def test_every_image_has_a_frame_of_its_colour_and_its_caption(size: tuple[int, int]) -> None:
    pixels = np.stack([np.full((*size, 3), 10 * number, dtype=np.uint8) for number in range(6)])
    examples = [Example(number, number % 2 == 0, f"P 0.50, benign\n{number}") for number in range(6)]
    picture = grid_picture(pixels, examples)
    assert [tile.edge for tile in picture.tiles] == [palette.RIGHT, palette.WRONG] * 3
    assert [tile.lines for tile in picture.tiles] == [["P 0.50, benign", str(number)] for number in range(6)]
    for number, tile in enumerate(picture.tiles):
        shown = np.asarray(Image.open(io.BytesIO(tile.image)))
        assert shown.shape == (min(*size, 144), min(*size, 144), 3)
        assert np.abs(shown.astype(int) - 10 * number).max() <= 2
    assert len({tile.top for tile in picture.tiles}) == 2
    assert picture.alt.startswith("3 images that were classified right and 3")


def test_a_larger_image_keeps_its_content() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 460)[None, :, None], (460, 460, 3)).astype(np.uint8)
    (tile,) = grid_picture(ramp[None], [Example(0, True, "")]).tiles
    shown = np.asarray(Image.open(io.BytesIO(tile.image))).astype(float)
    assert shown.mean() == pytest.approx(ramp.mean(), abs=1.5)
    assert (np.diff(shown[70, ::8, 0]) >= 0).all()


def test_colours_are_explained_and_a_long_case_is_cut() -> None:
    pixels = np.zeros((16, 96, 96, 3), dtype=np.uint8)
    examples = [Example(row, row < 8, f"P 0.50, malignant\n{'W' * 20}") for row in range(16)]
    picture = grid_picture(pixels, examples, sample="sealed test")
    assert [word.text for word in picture.words] == ["■", "right", "■", "wrong"]
    assert all(tile.lines[1].endswith("…") for tile in picture.tiles)
    assert picture.detail == "sealed test"


def test_images_that_do_not_match_the_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the same length"):
        grid_picture(np.zeros((2, 9, 9, 3), dtype=np.uint8), [Example(0, True, "")])
