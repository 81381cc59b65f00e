from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.photos import photo
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.report_data import Report, Shown, TestSummary, TrialRow
from bhsearch.evaluation.report_page import SYNTHETIC, report_page
from bhsearch.evaluation.selection import Corrected
from bhsearch.states import COMPLETE, FAILED
from tests.evaluation.simulated import simulate

VOID = {"meta", "link", "img", "br"}
BACKBONES = ("staintex-s", "staintex-l", "mobilenet-0.25", "a network of the user's own with a very long name")


def row(number: int, value: float | None, **changes: Any) -> TrialRow:
    params = {"backbone": BACKBONES[number % 4], "rate": 10.0 ** -(number % 5), "tta": number % 2 == 0, "views": 2}
    values: dict[str, Any] = {
        "number": number,
        "state": COMPLETE if value is not None else FAILED,
        "score": value,
        "low": value - 0.1 if value is not None else math.nan,
        "high": value + 0.1 if value is not None else math.nan,
        "tied": value is not None and value > 0.6,
        "seconds": 0.5 + number,
        "params": params,
        "reason": "" if value is not None else "diverged <script>",
    }
    return TrialRow(**{**values, **changes})


def make_report(**changes: Any) -> Report:
    best = simulate()
    picture = photo(np.full((8, 8, 3), 120, np.uint8), lossless=False)
    values: dict[str, Any] = {
        "study": "tissue <study>",
        "data": "tissue",
        "synthetic": False,
        "has_cases": True,
        "invalid": [],
        "warnings": ["5 of 5 folds hold few cases."],
        "n_cases": (26, 10, 16),
        "rows": [row(0, 0.55), row(1, score(best)), row(2, None), row(3, 0.62), row(4, 0.5)],
        "best": best,
        "corrected": Corrected(score(best), 0.64, 0.52, 0.81, 4, 26),
        "uncorrected": "",
        "test": None,
        "images": [Shown(picture, "benign, P 0.9\ncase 3", False), Shown(picture, "malignant, P 0.9\ncase 4", True)],
        "kept_images": b"",
        "importances": {"backbone": 0.7, "rate": 0.296, "tta": 0.004},
        "log": ["rate"],
        "space": [("backbone", "staintex-s, staintex-l", "network")],
        "facts": {"folder": "path/to/data"},
        "audit": ["Nothing odd was found."],
        "versions": {"keras": "3.0"},
    }
    return Report(**{**values, **changes})


class Reader(HTMLParser):
    """Checks that every element is closed in its turn, and keeps what is seen.

    Attributes:
        found: Name and attributes of every element.
        text: Everything that is said, without styles.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed inside another"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


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
    seen = read()
    first = seen.text[: seen.text.index("ROC curve of")]
    for said in ("AUC 0.64", "0.52 to 0.81", "Better than guessing", "Best of 4 trials", "26 cases", "still sealed"):
        assert said in first
    for said in ("2 of 4 trials are tied", "1 of 5 trials failed", "5 of 5 folds hold few cases.", DISCLAIMER):
        assert said in first
    assert "cheapest is trial 1 (1.5 s)" in first


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.4, 0.8, "It could be guessing"), (0.2, 0.45, "Worse than guessing"), (0.6, 0.9, "Better than guessing")],
)
def test_the_verdict_follows_the_interval(low, high, said):
    assert said in read(corrected=Corrected(0.9, (low + high) / 2, low, high, 4, 26)).text


def test_without_a_correction_the_best_score_says_that_it_is_none():
    seen = read(corrected=None, uncorrected="two trials are not at hand")
    assert "Best score of the search, not corrected" in seen.text
    assert "not at hand: two trials are not at hand" in seen.text


def test_an_opened_test_is_the_headline_with_the_count_of_openings():
    test = TestSummary(0.71, 0.6, 0.8, "trial 3", 2, {"brier": 0.123})
    seen = read(test=test)
    first = seen.text[: seen.text.index("ROC curve of")]
    assert "On sealed cases, opened 2 times: trial 3" in first
    assert "AUC 0.71" in first
    assert "still sealed" not in first
    assert "opened 2 times" in first
    assert "0.123" in seen.text
    assert "opened once" in read(test=replace(test, openings=1)).text


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
    test = TestSummary(0.71, 0.6, 0.8, "trial 3", 1, {})
    assert 'class="hero-result"' in report_page(make_report(invalid=["leak"], test=test))
    assert 'class="hero-result invalid"' in report_page(make_report(invalid=["leak"], test=test, has_cases=False))


def test_synthetic_data_are_said_to_be():
    assert SYNTHETIC in read(synthetic=True).text
    assert SYNTHETIC not in read().text


def test_images_that_are_gone_leave_the_picture_that_was_kept():
    kept = photo(np.full((8, 8, 3), 7, np.uint8))
    seen = read(images=[], kept_images=kept)
    assert [image["src"] for image in seen.all("img")] == [f"data:image/png;base64,{base64.b64encode(kept).decode()}"]
    assert "not where they were" in seen.text
    assert read(images=[]).all("img") == []


def test_a_study_without_a_finished_trial_says_why():
    seen = read(rows=[row(0, None)], best=None, corrected=None, images=[])
    assert "No trial has finished" in seen.text
    assert "diverged <script>" in seen.text


@pytest.mark.parametrize("n_trials", [1, 2, 60])
def test_few_and_many_trials_make_a_page(n_trials):
    best = simulate(seed=3)
    scores = np.linspace(0.4, 0.6, n_trials)
    rows = [row(number, float(value), seconds=0.0 if n_trials == 2 else 1.0) for number, value in enumerate(scores)]
    seen = read(rows=rows, best=best, importances={})
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
