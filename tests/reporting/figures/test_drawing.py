"""Pictures drawn with Matplotlib, for print and notebooks, show what the SVG files show."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.reporting.figures import drawing, study
from bhsearch.reporting.figures.picture import Picture
from tests.reporting.svg.test_picture import make_all

# Matplotlib's font has no ideographs, as the picture with long names has.
PICTURES = {
    name: picture for name, picture in make_all("synthetic data").items() if picture.panels and "long" not in name
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_every_described_picture_can_be_drawn(picture: Picture):
    figure = drawing.matplotlib_figure(picture)
    figure.draw_without_rendering()
    assert len(figure.axes) == len(picture.panels)
    for axes, panel in zip(figure.axes, picture.panels, strict=True):
        assert axes.get_xlim() == pytest.approx((panel.figure.x.low, panel.figure.x.high))
        assert axes.get_ylim() == pytest.approx((panel.figure.y.low, panel.figure.y.high))
        legend = axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] if legend else list(panel.named) == []
        left, _, right, _ = np.array(panel.box) / picture.width
        assert (axes.get_position().x0, axes.get_position().x1) == pytest.approx((left, right))
    assert "synthetic data" in [text.get_text() for text in figure.texts]


def test_a_figure_for_a_caption_has_no_title():
    figure = drawing.matplotlib_figure(study.slice_picture({"a": [1.0, 2.0]}, [0.5, 0.6]), has_title=False)
    assert figure.texts == []


def test_cells_have_their_text_and_colour():
    picture = study.importances_picture({"a": 0.7, "b": 0.3})
    (axes,) = drawing.matplotlib_figure(picture).axes
    assert [text.get_text() for text in axes.texts] == ["0.70", "0.30"]
    widths = [np.ptp(cell.get_paths()[0].vertices[:, 0]) for cell in axes.collections]
    assert widths == pytest.approx([0.7, 0.3])
