"""Charts with two axes: every mark in its place, and no label outside or over another."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from bhsearch.reporting.figures.marks import Axis, Box, Cell, Cross, Description, Dot, Label, Line
from bhsearch.reporting.svg.elements import WIDTH
from bhsearch.reporting.svg.frame import Frame, inline_chart
from bhsearch.reporting.svg.text_width import text_width

FRAME = Frame(Axis("x", 0, 1), Axis("y", 0, 1), Box(40, 10, 340, 210))


def parts(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(f"<g>{svg}</g>"))


def test_corners_of_the_axes_are_corners_of_the_box():
    assert FRAME.at(0, 0) == pytest.approx((40, 210))
    assert FRAME.at(1, 1) == pytest.approx((340, 10))
    assert FRAME.at(0.5, 0.25) == pytest.approx((190, 160))
    assert Frame(Axis("x", 0.01, 100, log=True), Axis("y", 3, -1), FRAME.box).at(1, 0) == pytest.approx((190, 60))


@pytest.mark.parametrize("x", [0.0, 0.02, 0.5, 1.0])
def test_labels_stay_between_the_axis_and_the_edge(x):
    (label,) = parts(FRAME.mark(Label(x, 0.5, "twenty characters xx")))
    middle, half = float(label.get("x")), text_width("twenty characters xx", 11.5, bold=True) / 2
    assert middle - half >= 40
    assert middle + half <= WIDTH


def test_points_that_are_no_numbers_are_left_out():
    (line,) = parts(FRAME.mark(Line([0, 0.5, 1], [0, float("nan"), 1], "#000000", 1.0)))
    assert line.get("points") == "40.0,210.0 340.0,10.0"
    for mark in (Line([0.5], [float("nan")], "#000000", 1.0), Dot(0.5, float("inf"), "#000000")):
        assert FRAME.mark(mark) == ""
    assert FRAME.mark(Label(float("nan"), 0.5, "word")) == ""


def test_a_cell_spans_its_ends_on_a_reversed_axis_too():
    frame = Frame(Axis("x", -0.5, 1.5), Axis("y", 1.5, -0.5), FRAME.box)
    box, first, second = parts(frame.mark(Cell(0.5, -0.5, 1.0, 1.0, "#FFFFFF", "31\n78%")))
    assert [float(box.get(name)) for name in ("x", "y", "width", "height")] == [190, 10, 150, 100]
    assert (first.text, second.text) == ("31", "78%")
    assert 10 < float(first.get("y")) < float(second.get("y")) < 110


def test_labels_of_numbers_that_would_collide_are_left_out_and_names_are_turned():
    narrow = Box(40, 10, 120, 210)
    ticks = [k / 1000 for k in range(11)]
    numbers = parts(Frame(Axis("", 0, 0.01, ticks=ticks), Axis("", 0, 1, ticks=[0]), narrow).axes())
    shown = [part.text for part in numbers if part.tag == "text" and part.get("text-anchor") == "middle" and part.text]
    assert 2 <= len(shown) < len(ticks)
    names = Axis("", -0.5, 2.5, ticks=range(3), labels=["haematoxylin", "eosin", "both of them"])
    turned = [part for part in parts(Frame(names, FRAME.y, narrow).axes()) if "rotate(-60" in part.get("transform", "")]
    assert [part.text for part in turned] == list(names.labels)


def test_every_tick_has_a_grid_line_if_there_is_a_grid():
    for has_grid in (True, False):
        lines = [part for part in parts(FRAME.axes(has_grid)) if part.tag == "line" and part.get("stroke") == "#DDDDDD"]
        assert len(lines) == has_grid * (len(FRAME.x.marks()) + len(FRAME.y.marks()))


def test_crosses_are_at_the_foot():
    (cross,) = parts(FRAME.mark(Cross(0.5, "it failed")))
    x, y = map(float, re.match(r"M([^,]+),([^l]+)l", cross.get("d")).groups())
    assert x + 4 == 190
    assert 190 < y + 4 < 210


def test_an_inline_chart_has_a_text_alternative_and_is_square_if_its_figure_is():
    figure = Description(Axis("x", 0, 1), Axis("y", 0, 1), [Dot(0, 0, "#000000")], square=True)
    root = ET.fromstring(inline_chart(figure, 'a "curve"'))
    assert root.get("aria-label") == 'a "curve"'
    _, _, width, height = map(float, root.get("viewBox").split())
    assert (width, height - 52) == (360, 304)
