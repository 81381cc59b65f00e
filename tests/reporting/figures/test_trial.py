"""Pictures of a trial: the data that the axes hold, and what is said beside them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.collections import CircleCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE, Interval, group_draws
from bhsearch.evaluation.curves import precision_recall_band, roc_band
from bhsearch.evaluation.metrics import calibration_bins, confusion
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting.figures import style, trial
from bhsearch.reporting.figures.templates import Panel
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

NOTE = "synthetic data (phantom)"


def said(picture: Figure | Panel) -> str:
    """All that is written in a picture."""
    over = [] if isinstance(picture, Figure) else [item for item in picture.artists if isinstance(item, Text)]
    figure = picture if isinstance(picture, Figure) else picture.template.figure
    inside = [text for axes in figure.axes for text in axes.texts]
    return "\n".join(text.get_text() for text in [*figure.texts, *inside, *over])


def make_all() -> dict[str, Figure | Panel]:
    base = simulate(20)
    draws = group_draws(base.group, base.stratum, 20)
    called = cross_fitted_labels(base, BINARY).predicted
    return {
        "learning": trial.learning_figure([0.6, 0.7], [0.7, 0.6], NOTE),
        "roc": trial.roc_figure(roc_band(base, draws), 0.75, Interval(0.6, 0.9), NOTE).panel(),
        "precision": trial.precision_recall_figure(precision_recall_band(base, draws), 0.8, None, NOTE).panel(),
        "calibration": trial.calibration_figure(calibration_bins(base), 0.1, NOTE),
        "confusion": trial.confusion_figure(
            confusion(base, called, np.ones_like(base.weight)), confusion(base, called, base.weight), BINARY, NOTE
        ),
    }


def test_every_picture_shows_the_note_and_decodes_640_wide() -> None:
    for name, figure in make_all().items():
        assert NOTE in said(figure), name
        image = Image.open(io.BytesIO(style.to_png(figure)))
        assert image.size == (640, 420 if name == "confusion" else 480), name


def test_learning_curves_hold_every_epoch() -> None:
    figure = trial.learning_figure([0.6, 0.7, 0.65], [0.7, 0.6, 0.62], training_loss=[0.7, 0.5, 0.4])
    upper, lower = figure.axes
    assert upper.lines[0].get_xydata().tolist() == [[1, 0.6], [2, 0.7], [3, 0.65]]
    assert [line.get_ydata().tolist() for line in lower.lines] == [[0.7, 0.6, 0.62], [0.7, 0.5, 0.4]]
    assert "0.650" in said(figure)  # the last epoch, not the best


def test_a_validation_curve_holds_every_penalty_from_the_strongest_one() -> None:
    auc, loss, training = [0.6, 0.7, 0.65], [0.7, 0.6, 0.62], [0.7, 0.5, 0.4]
    figure = trial.learning_figure(auc, loss, NOTE, training, "log10 of the L2 penalty", [3.5, 3.0, 2.5])
    upper, lower = figure.axes
    assert upper.lines[0].get_xydata().tolist() == [[3.5, 0.6], [3.0, 0.7], [2.5, 0.65]]
    assert upper.get_xlim() == lower.get_xlim() == (3.75, 2.25)
    assert "Validation curve" in said(figure)
    assert lower.get_xlabel() == "log10 of the L2 penalty"


@pytest.mark.parametrize("penalties", [None, [3.5]])
def test_a_single_step_can_be_drawn(penalties: list[float] | None) -> None:
    assert style.to_png(trial.learning_figure([0.6], [0.7], penalties=penalties))


@pytest.mark.parametrize("with_band", [True, False])
def test_curves_hold_the_mean_and_say_what_the_band_is(with_band: bool) -> None:
    base = simulate(20)
    draws = group_draws(base.group, base.stratum, 20) if with_band else None
    for band, make in (
        (roc_band(base, draws), trial.roc_figure),
        (precision_recall_band(base, draws), trial.precision_recall_figure),
    ):
        picture = make(band, 0.75).panel()
        guessing, *area, mean = [item for item in picture.artists if not isinstance(item, Text)]
        assert mean.get_ydata()[-len(band.mean) :].tolist() == band.mean.tolist()
        assert guessing.get_ydata()[-1] in (1, band.base)
        assert len(area) == int(with_band)
        assert (INTERVAL_NOTE in said(picture)) == with_band


def test_precision_of_guessing_is_written_at_its_line() -> None:
    band = precision_recall_band(simulate(20))
    assert f"guessing {band.base:.2f}" in said(trial.precision_recall_figure(band, 0.8).panel())


def test_an_interval_is_written_with_its_warning() -> None:
    text = said(trial.roc_figure(roc_band(simulate(20)), 0.75, Interval(0.61, 0.88)).panel())
    assert "AUC 0.750  [0.610, 0.880]" in text
    assert INTERVAL_NOTE in text


def test_a_figure_over_a_cached_frame_is_the_whole_figure() -> None:
    """The notebook's figure and MLflow's picture are the same pixels, but for the edges of letters and lines."""
    base = simulate(20)
    titled = trial.roc_figure(roc_band(base, group_draws(base.group, base.stratum, 20)), 0.75, Interval(0.6, 0.9), NOTE)
    panel, whole = (
        np.asarray(Image.open(io.BytesIO(style.to_png(picture))), int) for picture in (titled.panel(), titled.figure())
    )
    assert (np.abs(panel - whole) > 40).any(axis=-1).mean() < 0.002


def test_calibration_draws_the_filled_bins_and_all_the_weight() -> None:
    bins = (np.array([[0.4, 0.6, *[0.0] * 8]]), np.array([[0.05, 0.15, *[np.nan] * 8]]), np.full((1, 10), 0.5))
    picture = trial.calibration_figure(bins, 0.1)
    lines = [item for item in picture.artists if isinstance(item, Line2D)]
    (points,) = [item for item in picture.artists if isinstance(item, CircleCollection)]
    (bars,) = [item for item in picture.artists if isinstance(item, PolyCollection)]
    assert lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert np.allclose(lines[1].get_xydata(), [[0.05, 0.5], [0.15, 0.5]])
    assert np.allclose(points.get_offsets(), lines[1].get_xydata())
    assert [bar.get_extents().height for bar in bars.get_paths()] == pytest.approx([0.4, 0.6, *[0] * 8])
    assert "ECE 0.100" in said(picture)


def test_confusion_shows_counts_and_shares_of_the_true_class() -> None:
    images = np.array([[[30.0, 10.0], [5.0, 15.0]], [[32.0, 8.0], [5.0, 15.0]]])
    artists = trial.confusion_figure(images, images / 10, BINARY).artists
    counts = [item.get_text() for item in artists if isinstance(item, Text)]
    left, right = counts[:4], counts[4:]
    assert left == ["31\n78%", "9\n22%", "5\n25%", "15\n75%"]
    assert right == ["3.1\n78%", "0.9\n22%", "0.5\n25%", "1.5\n75%"]
