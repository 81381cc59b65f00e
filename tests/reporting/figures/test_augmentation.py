from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bhsearch.models.augmentation.device_transforms import SHOWN_SAMPLES, SHOWN_STRENGTHS
from bhsearch.reporting.figures.augmentation import augmentation_picture
from bhsearch.reporting.figures.picture import Tile

N_COLUMNS = 1 + SHOWN_SAMPLES * len(SHOWN_STRENGTHS)


def rows_of(n_rows: int, size: int) -> list[tuple[str, list[np.ndarray]]]:
    """Every picture has a colour of its own."""
    return [
        (f"policy {r}", [np.full((size, size, 3), (10 + 20 * c, 40 + 30 * r, 77), np.uint8) for c in range(N_COLUMNS)])
        for r in range(n_rows)
    ]


def decoded(tile: Tile) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(tile.image))).astype(int)


@pytest.mark.parametrize("size", [32, 224])
def test_every_picture_is_shown_once_in_its_place(size):
    tiles = augmentation_picture(rows_of(3, size), "").tiles
    for k, tile in enumerate(tiles):
        row, column = divmod(k, N_COLUMNS)
        assert np.abs(decoded(tile) - (10 + 20 * column, 40 + 30 * row, 77)).max() <= 3
    y, x = np.reshape([(tile.top, tile.left) for tile in tiles], (3, N_COLUMNS, 2)).transpose(2, 0, 1)
    assert (y == y[:, :1]).all()
    assert (x == x[:1]).all()
    assert (np.diff(y[:, 0]) > tiles[0].side).all()
    assert (np.diff(x[0]) > tiles[0].side).all()


def test_an_image_stands_upright():
    rows = rows_of(1, 64)
    rows[0][1][0][:32] = (250, 1, 1)
    rows[0][1][0][32:] = (1, 1, 250)
    shown = decoded(augmentation_picture(rows, "").tiles[0])
    assert shown[:24, :, 0].min() > 230
    assert shown[40:, :, 2].min() > 230


def test_policies_strengths_and_the_note_are_named():
    picture = augmentation_picture(rows_of(2, 32), "synthetic data (phantom)")
    words = [word.text for word in picture.words]
    assert words == ["original", *(f"strength {s}" for s in SHOWN_STRENGTHS), "policy 0", "policy 1"]
    assert picture.note == "synthetic data (phantom)"


def test_a_row_with_a_picture_missing_is_an_error():
    rows = rows_of(2, 32)
    rows[1][1].pop()
    with pytest.raises(ValueError, match=r"must have 7 pictures.*\('policy 1', 6\)"):
        augmentation_picture(rows, "")
    with pytest.raises(ValueError, match="must have 7 pictures"):
        augmentation_picture([], "")
