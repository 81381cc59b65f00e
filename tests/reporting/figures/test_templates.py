"""A picture over a common frame shows what it would show if it were drawn whole."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bhsearch.reporting.figures import style, templates
from bhsearch.reporting.figures.templates import Panel, Pasted, Template


def template() -> Template:
    figure = style.new_figure("Title", note="a note")
    axes = style.place_axes(figure, 0.75, 0.6, 0.3, 0.75)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    style.faint_grid(axes)
    return Template(figure, axes)


def test_lines_bands_and_words_lie_where_the_axes_would_put_them() -> None:
    """The same pixels as Matplotlib's own methods give, but for what is drawn over frame and grid."""
    x, low, high = np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.1, 0.3]), np.array([0.5, 0.7, 0.6])
    own = template()
    axes = own.axes[0]
    drawn = Panel(
        own,
        [
            templates.band(axes, x, low, high, color=style.BLUE, linewidth=0),
            templates.line(axes, x, high, color=style.VERMILLION),
            templates.discs(axes, x, low, [30, 60, 90], color=style.ORANGE),
            templates.boxes(axes, [0.2], [0.8], 0.1, [0.1], color=style.INK),
            templates.words(axes, 0.4, 0.9, "words"),
            templates.words(axes, 0.9, 0.02, "more", of_axes=True),
        ],
    ).rgb()
    whole = template()
    axes = whole.axes[0]
    axes.fill_between(x, low, high, color=style.BLUE, linewidth=0)
    axes.plot(x, high, color=style.VERMILLION)
    axes.scatter(x, low, s=[30, 60, 90], color=style.ORANGE, zorder=3)
    axes.bar([0.2], [0.1], 0.1, bottom=[0.8], align="edge", color=style.INK)
    axes.text(0.4, 0.9, "words")
    axes.text(0.9, 0.02, "more", transform=axes.transAxes)
    canvas = FigureCanvasAgg(whole.figure)
    canvas.draw()
    expected = np.asarray(canvas.buffer_rgba())[:, :, :3]
    differs = (np.abs(drawn.astype(int) - expected) > 40).any(axis=-1)
    assert differs.mean() < 0.002


def test_a_picture_leaves_no_trace_in_the_next_one() -> None:
    own = template()
    empty = Panel(own, []).rgb()
    Panel(own, [templates.words(own.axes[0], 0.5, 0.5, "gone")]).rgb()
    assert np.array_equal(Panel(own, []).rgb(), empty)


def test_pasted_pixels_are_copied_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    drawn = Panel(template(), [Pasted(pixels, 20, 0)]).rgb()
    assert np.array_equal(drawn[-40:, 20:80], pixels[..., :3])
