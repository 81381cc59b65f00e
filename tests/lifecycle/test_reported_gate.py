"""The report says what the gate said, on real registered versions: forced, promoted, refused, too few."""

from __future__ import annotations

import pytest

from bhsearch.lifecycle import build_report
from bhsearch.reporting import gate_status
from bhsearch.reporting.study_report import report_page
from bhsearch.study.events import ProgressReporter
from tests.registered import WHY, History

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def gathered(history: History, name: str, monkeypatch):
    from bhsearch.tracking import reader

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{history.folder}/mlflow.db")
    monkeypatch.chdir(history.folder)
    return build_report.gather(history.client, reader.find_study(history.client, name), ProgressReporter())


def test_every_opening_has_the_verdict_that_registering_gave(history: History, monkeypatch):
    report = gathered(history, "good-and-weak", monkeypatch)
    given = [history.weak, history.good, history.again, history.worse]
    assert len(report.openings) == len(given)
    for opening, result in zip(report.openings, given, strict=True):
        assert opening.trial == f"trial {result.trial.number}"
        assert opening.verdict == ("passed" if result.verdict.promote else "refused")
        assert opening.reason == result.verdict.reason
        assert opening.alias == (result.alias if result.promoted else "")
        assert opening.forced == (WHY if result.promoted == "force" else "")
        assert opening.auc is not None
        assert opening.auc.value == pytest.approx(result.tested.values["auc"])


def test_the_version_promoted_last_is_the_headline(history: History, monkeypatch):
    report = gathered(history, "good-and-weak", monkeypatch)
    assert report.test is not None
    assert report.test.opening.trial == f"trial {history.good.trial.number}"
    assert gate_status.gate_status(report).kind == gate_status.PROMOTED


def test_without_a_promotion_the_first_test_is_the_headline_and_not_a_later_one(history: History, monkeypatch):
    """Only the first test is unbiased; the last may be the best or the worst of many."""
    report = gathered(history, "twin", monkeypatch)
    assert report.test is not None
    found = gate_status.gate_status(report)
    assert (found.kind, found.badge) == (gate_status.REFUSED, "Refused by the gate")
    assert found.reasons[0] == history.again.verdict.reason
    kept = report.test.predictions
    assert kept is not None
    assert kept.probability == pytest.approx(history.again.tested.predictions.probability)
    assert report.test.threshold == history.again.point.threshold
    assert report.test.compared == (report.sealed.n_benign, report.sealed.n_malignant)
    assert f"Sealed test: ROC curve of trial {history.again.trial.number}" in report_page(report)


def test_too_few_cases_claim_nothing(history: History, monkeypatch):
    report = gathered(history, "few", monkeypatch)
    assert (report.sealed.n_benign, report.sealed.n_malignant) == (3, 4)
    page = report_page(report)
    assert "Refused by the gate: too few sealed cases" in page
    assert "Too few cases to decide" in page
    assert "guessing: the 95 % interval" not in page
