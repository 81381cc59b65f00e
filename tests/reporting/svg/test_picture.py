"""Pictures as SVG files: the numbers that they describe, and nothing cut off, covered or too large."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bhsearch.evaluation import curves, metrics
from bhsearch.evaluation.bootstrap import Interval, group_draws
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting.figures import image_grid, study, trial
from bhsearch.reporting.figures.augmentation import augmentation_picture
from bhsearch.reporting.figures.picture import Picture
from bhsearch.reporting.html import data_uri
from bhsearch.reporting.svg.picture import to_svg
from tests.evaluation.simulated import simulate
from tests.reporting.drawn import NS, Drawn
from tests.tasks.samples import BINARY

NOTES = ("", "synthetic data (phantom)", "grouped by image: pictures of one case on both sides <&>", "合成データ" * 8)
PRECISION = 0.05 * 1.01  # of positions in units


def make_all(note: str) -> dict[str, Picture]:
    """Every picture of a trial and of a study, also with long names and extreme numbers."""
    base = simulate(20)
    draws = group_draws(base.group, base.stratum, 20)
    decisions = cross_fitted_labels(base, BINARY)
    one = np.ones_like(base.weight)
    matrices = [metrics.confusion(base, decisions.predicted, weight) for weight in (one, base.weight)]
    long = replace(BINARY, class_names=("atypical <ductal> hyperplasia & more", "浸潤性乳管癌"))
    examples = image_grid.pick_examples(base, decisions, BINARY)
    pixels = np.random.default_rng(0).integers(0, 255, (len(examples), 48, 48, 3), np.uint8)
    params = {
        "learning_rate": [1e-4, 1e-2, 1e-3, None] * 3,
        "backbone": ["a network with a very long name", "b", "c", "d"] * 3,
        "epochs": [5, 10, 20, 40] * 3,
        "dropout": [0.1, 0.2, 0.3, 0.4] * 3,
        "same": [1.0] * 12,
        "tiny": [1.23e-7, 2e-7, 3e-7, 4e-7] * 3,
    }
    scores = np.linspace(0.5, 0.9, 12).tolist()
    names = [f"network {k} with a long name" for k in range(12)]
    return {
        "learning": trial.learning_picture([0.6, 0.7, 0.65], [0.7, 0.6, 0.62], note, [0.7, 0.5, 0.4]),
        "validation": trial.learning_picture([0.6, 0.7], [1e4, 2e-7], note, [0.7, 0.5], "log10 penalty", [3.5, 3.0]),
        "one step": trial.learning_picture([0.6], [0.7], note),
        "no number": trial.learning_picture([0.6, 0.7], [float("nan")] * 2, note),
        "100 steps": trial.learning_picture(np.linspace(0.5, 0.9, 100), np.linspace(1e-5, 9e-5, 100), note),
        "roc": trial.roc_picture(curves.roc_band(base, draws), 0.75, Interval(0.6, 0.9), note),
        "precision": trial.precision_recall_picture(curves.precision_recall_band(base, draws), 0.8, None, note),
        "calibration": trial.calibration_picture(metrics.calibration_bins(base), 0.1, note),
        "confusion": trial.confusion_picture(*matrices, BINARY, note),
        "confusion, long names": trial.confusion_picture(*matrices, long, note, "a sample " * 20),
        "grid": image_grid.grid_picture(pixels, examples, note),
        "history": study.history_picture([*scores, None, 0.6], ["COMPLETE"] * 12 + ["FAIL", "PRUNED"], note),
        "empty history": study.history_picture([], [], note),
        "cost": study.cost_picture([0.01 * 3**k for k in range(12)], scores, names, note),
        "importances": study.importances_picture({"a" * 60: 0.7, "b": 0.25, "c": 0.05, "d": 0.0}, note),
        "no importances": study.importances_picture({}, note),
        "slice": study.slice_picture(params, scores, ("learning_rate",), note),
        "empty slice": study.slice_picture({"a": [1, 2], "b": ["x", "y"]}, [None, None], ("a",), note),
        "best": study.intervals_picture(names, scores, scores, scores, [True] * 5 + [False] * 7, note),
        "augmentation": augmentation_picture([(f"policy {k}", list(pixels[:7])) for k in range(3)], note),
    }


@pytest.mark.parametrize("note", NOTES)
def test_nothing_is_outside_or_over_other_words(note):
    for name, picture in make_all(note).items():
        drawn = Drawn(to_svg(picture))
        assert drawn.outside() == [], name
        assert drawn.overlapping() == [], name
        assert picture.title in drawn.words
        shown = "".join("".join(drawn.words).split())
        assert "".join(note.split()) in shown, name
        assert drawn.root.find(f"{NS}title").text == picture.title
        assert note.rstrip(".") in drawn.root.find(f"{NS}desc").text


def test_files_are_small():
    for name, picture in make_all(NOTES[1]).items():
        if not picture.tiles:
            assert len(to_svg(picture).encode()) < 40_000, name


def test_the_curve_and_the_band_are_those_of_the_description():
    """Read off the labels of the ticks, as a person would."""
    base = simulate(20)
    band = curves.roc_band(base, group_draws(base.group, base.stratum, 20))
    drawn = Drawn(to_svg(trial.roc_picture(band, 0.75)))
    x, y = {"0.2": 0.2, "0.8": 0.8}, {"0.2": 0.2, "0.8": 0.8}
    guessing, curve = (drawn.to_data(drawn.points(line), x, y) for line in drawn.all("polyline"))
    (area,) = (drawn.to_data(drawn.points(polygon), x, y) for polygon in drawn.all("polygon"))
    near = {"rtol": 0, "atol": 2 * PRECISION / 300}
    np.testing.assert_allclose(guessing, [(0, 0), (1, 1)], **near)
    np.testing.assert_allclose(curve, [(0, 0), *zip(band.x, band.mean, strict=True)], **near)
    low = [(0, 0), *zip(band.x, band.low, strict=True)]
    np.testing.assert_allclose(area, [(0, 0), *zip(band.x, band.high, strict=True), *low[::-1]], **near)


def test_learning_curves_have_a_point_for_every_step():
    losses = [0.7, 0.62, 0.6, 0.64]
    drawn = Drawn(to_svg(trial.learning_picture([0.6, 0.7, 0.68, 0.65], losses)))
    _, loss = drawn.all("polyline")
    found = drawn.to_data(drawn.points(loss), {"1": 1, "4": 4}, {"0.60": 0.6, "0.70": 0.7})
    np.testing.assert_allclose(found, list(zip((1, 2, 3, 4), losses, strict=True)), rtol=0, atol=2e-3)
    assert len(drawn.all("circle")) == 8


def test_dots_have_their_place_and_bars_their_height():
    bins = (np.array([[0.4, 0.6, *[0.0] * 8]]), np.array([[0.05, 0.15, *[np.nan] * 8]]), np.full((1, 10), 0.5))
    drawn = Drawn(to_svg(trial.calibration_picture(bins, 0.1)))
    places = np.array([(float(c.get("cx")), float(c.get("cy")) + drawn.shift) for c in drawn.all("circle")])
    _, curve = (drawn.points(line) for line in drawn.all("polyline"))
    np.testing.assert_allclose(places, curve, atol=2 * PRECISION)
    bars = [rect for rect in drawn.all("rect") if rect.get("fill-opacity") == "0.45"]
    heights = np.array([float(bar.get("height")) for bar in bars])
    np.testing.assert_allclose(heights[:2] / heights[0], [1, 1.5], atol=0.02)
    assert (heights[2:] == 0).all()


def test_images_are_embedded_and_need_no_other_file():
    pixels = np.stack([np.full((300, 300, 3), 10 * k, np.uint8) for k in range(6)])
    examples = [image_grid.Example(k, k % 2 == 0, f"P 0.5{k}, benign\ncase {k}") for k in range(6)]
    drawn = Drawn(to_svg(image_grid.grid_picture(pixels, examples)))
    images = drawn.all("image")
    for number, element in enumerate(images):
        kind, _, content = element.get("href").partition(",")
        assert kind == "data:image/jpeg;base64"
        shown = np.asarray(Image.open(io.BytesIO(b64decode(content))))
        assert max(shown.shape) <= 144
        assert np.abs(shown.astype(int) - 10 * number).max() <= 2
    places = [(float(element.get("y")), float(element.get("x"))) for element in images]
    assert places == sorted(places)


def test_a_page_can_embed_the_file():
    assert data_uri(to_svg(study.history_picture([0.6], ["COMPLETE"])).encode()).startswith(
        "data:image/svg+xml;base64,"
    )


def test_headlines_are_read_out():
    base = simulate(20)
    picture = trial.roc_picture(curves.roc_band(base), 0.75, Interval(0.6, 0.9), "synthetic data")
    described = Drawn(to_svg(picture)).root.find(f"{NS}desc").text
    assert described.startswith("AUC 0.750 [0.600, 0.900]. out-of-fold")
    assert described.endswith("synthetic data.")
