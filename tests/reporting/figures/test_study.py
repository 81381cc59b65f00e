"""Pictures of a study: what the axes hold, also where trials failed or parameters are missing."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.reporting.figures import study, style

NOTE = "synthetic data (phantom)"


def legend_names(figure: Figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def series(figure: Figure) -> dict[str, list[list[float]]]:
    """The points of each series by its name in the legend."""
    return {points.get_label(): points.get_offsets().tolist() for points in figure.axes[0].collections}


def test_history_draws_each_state_and_the_best_so_far() -> None:
    figure = study.history_figure(
        [0.6, None, 0.9, 0.7, 0.8, None], ["COMPLETE", "FAIL", "PRUNED", "COMPLETE", "COMPLETE", "RUNNING"], NOTE
    )
    axes = figure.axes[0]
    assert sorted(legend_names(figure)) == ["best so far", "complete", "failed", "guessing", "pruned"]
    guessing, best, failed = axes.lines
    assert guessing.get_ydata().tolist() == [0.5, 0.5]
    assert dict(best.get_xydata().tolist()) == {0: 0.6, 1: 0.6, 2: 0.6, 3: 0.7, 4: 0.8, 5: 0.8}  # never the pruned one
    assert [x for x, _ in failed.get_xydata()] == [1]
    points = series(figure)
    assert points["complete"] == [[0, 0.6], [3, 0.7], [4, 0.8]]
    assert points["pruned"] == [[2, 0.9]]
    assert points[""] == [[4, 0.8]]  # the best one is marked
    assert axes.texts[0].get_text() == "trial 4: 0.800"


def test_history_of_failures_only_or_of_nothing_can_be_drawn() -> None:
    assert legend_names(study.history_figure([None, None], ["FAIL", "FAIL"])) == ["guessing", "failed"]
    assert style.to_png(study.history_figure([], []))


def test_a_running_trial_and_a_score_that_is_no_number_are_not_drawn() -> None:
    axes = study.history_figure([0.6, float("nan"), 0.9], ["COMPLETE", "COMPLETE", "RUNNING"]).axes[0]
    assert [points.get_offsets().tolist() for points in axes.collections] == [[[0, 0.6]], [[0, 0.6]]]


def test_cost_shows_each_trial_and_the_best_that_its_seconds_buy() -> None:
    figure = study.cost_figure([4.0, 1.0, 2.0, 8.0], [0.9, 0.6, 0.8, 0.7], ["b", "a", "b", "b"], NOTE)
    axes = figure.axes[0]
    assert legend_names(figure) == ["b", "a"]  # the commonest first
    assert series(figure) == {"b": [[4, 0.9], [2, 0.8], [8, 0.7]], "a": [[1, 0.6]]}
    (line,) = axes.lines
    # Between two trials nothing better was to be had.
    assert line.get_xydata().tolist() == [[1, 0.6], [2, 0.6], [2, 0.8], [4, 0.8], [4, 0.9], [8, 0.9], [8, 0.9]]
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("seconds", "ROC AUC")
    assert NOTE in [text.get_text() for text in figure.texts]
    assert style.to_png(figure)


def test_cost_of_many_backbones_gives_the_rarest_one_colour() -> None:
    names = [f"n{k}" for k in range(9)] + [f"n{k}" for k in range(6)]
    figure = study.cost_figure(range(1, 16), np.linspace(0.5, 0.9, 15), names)
    assert legend_names(figure)[-1] == "others"
    found = series(figure)
    assert sum(map(len, found.values())) == 15
    assert sorted(x for x, _ in found["others"]) == [7, 8, 9]


def test_cost_of_one_trial_can_be_drawn() -> None:
    figure = study.cost_figure([3.0], [0.7], ["cnn"], NOTE)
    assert figure.axes[0].collections[0].get_offsets().tolist() == [[3, 0.7]]
    assert style.to_png(figure)


def test_importances_stand_in_order_with_their_numbers() -> None:
    axes = study.importances_figure({"dropout": 0.1, "backbone": 0.7, "epochs": 0.2}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dropout", "epochs", "backbone"]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.2, 0.7]
    assert style.to_png(study.importances_figure({}))


def test_slice_has_a_panel_for_each_parameter() -> None:
    params = {
        "learning_rate": [1e-4, 1e-2, 1e-3, None],
        "backbone": ["b", "a", "b", "a"],
        "balance": [True, False, True, True],
        "epochs": [5, 10, 20, 40],
        "dropout": [0.1, 0.2, 0.3, 0.4],
    }
    figure = study.slice_figure(params, [0.6, 0.9, None, 0.7], log=("learning_rate",), note=NOTE)
    assert [axes.get_xlabel() for axes in figure.axes] == list(params)
    rate, backbone, balance, epochs, _ = figure.axes
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear", "linear", "linear", "linear"]
    assert rate.collections[0].get_offsets().tolist() == [[1e-4, 0.6], [1e-2, 0.9]]
    assert epochs.collections[1].get_offsets().tolist() == [[10, 0.9]]  # the best one
    assert [label.get_text() for label in backbone.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in balance.get_xticklabels()] == ["False", "True"]
    assert np.round(backbone.collections[0].get_offsets()[:, 0]).tolist() == [1, 0, 0]  # spread, yet in their place
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_slice_of_nothing_finished_can_be_drawn() -> None:
    assert style.to_png(study.slice_figure({"a": [1, 2], "b": ["x", "y"]}, [None, None], log=("a",)))
    assert style.to_png(study.slice_figure({}, []))


def test_intervals_tell_tied_trials_from_the_rest() -> None:
    figure = study.intervals_figure(
        ["trial 7", "trial 2", "trial 9"],
        [0.8, 0.79, 0.6],
        [0.7, 0.69, 0.5],
        [0.9, 0.89, 0.7],
        [True, True, False],
        NOTE,
    )
    axes = figure.axes[0]
    tied, rest = axes.lines
    assert tied.get_xydata().tolist() == [[0.8, 0], [0.79, 1]]
    assert rest.get_xydata().tolist() == [[0.6, 2]]
    assert axes.collections[1].get_segments()[0].tolist() == [[0.5, 2], [0.7, 2]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["trial 7", "trial 2", "trial 9"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best stands at the top
    assert any(INTERVAL_NOTE in text.get_text() for text in figure.texts)


def test_every_picture_shows_the_note_and_decodes() -> None:
    for figure in (
        study.history_figure([0.6], ["COMPLETE"], NOTE),
        study.importances_figure({"a": 1.0}, NOTE),
        study.slice_figure({"a": [1.0]}, [0.6], (), NOTE),
        study.intervals_figure(["t"], [0.6], [0.5], [0.7], [True], NOTE),
    ):
        assert NOTE in [text.get_text() for text in figure.texts]
        image = Image.open(io.BytesIO(style.to_png(figure)))
        assert image.size == tuple(np.round(figure.get_size_inches() * style.DPI).astype(int))
