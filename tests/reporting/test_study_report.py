from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.selection.nested import NestedScore
from bhsearch.evaluation.supplementary.auc_precision import auc_standard_error
from bhsearch.evaluation.supplementary.supplements import TITLES
from bhsearch.reporting.figures.thumbnails import encode_image
from bhsearch.reporting.report_data import Measured, SealedCases
from bhsearch.reporting.study_report import SYNTHETIC, report_page
from tests.evaluation.simulated import simulate
from tests.reporting.reports import (
    CURVE,
    REASON,
    REFUSED,
    ROBUST,
    TOO_FEW,
    Reader,
    make_report,
    opening,
    registered,
    row,
)


def read(**changes: Any) -> Reader:
    return Reader(report_page(make_report(**changes)))


def test_the_page_needs_nothing_but_itself():
    page = report_page(make_report())
    seen = Reader(page)
    assert not re.search(r"https?:|@import|url\(", page)
    assert seen.all("script") == seen.all("iframe") == []
    for tag, attributes in seen.found:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert "default-src 'none'" in page


def test_every_picture_decodes_and_says_what_it_shows():
    seen = read()
    assert len(seen.all("img")) == 2
    for image in seen.all("img"):
        assert image["alt"]
        Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition(",")[2]))).verify()
    assert len(seen.all("svg")) == 5
    for chart in seen.all("svg"):
        assert chart["role"] == "img"
        assert chart["aria-label"]


def test_it_fits_a_phone():
    """Whatever has a width of its own is a dot; a chart takes the width that there is."""
    page = report_page(make_report())
    assert 'content="width=device-width' in page
    assert all(int(pixels) < 60 for pixels in re.findall(r"[;{]width:(\d+)px", page))
    for chart in read().all("svg"):
        assert "width" not in chart
        assert (chart["viewbox"] or "").split()[2] == "360"


def test_every_trial_is_listed():
    seen = read()
    for number in range(5):
        assert f"trial {number}: " in seen.text
    assert "diverged <script>" in seen.text
    assert "a network of the user's own with a very long name" in seen.text


def test_text_of_the_data_is_no_markup():
    page = report_page(make_report())
    assert "<script" not in page
    assert "tissue &lt;study&gt;" in page


def test_the_first_screen_tells_the_corrected_score_and_how_far_to_trust_it():
    seen = read(selection=["Trial 1 has the best score and is proposed.", "Difference to the default: +0.1."])
    first = seen.text[: seen.text.index("ROC curve of")]
    for said in (
        "AUC 0.64",
        "0.52 to 0.81",
        "Selected from 4 trials",
        "26 cases in the search",
        "not opened for this study",
    ):
        assert said in first
    for said in ("2 of 4 trials are tied", "1 of 5 trials failed", "5 of 5 folds hold few cases.", DISCLAIMER):
        assert said in first
    assert "Trial 1 has the best score and is proposed. Difference to the default: +0.1." in first


def test_with_too_few_sealed_cases_the_corrected_score_leads_and_the_test_comes_last():
    few = "fewer than 5 of a class say little"
    enough = read(**registered())
    assert enough.text.index("Sealed test: numbers") < enough.text.index("Configuration of the proposed trial")
    assert few not in enough.text
    seen = read(**registered(compared=(4, 9)), sealed=SealedCases(13, 4, 9, 40))
    first = seen.text[: seen.text.index("Configuration of the proposed trial")]
    assert "AUC 0.64" in first
    assert "Score of the search, corrected for having searched" in first
    assert "on too few cases to come first" in first
    assert "Sealed test: numbers" not in first
    assert f"has 4 benign and 9 malignant cases, and {few}" in seen.text[seen.text.index("Sealed test: numbers") :]
    alone = read(**registered(compared=(4, 9)), sealed=SealedCases(13, 4, 9, 40), corrected=None, uncorrected="why")
    assert "AUC 0.71" in alone.text[: alone.text.index("Configuration of the proposed trial")]
    assert few not in alone.text  # there is no corrected score that could come first


