"""PNG bytes: another decoder reads back what was drawn."""

from __future__ import annotations

import io
import sys

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from bhsearch.reporting.figures.style import DPI, new_figure, to_png


def test_a_png_decodes_to_the_pixels_that_were_drawn() -> None:
    figure = new_figure("Title", "detail", "synthetic data (phantom)")
    figure.add_subplot().imshow(np.random.default_rng(0).random((30, 40, 3)))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    decoded = Image.open(io.BytesIO(to_png(figure)))
    decoded.load()
    assert (decoded.format, decoded.size) == ("PNG", (640, 480))
    assert round(decoded.info["dpi"][0]) == DPI
    assert np.array_equal(np.asarray(decoded.convert("RGB")), np.asarray(canvas.buffer_rgba())[:, :, :3])


def test_a_note_is_shown_and_wrapped() -> None:
    note = "grouped by image: pictures of one case on both sides"
    shown = [text.get_text() for text in new_figure("Title", note=note).texts]
    assert [text.replace("\n", " ") for text in shown] == ["Title", note]
    assert "\n" in shown[1]


def test_no_figure_is_left_with_pyplot() -> None:
    to_png(new_figure("Title"))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
