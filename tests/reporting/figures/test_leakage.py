import numpy as np

from bhsearch.reporting.figures import palette
from bhsearch.reporting.figures.leakage import leakage_figure


def test_the_honest_number_is_blue_and_leaky_ones_orange():
    figure = leakage_figure([("image", [0.9, 0.92]), ("case", [0.6, 0.45])], "tissue", "synthetic data")
    (axes,) = figure.axes
    assert [bar.get_facecolor()[:3] for bar in axes.patches] == [
        tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)) for colour in (palette.ORANGE, palette.BLUE)
    ]
    assert np.allclose([bar.get_width() for bar in axes.patches], [0.41, 0.025])
    assert axes.get_xlim()[0] <= 0.45
    assert [label.get_text() for label in axes.get_yticklabels()] == ["by image", "by case"]
    assert any("synthetic" in text.get_text() for text in figure.texts)
