"""Pictures of a trial: the data that the axes hold, and what is said beside them."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, Interval, group_draws
from bhsearch.evaluation.curves import precision_recall_band, roc_band
from bhsearch.reporting.figures import palette, trial
from bhsearch.reporting.figures.marks import Area, Bar, Cell, Dot, Label, Line
from bhsearch.reporting.figures.picture import Panel, Picture
from bhsearch.reporting.svg.picture import to_svg
from tests.evaluation.simulated import simulate
from tests.reporting.drawn import Drawn
from tests.tasks.samples import BINARY


def marks(panel: Panel, kind: type) -> list:
    return [mark for mark in panel.figure.marks if isinstance(mark, kind)]


def said(picture: Picture) -> str:
    """All that is written in a picture."""
    return "\n".join(Drawn(to_svg(picture)).words)


def test_learning_curves_hold_every_epoch() -> None:
    picture = trial.learning_picture([0.6, 0.7, 0.65], [0.7, 0.6, 0.62], training_loss=[0.7, 0.5, 0.4])
    upper, lower = picture.panels
    (score,) = marks(upper, Line)
    assert (score.x, score.y) == ([1, 2, 3], [0.6, 0.7, 0.65])
    assert [(line.name, line.y) for line in marks(lower, Line)] == [
        ("validation", [0.7, 0.6, 0.62]),
        ("training", [0.7, 0.5, 0.4]),
    ]
    assert "0.650" in said(picture)  # the last epoch, not the best
    assert upper.shares_x
    assert not lower.shares_x


def test_a_validation_curve_holds_every_penalty_from_the_strongest_one() -> None:
    auc, loss, training = [0.6, 0.7, 0.65], [0.7, 0.6, 0.62], [0.7, 0.5, 0.4]
    picture = trial.learning_picture(auc, loss, "", training, "log10 of the L2 penalty", [3.5, 3.0, 2.5])
    upper, lower = picture.panels
    (score,) = marks(upper, Line)
    assert (score.x, score.y) == ([3.5, 3.0, 2.5], [0.6, 0.7, 0.65])
    assert (upper.figure.x.low, upper.figure.x.high) == (lower.figure.x.low, lower.figure.x.high) == (3.75, 2.25)
    assert picture.title == "Validation curve"
    assert lower.figure.x.name == "log10 of the L2 penalty"


def test_steps_without_a_number_are_left_out_and_many_steps_have_no_points() -> None:
    _, lower = trial.learning_picture([0.6, 0.7, 0.8], [0.7, float("nan"), 0.5]).panels
    (loss,) = marks(lower, Line)
    assert (loss.x, loss.y) == ([1, 3], [0.7, 0.5])
    assert len(marks(lower, Dot)) == 2
    upper, _ = trial.learning_picture([0.5] * 31, [0.5] * 31).panels
    assert marks(upper, Dot) == []


@pytest.mark.parametrize("with_band", [True, False])
def test_curves_hold_the_mean_and_say_what_the_band_is(with_band: bool) -> None:
    base = simulate(20)
    draws = group_draws(base.group, base.stratum, 20) if with_band else None
    for band, make in (
        (roc_band(base, draws), trial.roc_picture),
        (precision_recall_band(base, draws), trial.precision_recall_picture),
    ):
        picture = make(band, 0.75)
        (panel,) = picture.panels
        guessing, mean = marks(panel, Line)
        assert mean.y[-len(band.mean) :] == band.mean.tolist()
        assert guessing.y[-1] in (1, band.base)
        assert len(marks(panel, Area)) == int(with_band)
        assert (INTERVAL_NOTE in said(picture)) == with_band


def test_precision_of_guessing_is_written_at_its_line() -> None:
    band = precision_recall_band(simulate(20))
    assert f"guessing {band.base:.2f}" in said(trial.precision_recall_picture(band, 0.8))


def test_an_interval_is_written_with_its_warning() -> None:
    text = said(trial.roc_picture(roc_band(simulate(20)), 0.75, Interval(0.61, 0.88)))
    assert "AUC 0.750 [0.610, 0.880]" in text
    assert INTERVAL_NOTE in text


def test_calibration_draws_the_filled_bins_and_all_the_weight() -> None:
    bins = (np.array([[0.4, 0.6, *[0.0] * 8]]), np.array([[0.05, 0.15, *[np.nan] * 8]]), np.full((1, 10), 0.5))
    upper, lower = trial.calibration_picture(bins, 0.1).panels
    diagonal, curve = marks(upper, Line)
    assert (diagonal.x, diagonal.y) == ([0, 1], [0, 1])
    assert np.allclose([curve.x, curve.y], [[0.05, 0.15], [0.5, 0.5]])
    assert np.allclose([(dot.x, dot.y) for dot in marks(upper, Dot)], [(0.05, 0.5), (0.15, 0.5)])
    assert [bar.height for bar in marks(lower, Bar)] == pytest.approx([0.4, 0.6, *[0] * 8])
    assert upper.figure.headline == "ECE 0.100"


def test_confusion_shows_counts_and_shares_of_the_true_class() -> None:
    images = np.array([[[30.0, 10.0], [5.0, 15.0]], [[32.0, 8.0], [5.0, 15.0]]])
    picture = trial.confusion_picture(images, images / 10, BINARY)
    left, right = (marks(panel, Cell) for panel in picture.panels)
    assert [cell.words for cell in left] == ["31\n78%", "9\n22%", "5\n25%", "15\n75%"]
    assert [cell.words for cell in right] == ["3.1\n78%", "0.9\n22%", "0.5\n25%", "1.5\n75%"]
    corners = [(cell.left, cell.low) for cell in left]
    assert corners == [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)]  # (predicted, true)
    assert left[0].colour == palette.blues(31 / 40 / 1.15)
    axes = picture.panels[0].figure
    assert axes.y.low > axes.y.high  # the first class is at the top
    assert (axes.x.labels, axes.y.labels) == (["benign", "malignant"], ["benign", "malignant"])
    assert "9 benign predicted malignant" in picture.alt


def test_the_last_point_is_the_one_that_is_labelled() -> None:
    upper, _ = trial.learning_picture([0.6, 0.9, 0.7], [0.7, 0.6, 0.62]).panels
    assert [(label.x, label.y, label.text) for label in marks(upper, Label)] == [(3, 0.7, "0.700")]
