"""Every item has one answer, nothing is filled without a value, and values are those of the report."""

from __future__ import annotations

import re

import pytest

from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.reporting.checklists.base import AUTHOR, FILLED, NOT_APPLICABLE, Answer, Checklist, Item, author
from bhsearch.reporting.checklists.page import checklist_page, checklists, counted
from bhsearch.reporting.checklists.study_facts import with_interval
from bhsearch.reporting.report_data import Measured, SealedCases
from bhsearch.reporting.study_report import SYNTHETIC
from bhsearch.text import value_text
from tests.reporting.reports import CURVE, ROBUST, make_report, registered, row

# Number of parts of each item of TRIPOD+AI that has several.
PARTS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
TRIPOD = [f"{item}{part}" for item in range(1, 28) for part in ("abcdefg"[: PARTS[item]] if item in PARTS else [""])]
CLAIM = [str(item) for item in range(1, 45)]
FACTS = {
    "data": "tissue",
    "folder": "path/to/data",
    "searched on": "26 cases, 977 images",
    "sealed": "16 cases, 40 images",
    "sealed by": "a stratified share of the cases",
    "folds": "5",
    "regime": "frozen",
    "folds keep together": "case",
    "image size": "96",
    "resize": "crop",
    "engine": "optuna",
    "sampler": "tpe",
    "seed": "7",
    "magnification": "100X",
    "data fingerprint": "0123abcd",
    "split fingerprint": "4567cdef",
}
FULL = {
    "facts": FACTS,
    "learning_curve": CURVE,
    "robustness": {3: ROBUST},
    "versions": {"bhsearch": "1.2.3", "keras": "3.0"},
}
TESTED = {**FULL, **registered()}
NO_TRIAL = {
    "rows": [row(0, None)],
    "proposed_predictions": None,
    "corrected": None,
    "n_cases": (0, 0, 0),
    "facts": {},
    "audit": [],
}
REPORTS = {"tested": TESTED, "searched": FULL, "little known": {}, "no trial": NO_TRIAL}


def answers_of(**changes):
    tripod, claim = checklists(make_report(**changes))
    return tripod.answers, claim.answers


@pytest.fixture(scope="module")
def tested():
    return answers_of(**TESTED)


@pytest.mark.parametrize("changes", REPORTS.values(), ids=REPORTS)
def test_every_item_is_there_once_and_nothing_is_filled_without_a_value(changes):
    report = make_report(**changes)
    found = checklists(report)
    assert len(TRIPOD) == 52
    for checklist, numbers in zip(found, (TRIPOD, CLAIM), strict=True):
        assert [item.number for item in checklist.items] == numbers
        assert set(checklist.answers) == set(numbers)
        assert sum(checklist.counts().values()) == len(numbers)
        for number, answer in checklist.answers.items():
            assert bool(answer.value) == (answer.status != AUTHOR), number
            assert answer.still or answer.status != AUTHOR, number
    page = checklist_page(report, found)
    assert re.findall(r"^\| (\d+[a-g]?) \|", page, re.MULTILINE) == TRIPOD + CLAIM


def test_an_unknown_fact_is_left_to_the_author():
    known, unknown = (answers_of(**changes)[0] for changes in (FULL, NO_TRIAL))
    for number in ("10", "12a", "12b", "12c", "13", "20a", "21", "23a"):
        assert unknown[number].status == AUTHOR, number
    assert {number for number, answer in known.items() if answer.status == FILLED} > {
        number for number, answer in unknown.items() if answer.status == FILLED
    }
    assert known["22"].status == known["12g"].status == known["20c"].status == AUTHOR  # nothing was tested


def test_data_split_and_sample_size_are_those_of_the_report(tested):
    tripod, claim = tested
    assert "Data set tissue (images), data fingerprint 0123abcd." in tripod["5a"].value
    assert "a stratified share of the cases of the same data set" in claim["7"].value
    assert "benign (0) or malignant (1)" in tripod["8a"].value
    for numbers in (tripod["21"].value, claim["35"].value):
        assert "26 cases (10 with benign, 16 with malignant images), 221 images" in numbers
        assert "16 cases (7 with benign, 9 with malignant images), 40 images" in numbers
    assert "folds: 5, split fingerprint 4567cdef" in claim["19"].value
    assert "Folds keep together: case" in claim["20"].value
    assert CURVE.sentence() in tripod["10"].value
    assert "resized to 96 px (crop)" in claim["9"].value
    assert claim["10"].value == "Only images at 100X were used."


