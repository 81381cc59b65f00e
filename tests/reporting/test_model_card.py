from __future__ import annotations

import base64
import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.layouts.breakhis import SUBTYPES
from bhsearch.errors import RunError
from bhsearch.evaluation.calibration import CALIBRATION_NOTE, THRESHOLD_RULE, Calibration, OperatingPoint
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.selection.bbc_cv import CORRECTED_NOTE, CorrectedScore
from bhsearch.evaluation.subgroups import COLUMNS, subgroup_results
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.reporting.figures.thumbnails import encode_image
from bhsearch.reporting.model_card import LIMITS, NO_ROBUSTNESS, USE, ModelCard, TestMetric, WorstImage
from tests.evaluation.simulated import simulate
from tests.reporting.reports import ROBUST
from tests.tasks.samples import BINARY


def picture(shade: int) -> bytes:
    """A PNG file of one shade."""
    return encode_image(np.full((4, 6, 3), shade, np.uint8))


def make_card(**changes: Any) -> ModelCard:
    """A whole card."""
    predictions = simulate()
    parts = {
        name: subgroup_results(predictions, cross_fitted_labels(predictions, BINARY), name, BINARY) for name in COLUMNS
    }
    values: dict[str, Any] = {
        "title": "tissue, version 1",
        "synthetic": False,
        "model": {"backbone": "staintex-s"},
        "use": list(USE),
        "source": "Somebody 2016",
        "licence": "CC BY 4.0",
        "data": {"name": "tissue <b>"},
        "split": {"sealed": "5 cases"},
        "audit": ["Nothing odd was found."],
        "corrected": CorrectedScore(0.9, 0.85, 0.7, 0.95, 0.75, 12, 30),
        "leads": "test",
        "corrected_for": "It is for the best-scoring trial, which this model is.",
        "test": {"auc": TestMetric(0.8123, 0.6, 0.9, "30 cases, 90 images")},
        "remarks": ["A calibrated model has slope 1."],
        "gate": ["The AUC must be above 0.5."],
        "openings": ["2026-01-02, study, trial 3"],
        "point": OperatingPoint(Calibration(1.25, -0.5), 0.4321, 0.21, 0.19),
        "before": {"ece": 0.2},
        "after": {"ece": 0.1},
        "subtypes": parts["subtype"],
        "magnifications": parts["magnification"],
        "cases": parts["case"],
        "worst": [WorstImage("case 7 | benign", picture(10), picture(20))],
        "pictures": {"ROC curve": picture(30)},
        "robustness": ROBUST,
        "limits": list(LIMITS),
    }
    return ModelCard(**{**values, **changes})


@pytest.mark.parametrize(
    "name", [f.name for f in fields(ModelCard) if f.name not in ("synthetic", "point", "robustness")]
)
def test_an_empty_field_is_an_error_that_names_it(name):
    empty: dict[type, Any] = {str: "", float: float("nan"), dict: {}, list: []}
    whole = getattr(make_card(), name)
    with pytest.raises(RunError, match=f"`{name}"):
        make_card(**{name: empty.get(type(whole))})


@pytest.mark.parametrize(
    ("changes", "hole"),
    [
        ({"test": {"auc": TestMetric(0.8, 0.7, 0.9, "")}}, r"test\['auc'\]\.n"),
        ({"point": OperatingPoint(Calibration(1.0, 0.0), float("nan"), 0.2, 0.2)}, r"point\.threshold"),
        ({"data": {"name": " "}}, r"data\['name'\]"),
        ({"test": {"auc": TestMetric(0.8, float("nan"), 0.9, "9 cases")}}, r"test\['auc'\]\.low"),
        ({"audit": ["fine", ""]}, r"audit\[1\]"),
        ({"worst": [WorstImage("case", b"", b"x")]}, r"worst\[0\]\.picture"),
        ({"robustness": replace(ROBUST, auc=float("nan"))}, r"robustness\.auc"),
        ({"corrected": CorrectedScore(0.9, float("nan"), 0.1, 0.2, 0.1, 3, 4)}, r"corrected\.score"),
    ],
)
def test_something_empty_deep_in_a_field_is_found(changes, hole):
    with pytest.raises(RunError, match=hole):
        make_card(**changes)


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_metric_without_an_interval_says_why(form):
    nan = float("nan")
    card = make_card(test={"auc": TestMetric(0.8, nan, nan, "9 cases", "only one benign case")})
    text = getattr(card, form)()
    assert "none: only one benign case" in text
    assert "nan to nan" not in text


