from __future__ import annotations

import pytest

from bhsearch.reporting.figures.description import Axis, nice_ticks
from bhsearch.reporting.svg import WIDTH, Frame, shade, shortened


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.41, 0.7, False, [0.5, 0.6, 0.7]),
        (0, 100, False, [0, 25, 50, 75, 100]),
        (0.0, 1.0, False, [0, 0.25, 0.5, 0.75, 1.0]),
        (0.05, 7.0, True, [0.05, 0.2, 1.0, 5.0]),
    ],
)
def test_ticks_are_round_and_inside(low, high, log, expected):
    assert nice_ticks(low, high, log) == pytest.approx(expected)


def test_an_axis_of_one_value_puts_it_in_the_middle():
    assert Axis("a", 3.0, 3.0).share(3.0) == 0.5


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    axis = Axis("a", 0.01, 1.0, log=True)
    assert axis.share(0.1) == pytest.approx(0.5)


def test_higher_values_lie_higher_and_words_stay_inside():
    frame = Frame(Axis("x", 0, 1), Axis("y", 0, 1))
    assert frame.at(0, 1)[1] < frame.at(0, 0)[1]
    for x, anchor in ((0, "end"), (1, "start"), (1, "middle")):
        label = frame.label(x, 0.5, "twenty characters xx", anchor)
        across = float(label.split('x="')[1].split('"')[0])
        half = {"start": 0, "middle": 0.5, "end": 1}[anchor]
        assert across - half * 20 * 6.1 >= 0
        assert across + (1 - half) * 20 * 6.1 <= WIDTH


def test_long_words_are_cut_visibly():
    assert shortened("short", 100) == "short"
    assert shortened("a very long name of a network", 60).endswith("…")
    assert len(shortened("a very long name of a network", 60)) <= 10


def test_shades_go_from_grey_to_blue():
    assert shade(1.0) == "#0072b2"
    assert shade(-3) == shade(0.0) == "#c9cfd6"