def test_model_search_and_software_are_those_of_the_tested_trial(tested):
    tripod, claim = tested
    report = make_report(**TESTED)
    trial = report.rows[3]  # trial 3 was tested, trial 1 is the best
    for name, value in trial.params.items():
        assert f"{name} {value_text(value, 3)}" in claim["25"].value
    assert "mean of 5 heads" in claim["27"].value
    assert f"{trial.milliseconds:.2g} ms an image" in claim["22"].value
    assert "Search by optuna, sampler tpe." in tripod["12c"].value
    assert "4 complete of 5 trials" in tripod["12c"].value
    assert "Of the trials within 0.002 of the best score and tied with it, the cheapest" in claim["26"].value
    assert "Evaluated: trial 3." in claim["26"].value
    assert claim["23"].value == "bhsearch 1.2.3, keras 3.0"
    assert "random seed 7" in claim["24"].value
    assert "probability of 0.420" in tripod["15"].value
    assert "python -m bhsearch.run --data x" in tripod["18f"].value


def test_performance_has_the_intervals_of_the_report(tested):
    tripod, claim = tested
    report = make_report(**TESTED)
    for found in (tripod["23a"].value, claim["37"].value):
        assert f"Sealed test: AUC {with_interval(report.test.auc)}" in found
        assert "Corrected for having searched: AUC 0.640 [0.520 0.810]" in found
        assert "Brier score 0.123 [0.100 0.150]" in found
        assert "expected calibration error 0.050 [0.020 0.090]" in found
    assert "AUC 0.710 [0.600 0.800]" in claim["32"].value
    untested = answers_of(**FULL)[1]
    assert "Out of fold: sensitivity 0." in untested["38"].value
    assert "Sealed test" not in untested["37"].value
    assert untested["32"].status == AUTHOR


def test_robustness_is_that_of_the_tested_trial(tested):
    said = (
        "trial 3, out of fold, on shifted validation images: brightness x0.7: AUC -0.035, balanced accuracy -0.081, 23%"
    )
    assert said in tested[1]["30"].value
    assert answers_of(**FULL)[1]["30"].status == AUTHOR  # the best trial is another one


def test_leaks_few_cases_and_unknown_cases_are_said():
    leaky = answers_of(**{**TESTED, "invalid": ["7 cases are in several folds."]})
    assert "7 cases are in several folds." in leaky[0]["23a"].value
    assert "invalid as a measure" in leaky[0]["23a"].value
    assert "7 cases are in several folds." in leaky[1]["20"].value
    unknown = answers_of(**{**TESTED, "has_cases": False})
    assert "cases are unknown" in unknown[1]["20"].value
    few = answers_of(**{**TESTED, "sealed": SealedCases(7, 3, 4, 20)})
    assert "fewer than" in few[0]["23a"].value or "too few" in few[0]["23a"].value.lower()
    skipped = answers_of(**{**TESTED, "audit": ["error: Files that could not be read: 3"]})
    assert "Skipped images: 3 that could not be read." in skipped[0]["11"].value


def test_a_number_without_an_interval_shows_none():
    assert with_interval(Measured(0.5)) == "0.500"
    assert with_interval(Measured(0.5, 0.4, 0.6)) == "0.500 [0.400 0.600]"


def test_the_page_cites_the_guidelines_and_is_a_sound_table():
    report = make_report(**{**TESTED, "data": "a|b", "synthetic": True})
    found = checklists(report)
    page = checklist_page(report, found)
    assert DISCLAIMER in page
    assert SYNTHETIC in page
    assert "doi:10.1136/bmj-2023-078378" in page
    assert "doi:10.1148/ryai.240300" in page
    assert counted(found[0]).startswith("TRIPOD+AI: 27 items in 52 parts, ")
    assert counted(found[1]).startswith("CLAIM 2024: 44 items, ")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {5}
    assert r"a\|b" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nearly", "x"), "must be one of"),
        ((FILLED, " "), "must have a value"),
        ((NOT_APPLICABLE, ""), "must have a value"),
        ((AUTHOR, "x", "y"), "must not have a value"),
        ((AUTHOR, "", ""), "what to write"),
    ],
)
def test_an_answer_without_sense_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Answer(*arguments)


def test_answers_must_be_those_of_the_items():
    items = [Item("1", "Title", "title"), Item("2", "Title", "abstract")]
    with pytest.raises(ValueError, match=r"\['2'\]"):
        Checklist("a", "b", items, {"1": author("x")})
    with pytest.raises(ValueError, match="one answer per item"):
        Checklist("a", "b", [*items, items[0]], {"1": author("x"), "2": author("y")})
