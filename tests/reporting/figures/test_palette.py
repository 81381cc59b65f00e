"""Colours: Matplotlib's sequential palette, and text that can be read on it."""

from __future__ import annotations

import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from bhsearch.reporting.figures import palette


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.1, 0.33, 0.5, 0.87, 1.0, 2.0])
def test_blues_are_those_of_matplotlib(share):
    assert to_rgb(palette.blues(share)) == pytest.approx(colormaps["Blues"](min(max(share, 0.0), 1.0))[:3], abs=0.01)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, as the Web Content Accessibility Guidelines define it."""
    light = []
    for colour in (first, second):
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        light.append(0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("share", [k / 20 for k in range(21)])
def test_text_can_be_read_on_every_shade(share):
    shade = palette.blues(share)
    ink = palette.ink_on(shade)
    assert contrast(ink, shade) == max(contrast(palette.INK, shade), contrast(palette.WHITE, shade)) > 3.9


def test_mixed_colours_lie_between():
    assert palette.mixed("#000000", "#FFFFFF", 0.0) == "#000000"
    assert palette.mixed("#000000", "#FF0080", 1.0) == "#FF0080"
    assert palette.mixed("#000000", "#FF0080", 0.5) == "#800040"
