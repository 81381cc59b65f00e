"""The parts that all HTML pages are made of."""

from __future__ import annotations

import pytest

from bhsearch.reporting import html


@pytest.mark.parametrize("box", [html.notice, html.alarm])
def test_a_box_without_a_sentence_is_not_shown(box):
    assert box([]) == box(["", ""]) == ""
    assert box(["", "Mind this."]).count("<p") == 1
