"""SVG elements: text in every script is valid XML, and shades run from grey to blue."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.reporting.svg import elements
from tests.reporting.drawn import NS


@given(st.text(alphabet=st.characters(), max_size=40))
def test_any_text_is_valid_xml_and_comes_back(words):
    """Names of cases and classes come from files; a control character must not make a picture unreadable."""
    root = ET.fromstring(elements.file(elements.text(1, 2, words), (10, 20), words, words).encode("utf-8"))
    said = [root.find(f"{NS}{tag}").text or "" for tag in ("title", "desc", "text")]
    kept = "".join(c if c in "\t\n\r" or c >= " " else "\ufffd" for c in words)
    kept = kept.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
    kept = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in kept)
    expected = kept.replace("\r\n", "\n").replace("\r", "\n")  # as every XML parser reads line ends
    assert said == [expected] * 3


def test_a_file_says_what_it_is_to_a_screen_reader():
    root = ET.fromstring(elements.file("", (640, 480), "ROC curve", "AUC 0.7"))
    assert root.get("role") == "img"
    labels = root.get("aria-labelledby").split()
    assert [element.text for name in labels for element in root if element.get("id") == name] == [
        "ROC curve",
        "AUC 0.7",
    ]
    assert (root.get("width"), root.get("viewBox")) == ("640", "0 0 640 480")


@pytest.mark.parametrize("titled", [True, False])
def test_marks_have_a_title_on_hover_only_where_there_is_something_to_say(titled):
    title = "a & b" * titled
    for drawn in (
        elements.disc(1, 2, 3, "#000000", title),
        elements.ring(1, 2, 3, "#000000", title),
        elements.cross(1, 2, title),
    ):
        assert [element.text for element in ET.fromstring(drawn)] == ["a & b"] * titled


def test_numbers_have_one_decimal_at_most():
    assert 'x="1.2" y="3"' in elements.text(1.23, 3.0, "word")
    assert 'points="0.1,2.0"' in elements.line([(0.14, 2.0)], "#000000", 1.0)


def test_shades_go_from_grey_to_blue():
    assert elements.shade(1.0) == "#0072B2"
    assert elements.shade(-3) == elements.shade(0.0) == "#C9CFD6"
