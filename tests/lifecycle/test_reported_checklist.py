"""Filled items of the checklists are what the records of a registered study hold, read apart from the report."""

from __future__ import annotations

import pytest

from bhsearch.lifecycle.restore import complete_params_of
from bhsearch.reporting.checklists.base import FILLED
from bhsearch.reporting.checklists.page import checklists
from bhsearch.text import value_text
from bhsearch.tracking import keys
from tests.lifecycle.test_reported_gate import gathered
from tests.registered import History

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STUDY = "good-and-weak"


@pytest.fixture
def answers(history: History, monkeypatch):
    """Answers by guideline and number."""
    tripod, claim = checklists(gathered(history, STUDY, monkeypatch))
    return tripod.answers, claim.answers


@pytest.fixture
def study(history: History):
    from bhsearch.tracking import reader

    return reader.find_study(history.client, STUDY)


def test_counts_are_those_of_the_stored_split(answers, study):
    from bhsearch.tracking import reader

    tripod, claim = answers
    split, images = reader.read_record(study, keys.SPLIT), reader.read_record(study, keys.IMAGES)
    label = dict(zip(images["path"], images["label"], strict=True))
    kept = split["images"]
    for part, name in (("development", "Development"), ("test", "Held-out test")):
        rows = [
            (group, label[path])
            for path, group, where in zip(kept["path"], kept["group"], kept["part"], strict=True)
            if where == part
        ]
        n_all = len({group for group, _ in rows})
        n_benign, n_malignant = (len({group for group, found in rows if found == value}) for value in (0, 1))
        said = (
            f"{name}: {n_all} cases ({n_benign} with benign, {n_malignant} with malignant images), {len(rows)} images."
        )
        for answer in (tripod["20a"], tripod["21"], claim["35"]):
            assert answer.status == FILLED
            assert said in answer.value
    assert split["fingerprint"] in tripod["12a"].value
    assert f"folds: {split['n_folds']}" in claim["19"].value
    assert f"Folds keep together: {split['group_by']}." in claim["20"].value
    assert study.tags[keys.DATA_FINGERPRINT] in tripod["5a"].value


def test_model_and_software_are_those_of_the_run_of_the_trial(answers, study, history: History):
    from bhsearch.tracking import reader

    tripod, claim = answers
    (trial,) = [trial for trial in study.trials if trial.number == history.good.trial.number]
    for name, value in complete_params_of(study, trial).items():
        assert f"{name} {value_text(value, 3)}" in claim["25"].value
    found = reader.read_record(study, keys.VERSIONS)
    assert claim["23"].value == ", ".join(f"{name} {version}" for name, version in found.items())
    assert reader.read_record(study, keys.MADE)["command"].split()[0] in tripod["18f"].value
    assert study.settings["seed"] in claim["24"].value
    assert f"resized to {study.settings['image_size']} px ({study.settings['resize']})" in claim["9"].value


def test_performance_is_that_of_registering(answers, history: History):
    tripod, claim = answers
    tested = history.good.tested
    ends = tested.intervals["auc"]
    said = f"AUC {tested.values['auc']:.3f} [{ends.low:.3f} {ends.high:.3f}]"
    assert f"Sealed test: {said}" in tripod["23a"].value
    assert said in claim["32"].value
    assert f"Brier score {tested.values['brier']:.3f}" in claim["37"].value
    assert f"sensitivity {tested.values['sensitivity']:.3f}" in claim["38"].value
    assert f"probability of {history.good.point.threshold:.3f}" in tripod["15"].value
    corrected = history.good.corrected
    assert f"AUC {corrected.score:.3f} [{corrected.low:.3f} {corrected.high:.3f}]" in tripod["23a"].value
