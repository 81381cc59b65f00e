"""Colours of figures, distinguishable with all common kinds of colour blindness."""

from __future__ import annotations

# Palette of Okabe and Ito (2008).
BLUE, ORANGE, VERMILLION = "#0072B2", "#E69F00", "#D55E00"
INK, GREY, PALE, WHITE = "#222222", "#7A7A7A", "#DDDDDD", "#FFFFFF"
RIGHT, WRONG = BLUE, ORANGE
NOTE = "#FFF3D6"  # background of notes
CYCLE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", VERMILLION)
# ColorBrewer's "Blues" (Harrower and Brewer, 2003), from light to dark.
_BLUES = ("#F7FBFF", "#DEEBF7", "#C6DBEF", "#9ECAE1", "#6BAED6", "#4292C6", "#2171B5", "#08519C", "#08306B")


def mixed(first: str, second: str, share: float) -> str:
    """Return a colour between two colours of the form `#RRGGBB`: the first at `share` 0, the second at 1."""
    return "#" + "".join(
        f"{round(a + (b - a) * share):02X}" for a, b in zip(_channels(first), _channels(second), strict=True)
    )


def blues(share: float) -> str:
    """Return a colour of the sequential palette, from nearly white (0) to dark blue (1)."""
    place = min(max(share, 0.0), 1.0) * (len(_BLUES) - 1)
    lower = min(int(place), len(_BLUES) - 2)
    return mixed(_BLUES[lower], _BLUES[lower + 1], place - lower)


def ink_on(background: str) -> str:
    """Return the colour of text on a background: `INK` or white, whichever has the higher contrast.

    Source:
        Contrast ratio of the Web Content Accessibility Guidelines 2.1.
    """
    luminance = _luminance(background)
    return INK if (luminance + 0.05) / (_luminance(INK) + 0.05) >= 1.05 / (luminance + 0.05) else WHITE


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in _channels(colour))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
