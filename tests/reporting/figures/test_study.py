"""Pictures of a study: what the axes hold, also where trials failed or parameters are missing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.reporting.figures import study
from bhsearch.reporting.figures.marks import Cell, Cross, Description, Dot, Label, Line
from bhsearch.reporting.figures.palette import BLUE, CYCLE, GREY, ORANGE
from bhsearch.reporting.figures.picture import Picture
from bhsearch.reporting.svg.picture import to_svg

NOTE = "synthetic data (phantom)"


def marks(figure: Description, kind: type) -> list:
    return [mark for mark in figure.marks if isinstance(mark, kind)]


def only(picture: Picture) -> Description:
    (panel,) = picture.panels
    return panel.figure


def legend_names(picture: Picture) -> list[str]:
    return list(picture.panels[0].named)


def series(figure: Description) -> dict[str, list[tuple[float, float]]]:
    """The points of each series by its name in the legend."""
    found: dict[str, list[tuple[float, float]]] = {}
    for dot in marks(figure, Dot):
        found.setdefault(dot.name, []).append((dot.x, dot.y))
    return found


def test_history_draws_each_state_and_the_best_so_far() -> None:
    picture = study.history_picture(
        [0.6, None, 0.9, 0.7, 0.8, None], ["COMPLETE", "FAIL", "PRUNED", "COMPLETE", "COMPLETE", "RUNNING"], NOTE
    )
    figure = only(picture)
    assert sorted(legend_names(picture)) == ["best so far", "complete", "failed", "guessing", "pruned"]
    guessing, best = marks(figure, Line)
    assert guessing.y == [0.5, 0.5]
    # The pruned trial is never the best.
    assert dict(zip(best.x, best.y, strict=True)) == {0: 0.6, 1: 0.6, 2: 0.6, 3: 0.7, 4: 0.8, 5: 0.8}
    assert [cross.x for cross in marks(figure, Cross)] == [1]
    points = series(figure)
    assert points["complete"] == [(0, 0.6), (3, 0.7), (4, 0.8)]
    assert points["pruned"] == [(2, 0.9)]
    assert points[""] == [(4, 0.8)]  # the best one is marked
    assert [label.text for label in marks(figure, Label)] == ["trial 4: 0.800"]
    assert picture.note == NOTE


def test_history_of_failures_only_or_of_nothing_can_be_drawn() -> None:
    assert legend_names(study.history_picture([None, None], ["FAIL", "FAIL"])) == ["guessing", "failed"]
    assert to_svg(study.history_picture([], []))


def test_a_running_trial_and_a_score_that_is_no_number_are_not_drawn() -> None:
    figure = only(study.history_picture([0.6, float("nan"), 0.9], ["COMPLETE", "COMPLETE", "RUNNING"]))
    assert [(dot.x, dot.y) for dot in marks(figure, Dot)] == [(0, 0.6), (0, 0.6)]


def test_cost_shows_each_trial_and_the_best_that_its_seconds_buy() -> None:
    picture = study.cost_picture([4.0, 1.0, 2.0, 8.0], [0.9, 0.6, 0.8, 0.7], ["b", "a", "b", "b"], NOTE)
    figure = only(picture)
    assert legend_names(picture) == ["b", "a"]  # the commonest first
    assert series(figure) == {"b": [(4, 0.9), (2, 0.8), (8, 0.7)], "a": [(1, 0.6)]}
    (line,) = marks(figure, Line)
    # Between two trials nothing better was to be had.
    expected = [(1, 0.6), (2, 0.6), (2, 0.8), (4, 0.8), (4, 0.9), (8, 0.9), (8, 0.9)]
    assert list(zip(line.x, line.y, strict=True)) == expected
    assert figure.x.log
    assert (figure.x.name, figure.y.name) == ("seconds", "ROC AUC")


def test_cost_of_many_backbones_gives_the_rarest_one_colour() -> None:
    names = [f"n{k}" for k in range(9)] + [f"n{k}" for k in range(6)]
    picture = study.cost_picture(range(1, 16), np.linspace(0.5, 0.9, 15), names)
    assert legend_names(picture)[-1] == "others"
    found = series(only(picture))
    assert sum(map(len, found.values())) == 15
    assert sorted(x for x, _ in found["others"]) == [7, 8, 9]
    colours = {dot.name: dot.colour for dot in marks(only(picture), Dot)}
    assert sorted(colours.values()) == sorted([*CYCLE, GREY])


def test_cost_of_one_trial_can_be_drawn() -> None:
    picture = study.cost_picture([3.0], [0.7], ["cnn"], NOTE)
    assert series(only(picture)) == {"cnn": [(3, 0.7)]}
    assert to_svg(picture)


def test_importances_are_bars_from_the_largest_down_with_their_numbers() -> None:
    figure = only(study.importances_picture({"dropout": 0.1, "backbone": 0.7, "epochs": 0.2}))
    assert figure.y.labels == ["backbone", "epochs", "dropout"]
    bars = marks(figure, Cell)
    assert [(bar.left, bar.width, bar.words) for bar in bars] == [(0, 0.7, "0.70"), (0, 0.2, "0.20"), (0, 0.1, "0.10")]
    assert [bar.low + bar.height / 2 for bar in bars] == pytest.approx(list(figure.y.ticks))
    assert figure.y.low > figure.y.high  # from the top


def test_slice_has_a_panel_for_each_parameter() -> None:
    params = {
        "learning_rate": [1e-4, 1e-2, 1e-3, None],
        "backbone": ["b", "a", "b", "a"],
        "balance": [True, False, True, True],
        "epochs": [5, 10, 20, 40],
        "dropout": [0.1, 0.2, 0.3, 0.4],
    }
    picture = study.slice_picture(params, [0.6, 0.9, None, 0.7], log=("learning_rate",), note=NOTE)
    figures = [panel.figure for panel in picture.panels]
    assert [figure.x.name for figure in figures] == list(params)
    assert [figure.x.log for figure in figures] == [True, False, False, False, False]
    rate, backbone, balance, epochs, _ = figures
    assert [(dot.x, dot.y) for dot in marks(rate, Dot)[:-1]] == [(1e-4, 0.6), (1e-2, 0.9)]
    best = marks(epochs, Dot)[-1]
    assert (best.x, best.y, best.colour) == (10, 0.9, ORANGE)
    assert {dot.colour for dot in marks(epochs, Dot)[:-1]} == {BLUE}
    assert (backbone.x.labels, balance.x.labels) == (["a", "b"], ["False", "True"])
    places = [dot.x for dot in marks(backbone, Dot)[:-1]]
    assert np.round(places).tolist() == [1, 0, 0]  # spread, yet in their place
    assert len({(figure.y.low, figure.y.high) for figure in figures}) == 1
    boxes = [panel.box for panel in picture.panels]
    assert all(a.right < b.left for a, b in pairwise(boxes[:4]))
    assert boxes[4].top > boxes[0].bottom


def test_a_parameter_of_many_choices_has_no_labels() -> None:
    (panel,) = study.slice_picture({"a": [f"choice {k}" for k in range(13)]}, [0.5] * 13).panels
    assert panel.figure.x.labels == [""]
    assert max(dot.x for dot in marks(panel.figure, Dot)) > 11


def test_slice_of_nothing_finished_can_be_drawn() -> None:
    assert to_svg(study.slice_picture({"a": [1, 2], "b": ["x", "y"]}, [None, None], log=("a",)))
    assert to_svg(study.slice_picture({}, []))


def test_intervals_tell_tied_trials_from_the_rest() -> None:
    picture = study.intervals_picture(
        ["trial 7", "trial 2", "trial 9"],
        [0.8, 0.79, 0.6],
        [0.7, 0.69, 0.5],
        [0.9, 0.89, 0.7],
        [True, True, False],
        NOTE,
    )
    figure = only(picture)
    assert series(figure) == {"tied with the best": [(0.8, 0), (0.79, 1)], "below the best": [(0.6, 2)]}
    ends = [(line.x, line.y, line.colour) for line in marks(figure, Line)]
    assert ends[2] == ([0.5, 0.7], [2, 2], GREY)
    assert figure.y.labels == ["trial 7", "trial 2", "trial 9"]
    assert figure.y.low > figure.y.high  # the best is at the top
    assert INTERVAL_NOTE in picture.detail


def test_a_trial_without_an_interval_is_a_point() -> None:
    nan = float("nan")
    figure = only(study.intervals_picture(["trial 7"], [0.8], [nan], [nan], [True]))
    assert [dot.title for dot in marks(figure, Dot)] == ["trial 7: 0.800"]
    assert figure.x.low < 0.8 < figure.x.high
    assert "nan" not in to_svg(study.intervals_picture(["trial 7"], [0.8], [nan], [nan], [True]))