CLAIMS = ("Better than guessing", "Worse than guessing", "It could be guessing")
CASES = {
    "promoted": (registered(), "Promoted to champion by the gate", REASON, CLAIMS[0]),
    "refused": (
        registered(low=0.4, verdict="refused", reason=REFUSED, alias=""),
        "Refused by the gate",
        REFUSED,
        CLAIMS[2],
    ),
    "forced": (
        registered(low=0.4, verdict="refused", reason=REFUSED, forced="to be beaten"),
        "Refused by the gate, promoted to champion by force",
        "Why it was promoted all the same: to be beaten",
        CLAIMS[2],
    ),
    "too few": (
        registered(compared=(2, 9), verdict="refused", reason=TOO_FEW, alias=""),
        "Refused by the gate: too few sealed cases",
        TOO_FEW,
        "",
    ),
    "too few and forced": (
        registered(compared=(2, 9), verdict="refused", reason=TOO_FEW, forced="to be beaten"),
        "Refused by the gate, promoted to champion by force",
        TOO_FEW,
        "",
    ),
    "nothing compared": (
        registered(compared=(0, 0), verdict="refused", reason=TOO_FEW, alias=""),
        "Refused by the gate: too few sealed cases",
        TOO_FEW,
        "",
    ),
    "undecided": (
        registered(compared=None, verdict="", reason="OSError: disk full", alias=""),
        "The gate did not decide",
        "OSError: disk full",
        "",
    ),
    "opened without a result": (
        {"openings": [opening(auc=None, verdict="", reason="RunError: a file is gone")]},
        "Opened without a result",
        "RunError: a file is gone",
        "",
    ),
    "not registered": ({}, "Not registered yet", "Not tested yet: 7 benign and 9 malignant cases are sealed", ""),
    "too few to register": (
        {"sealed": SealedCases(6, 2, 4, 12)},
        "Not registered yet",
        "It needs 5 benign and 5 malignant cases, but 2 benign and 4 malignant cases are sealed",
        "",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_screen_says_what_the_gate_said_and_claims_nothing_else(case):
    """The corrected score's interval lies above 0.5 in all of them: that alone is no claim."""
    changes, badge, reason, claim = CASES[case]
    seen = read(**changes)
    first = seen.text[: seen.text.index("Configuration of the proposed trial")]
    assert f" {badge} " in first
    assert reason in first
    assert [words for words in CLAIMS if words in seen.text] == ([claim] if claim else [])
    sealed = changes.get("sealed", SealedCases(16, 7, 9, 40))
    by_class = f"{sealed.n_benign} benign, {sealed.n_malignant} malignant"
    assert f"Sealed: {sealed.n_cases} cases ({by_class}), {sealed.n_images} images" in first


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.4, 0.8, CLAIMS[2]), (0.2, 0.45, CLAIMS[1]), (0.6, 0.9, CLAIMS[0]), (0.5, 0.9, CLAIMS[2])],
)
def test_the_claim_follows_the_interval_that_the_gate_looked_at(low, high, said):
    changes = registered(verdict="refused", alias="")
    changes["test"] = replace(changes["test"], decided=Measured((low + high) / 2, low, high))
    assert said in read(**changes).text


def test_roc_and_calibration_of_the_sealed_test_come_from_what_registering_kept():
    seen = read(**registered())
    assert "Sealed test: ROC curve of trial 3" in seen.text
    assert "n = 16 cases (6 benign, 10 malignant)" in seen.text
    assert "Threshold 0.420, fixed before the opening." in seen.text
    assert "Sealed test: decision curve" in seen.text
    assert "Sealed test: predicted probabilities" in seen.text
    assert len(seen.all("svg")) == 9
    lost = registered()
    lost["test"] = replace(lost["test"], predictions=None)
    assert "Sealed test: ROC" not in read(**lost).text
    assert "Sealed test: numbers" in read(**lost).text


def test_openings_for_other_studies_are_listed_and_counted():
    other = opening(study="another study", when="2026-02-01T00:00:00+00:00", alias="")
    seen = read(**(registered() | {"openings": [other, opening()]}))
    assert "opened 2 times" in seen.text
    assert "another study" in seen.text
    alone = read(openings=[other])
    assert "The sealed test is untouched" not in alone.text
    assert "opened before" in alone.text


def test_every_metric_has_its_interval():
    seen = read(**registered())
    for name in ("balanced accuracy", "sensitivity", "F1 score", "average precision", "Brier score"):
        _, _, after = seen.text.partition(f" {name} ")
        assert re.match(r"\s*0\.\d{3}\s+0\.\d{3} to [01]\.\d{3}", after), name


