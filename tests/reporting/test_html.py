"""The parts that all HTML pages are made of."""

from __future__ import annotations

from base64 import b64decode

import pytest

from bhsearch.reporting import html


@pytest.mark.parametrize("box", [html.notice, html.alarm])
def test_a_box_without_a_sentence_is_not_shown(box):
    assert box([]) == box(["", ""]) == ""
    assert box(["", "Mind this."]).count("<p") == 1


@pytest.mark.parametrize(
    ("content", "kind", "suffix"),
    [
        (b"\x89PNG\r\n", "image/png", "png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg", "jpg"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml", "svg"),
    ],
)
def test_an_image_is_embedded_as_what_it_is(content, kind, suffix):
    head, _, data = html.data_uri(content).partition(",")
    assert head == f"data:{kind};base64"
    assert b64decode(data) == content
    assert html.suffix_of(content) == suffix


def test_a_file_that_is_no_image_is_refused():
    with pytest.raises(ValueError, match="must be a PNG, JPEG or SVG file, but starts with b'<html>'"):
        html.data_uri(b"<html>")