def test_no_field_can_be_left_out():
    with pytest.raises(TypeError, match="licence"):
        ModelCard(**{f.name: getattr(make_card(), f.name) for f in fields(ModelCard) if f.name != "licence"})


def test_errors_before_and_after_are_the_same_ones():
    with pytest.raises(RunError, match="brier"):
        make_card(after={"brier": 0.1})


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_everything_that_must_be_known_is_said(form):
    text = getattr(make_card(), form)()
    for said in (DISCLAIMER, CORRECTED_NOTE, CALIBRATION_NOTE, "0.850 [0.700 0.950]", "0.812", "0.600 to 0.900"):
        assert said in text
    for said in (*USE, "Somebody 2016", "CC BY 4.0", "30 cases, 90 images", "must be above 0.5", THRESHOLD_RULE):
        assert said in text, said
    for said in ("0.432", "slope 1.250, offset -0.500", "opened once", "2026-01-02", "ROC curve", "Nothing odd"):
        assert said in text
    for part in make_card().cases:
        assert part.name in text


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_the_effect_of_each_shift_or_its_absence_is_said(form):
    text = getattr(make_card(), form)()
    for said in ("brightness x0.7", "-0.035", "-0.081", "23%"):
        assert said in text, said
    assert "23%" not in getattr(make_card(robustness=NO_ROBUSTNESS), form)()
    assert "Not computed for this trial" in getattr(make_card(robustness=NO_ROBUSTNESS), form)()


def test_a_second_opening_stands_beside_the_numbers():
    assert "opened 2 times" in make_card(openings=["first", "second"]).markdown()


def test_synthetic_data_are_said_to_be():
    assert "Synthetic data" in make_card(synthetic=True).markdown()
    assert "Synthetic data" in make_card(synthetic=True).html()
    assert "Synthetic data" not in make_card().html()


def test_the_page_holds_its_pictures_and_loads_nothing():
    page = make_card().html()
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert {base64.b64decode(data) for data in shown} == {picture(10), picture(20), picture(30)}
    assert not re.search(r"https?://|<script|url\(", page)


def test_text_of_the_data_is_not_taken_for_markup():
    page = make_card().html()
    assert "tissue &lt;b&gt;" in page
    assert "<b>" not in page


def test_the_written_markdown_shows_files_that_are_there(tmp_path):
    make_card().write(tmp_path)
    text = (tmp_path / "card.md").read_text()
    names = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(names) == 3
    for name in names:
        Image.open(tmp_path / name).verify()
    assert "![" not in make_card().markdown()


def test_a_bar_in_a_name_does_not_break_the_table():
    card = make_card()
    broken = replace(card.cases[0], name="a|b")
    assert "| a\\|b (" in make_card(cases=[broken]).markdown()


def test_parts_say_on_how_much_each_number_rests():
    card = make_card()
    lines = card.markdown().splitlines()
    for part in card.subtypes:
        name = f"{SUBTYPES[part.name]} ({part.name})"
        cells = f"| {name} ({part.kind}) | {part.n_images:,} | {part.n_cases} | {part.accuracy:.0%} |"
        assert cells in lines
    assert any(line.startswith("| 40X (both classes) |") for line in lines)


def test_with_too_few_test_cases_the_corrected_score_comes_first():
    for leads, titles in (
        ("test", ["Sealed test", "After the search"]),
        ("corrected", ["After the search", "Sealed test"]),
    ):
        text = make_card(leads=leads).markdown()
        places = [text.index(f"## {title}") for title in titles]
        assert places[0] < text.index("## Gate") < places[1]