def test_subtypes_are_spelt_out():
    seen = read()
    for name in ("adenosis (A)", "fibroadenoma (F)", "ductal carcinoma (DC)", "lobular carcinoma (LC)"):
        assert name in seen.text


def test_importances_within_their_spread_are_not_shown():
    seen = read()
    assert "70% ± 20%" in seen.text
    assert "30% ± 30%" not in seen.text
    assert "Not larger than its spread, so not shown: rate, tta." in seen.text
    assert "No parameter stands out" in read(spread={"backbone": 0.7, "rate": 0.5, "tta": 0.1}).text
    assert "so none is shown" in read(spread={}).text


def test_the_proposed_trial_is_shown_with_its_configuration_and_cost():
    report = make_report()
    seen = read()
    best = report.proposed
    card = seen.text[seen.text.index("Configuration of the proposed trial, trial 1") :]
    assert "deployed: 1.5 ms an image, 0.1 MB of weights" in card
    for name, value in best.params.items():
        assert re.search(rf"{re.escape(name)}\s+{re.escape(str(value))}", card), name


def test_it_says_when_how_and_on_what_the_study_was_made():
    seen = read()
    for said in ("begun 2026-03-01 09:00 UTC", "python -m bhsearch.run \\\n--data x", "a computer", "keras 3.0"):
        assert said in seen.text


def test_costs_that_nobody_measured_are_left_out():
    seen = read(rows=[row(k, 0.5 + k / 10, milliseconds=math.nan, megabytes=math.nan) for k in range(3)])
    assert "Score and cost" not in seen.text
    assert "cost not measured" in seen.text
    assert "nan" not in seen.text.lower().split()


def test_the_roc_curve_starts_at_the_origin_of_a_square():
    chart = re.findall(r"<svg .*?</svg>", report_page(make_report()), re.DOTALL)[0]
    frame = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]+)"', chart)[0].split()]
    (left, bottom), (right, top) = frame  # the line of guessing
    assert right - left == pytest.approx(bottom - top, abs=0.2)
    curve = re.findall(r'points="([^"]+)"', chart)[-1].split()
    assert curve[0] == f"{left:.1f},{bottom:.1f}"
    assert curve[-1] == f"{right:.1f},{top:.1f}"


def test_without_a_correction_the_best_score_says_that_it_is_none():
    seen = read(corrected=None, uncorrected="two trials are not available")
    assert "Score of the search, not corrected" in seen.text
    assert "not available: two trials are not available" in seen.text


def test_an_opened_test_is_the_headline_with_the_count_of_openings():
    seen = read(**registered())
    first = seen.text[: seen.text.index("Sealed test: ROC curve")]
    assert "On sealed cases, opened once: trial 3" in first
    assert "AUC 0.71" in first
    assert "0.60 to 0.80" in first
    assert "not opened" not in first
    assert "0.123" in seen.text


def test_an_invalid_study_says_so_in_red_before_any_number():
    sentence = "Grouping by image puts 18 of 19 cases on both sides."
    page = report_page(make_report(invalid=[sentence]))
    seen = Reader(page)
    alarm = re.search(r'<div class="alarm" role="alert">(.*?)</div>', page)
    assert alarm is not None
    assert sentence in alarm[1]
    assert "invalid as a measure of performance" in alarm[1]
    assert page.index(sentence) < page.index("AUC")
    assert re.search(r"\.alarm\{[^}]*color:var\(--red\)", page)
    assert re.search(r"\.invalid \.big,\.invalid \.kicker\{color:var\(--red\)", page)
    assert 'class="hero-result invalid"' in page
    assert "Not a result" in seen.text
    assert "Better than guessing" not in seen.text


def test_a_valid_study_has_no_alarm():
    page = report_page(make_report())
    assert 'class="alarm"' not in page
    assert 'class="hero-result"' in page


def test_a_test_by_case_stands_even_where_the_folds_leak_but_not_where_cases_are_unknown():
    assert 'class="hero-result"' in report_page(make_report(invalid=["leak"], **registered()))
    unknown = report_page(make_report(invalid=["leak"], has_cases=False, **registered()))
    assert 'class="hero-result invalid"' in unknown
    assert "Better than guessing" not in unknown


