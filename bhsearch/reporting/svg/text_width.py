"""Widths of text that a program other than ours will draw, so that no label overflows or covers another."""

from __future__ import annotations

import unicodedata

# Viewers use the first font that they have. DejaVu Sans is the widest, so its widths are upper bounds.
FONTS = "Helvetica, Arial, 'Liberation Sans', 'Noto Sans', 'DejaVu Sans', sans-serif"
_WIDTHS = {  # hundredths of the font size, rounded up
    **dict.fromkeys("'ijl", 28),
    **dict.fromkeys("IJ", 30),
    **dict.fromkeys(" ,./:;\\|", 34),
    **dict.fromkeys("f-", 37),
    **dict.fromkeys("()[]t!", 41),
    **dict.fromkeys('r"', 46),
    **dict.fromkeys("*_`", 50),
    **dict.fromkeys("sz?c", 55),
    **dict.fromkeys("LFk", 58),
    **dict.fromkeys("vxyPTYaeo", 62),
    **dict.fromkeys("$0123456789ESbdghnpqu{}", 64),
    **dict.fromkeys("KABVXZCR", 70),
    **dict.fromkeys("UNH&DGOQ", 79),
    **dict.fromkeys("w#+<=>^~M", 87),
    **dict.fromkeys("%mW@…—", 100),
}
_OTHER, _WIDE = 79, 100  # letters of other scripts; ideographs
_BOLD = 1.18


def text_width(words: str, size: float, bold: bool = False) -> float:
    """Return an upper bound of the width of a line of text, in the unit of the font size.

    Args:
        words: Text.
        size: Font size.
        bold: Whether the text is bold.
    """
    total = sum(_width(character) for character in unicodedata.normalize("NFD", words))
    return total / 100 * size * (_BOLD if bold else 1.0)


def _width(character: str) -> int:
    known = _WIDTHS.get(character)
    if known is not None:
        return known
    if unicodedata.combining(character):
        return 0
    return _WIDE if unicodedata.east_asian_width(character) in "WF" else _OTHER


def shortened(words: str, width: float, size: float, bold: bool = False) -> str:
    """Truncate text to a width, with an ellipsis for the missing characters; at least two characters are kept."""
    if text_width(words, size, bold) <= width:
        return words
    n_kept = len(words) - 1
    while n_kept > 2 and text_width(f"{words[:n_kept]}…", size, bold) > width:
        n_kept -= 1
    return f"{words[:n_kept]}…"


def wrapped(words: str, width: float, size: float) -> list[str]:
    """Break text into lines of at most a width, at spaces where possible; line breaks of the text are kept."""
    lines: list[str] = []
    for line in words.split("\n"):
        lines.append("")
        for word in line.split():
            joined = f"{lines[-1]} {word}".lstrip()
            if text_width(joined, size) <= width:
                lines[-1] = joined
                continue
            if lines[-1]:
                lines.append("")
            for character in word:  # a word that is longer than a line is broken
                if text_width(lines[-1] + character, size) > width:
                    lines.append("")
                lines[-1] += character
    return lines
