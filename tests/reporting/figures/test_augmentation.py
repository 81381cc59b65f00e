from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bhsearch.models.augmentation.device_transforms import SHOWN_SAMPLES, SHOWN_STRENGTHS
from bhsearch.reporting.figures.augmentation import augmentation_figure
from bhsearch.reporting.figures.style import to_png

N_COLUMNS = 1 + SHOWN_SAMPLES * len(SHOWN_STRENGTHS)


def rows_of(n_rows: int, size: int) -> list[tuple[str, list[np.ndarray]]]:
    """Every picture has a colour of its own."""
    return [
        (f"policy {r}", [np.full((size, size, 3), (10 + 20 * c, 40 + 30 * r, 77), np.uint8) for c in range(N_COLUMNS)])
        for r in range(n_rows)
    ]


@pytest.mark.parametrize("size", [32, 224])
def test_every_picture_is_shown_once_in_its_place(size):
    drawn = np.asarray(Image.open(io.BytesIO(to_png(augmentation_figure(rows_of(3, size), "")))))
    places = []
    for row in range(3):
        for column in range(N_COLUMNS):
            found = np.argwhere((drawn == (10 + 20 * column, 40 + 30 * row, 77)).all(axis=-1))
            low, high = found.min(axis=0), found.max(axis=0)
            assert len(found) == np.prod(high - low + 1)
            assert (high - low == high[0] - low[0]).all()
            places.append(low)
    y, x = np.reshape(places, (3, N_COLUMNS, 2)).transpose(2, 0, 1)
    assert (y == y[:, :1]).all()
    assert (x == x[:1]).all()
    assert (np.diff(y[:, 0]) > 0).all()
    assert (np.diff(x[0]) > 0).all()


def test_an_image_stands_upright():
    rows = rows_of(1, 64)
    rows[0][1][0][:32] = (250, 1, 1)
    rows[0][1][0][32:] = (1, 1, 250)
    drawn = np.asarray(Image.open(io.BytesIO(to_png(augmentation_figure(rows, "")))))
    upper, lower = (np.argwhere((drawn == colour).all(axis=-1))[:, 0] for colour in ((250, 1, 1), (1, 1, 250)))
    assert upper.max() < lower.min()


def test_policies_strengths_and_the_note_are_named():
    figure = augmentation_figure(rows_of(2, 32), "synthetic data (phantom)")
    words = [text.get_text() for text in figure.texts]
    for said in ("policy 0", "policy 1", "original", *(f"strength {s}" for s in SHOWN_STRENGTHS)):
        assert said in words
    assert "synthetic data (phantom)" in " ".join(words)


def test_a_row_with_a_picture_missing_is_an_error():
    rows = rows_of(2, 32)
    rows[1][1].pop()
    with pytest.raises(ValueError, match=r"must have 7 pictures.*\('policy 1', 6\)"):
        augmentation_figure(rows, "")
    with pytest.raises(ValueError, match="must have 7 pictures"):
        augmentation_figure([], "")