def test_synthetic_data_are_said_to_be():
    assert SYNTHETIC in read(synthetic=True).text
    assert SYNTHETIC not in read().text


def test_images_that_are_gone_leave_the_picture_that_was_kept():
    kept = encode_image(np.full((8, 8, 3), 7, np.uint8))
    seen = read(images=[], kept_images=kept)
    assert [image["src"] for image in seen.all("img")] == [f"data:image/png;base64,{base64.b64encode(kept).decode()}"]
    assert "not where they were" in seen.text
    assert read(images=[]).all("img") == []


def test_a_study_without_a_finished_trial_says_why():
    seen = read(rows=[row(0, None)], proposed_predictions=None, corrected=None, images=[])
    assert "No trial has finished" in seen.text
    assert "diverged <script>" in seen.text


@pytest.mark.parametrize("n_trials", [1, 2, 60])
def test_few_and_many_trials_make_a_page(n_trials):
    best = simulate(seed=3)
    scores = np.linspace(0.4, 0.6, n_trials)
    rows = [
        row(number, float(value), milliseconds=math.nan if n_trials == 2 else 1.0)
        for number, value in enumerate(scores)
    ]
    seen = read(rows=rows, proposed_predictions=best, importances={})
    assert f"trial {n_trials - 1}: AUC" in seen.text
    assert "nan" not in seen.text.lower().split()


def test_nothing_in_a_chart_lies_outside_it():
    page = report_page(make_report())
    for chart in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        box = re.search(r'viewBox="0 0 (\d+) ([\d.]+)"', chart)
        assert box is not None
        width, height = float(box[1]), float(box[2])
        for x, y in re.findall(r'<(?:text x|circle cx)="([-\d.]+)" c?y="([-\d.]+)"', chart):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height
        for points in re.findall(r'points="([^"]+)"', chart):
            places = np.array([[float(v) for v in pair.split(",")] for pair in points.split()])
            assert (places >= 0).all()
            assert (places <= [width, height]).all()


def test_the_first_screen_says_what_the_sealed_cases_can_show():
    report = make_report(sealed=SealedCases(16, 7, 9, 40))
    page = report_page(report)
    error = auc_standard_error(report.corrected.score, 7, 9)
    assert "What 16 sealed cases can show" in page
    assert f"a standard error of {error:.3f}" in page


def test_the_numbers_of_the_search_include_calibration_slope_and_case_level_auc():
    page = report_page(make_report())
    for title in TITLES.values():
        assert title in page


def test_the_learning_curve_says_what_as_many_cases_again_would_give():
    seen = read(learning_curve=CURVE)
    assert CURVE.sentence() in seen.text
    assert any((chart["aria-label"] or "").startswith("Learning curve") for chart in seen.all("svg"))
    nothing = read(no_learning_curve="not computed; reason")
    assert "Not computed; reason." in nothing.text
    assert not any((chart["aria-label"] or "").startswith("Learning curve") for chart in nothing.all("svg"))


def test_the_robustness_of_trials_and_the_effect_of_each_shift_are_shown():
    seen = read(robustness={1: ROBUST, 3: ROBUST})
    assert "brightness x0.7" in seen.text
    for number in ("-0.035", "-0.012", "-0.081", "12%", "0.7654", "+0.010", "23%"):
        assert number in seen.text, number
    assert "Trial 1, the best" in seen.text
    assert "is missing" not in seen.text
    assert "Trial 1, now the best, is missing" in read(robustness={3: ROBUST}).text
    assert "the command of the study with --robustness computes it" in read().text


def test_the_nested_search_is_among_the_evidence():
    seen = read(nested=NestedScore(0.6123, 0.5, 0.7, 50, 5))
    assert "Nested search: AUC 0.6123" in seen.text
    assert "5 searches of 50 trials" in seen.text
    assert "Nested search" not in read().text


def test_the_reason_of_a_missing_number_wraps():
    """A cell that never breaks would push the table out of its card."""
    page = report_page(make_report(**registered()))
    assert set(re.findall(r'<td class="([^"]+)">not applicable: too few', page)) == {"text"}
    assert re.findall(r'<td class="number">0.600 to 0.800', page)
