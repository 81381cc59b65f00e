"""Widths of text: upper bounds of those of the widest font, and no line longer than it may be."""

from __future__ import annotations

import string
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFont

from bhsearch.reporting.svg.text_width import shortened, text_width, wrapped

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SENTENCES = (
    "out-of-fold, mean over folds, every case counts the same",
    "AUC 0.677 [0.471, 0.863]",
    "Clearest right and worst wrong images",
    "Köln, Århus, Łódź, São Paulo",
    "αβγ патология",
    "0123456789",
)


@pytest.mark.parametrize(("bold", "name"), [(False, "DejaVuSans"), (True, "DejaVuSans-Bold")])
@pytest.mark.parametrize("words", SENTENCES)
def test_no_text_is_wider_in_the_widest_font_and_the_bound_is_close(words, bold, name):
    font = ImageFont.truetype(str(FONTS / f"{name}.ttf"), 1000)
    drawn = font.getlength(words) / 1000
    assert drawn <= text_width(words, 1.0, bold) <= 1.4 * drawn


def test_every_character_of_a_keyboard_has_at_least_its_width():
    font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 1000)
    for character in string.printable[:95]:
        assert font.getlength(character) / 1000 <= text_width(character, 1.0) + 1e-9, character


def test_ideographs_are_squares_and_accents_take_no_room():
    assert text_width("病理", 10.0) == 20.0
    assert text_width("é", 10.0) == text_width("e\u0301", 10.0) == text_width("e", 10.0)


@given(st.text(max_size=60), st.floats(40, 400))
def test_shortened_text_fits_and_says_so(words, width):
    cut = shortened(words, width, 11.5)
    assert cut == words or (cut.endswith("…") and words.startswith(cut[:-1]))
    assert text_width(cut, 11.5) <= width or len(cut) <= 3


@given(st.text(max_size=120), st.floats(120, 400))
def test_wrapped_lines_fit_and_lose_no_word(words, width):
    lines = wrapped(words, width, 11.5)
    assert "".join("".join(lines).split()) == "".join(words.split())
    assert all(text_width(line, 11.5) <= width for line in lines)


def test_line_breaks_of_a_detail_are_kept():
    assert wrapped("first\nsecond line", 400.0, 11.5) == ["first", "second line"]
