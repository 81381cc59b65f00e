from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.errors import MissingError
from bhsearch.evaluation.metrics import score
from bhsearch.lifecycle import build_report
from bhsearch.lifecycle.ranking import proposed_trial
from bhsearch.reporting.report_data import SealedCases
from bhsearch.reporting.study_report import report_page
from bhsearch.states import COMPLETE, FAILED
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import keys
from tests.studies import SMALL, STUDY, import_mlflow
from tests.tasks.samples import BINARY


@pytest.fixture
def opened(finished, monkeypatch, tmp_path):
    """The finished study, read back, and a client that writes nothing into its store."""
    import_mlflow()
    from bhsearch.tracking import reader as studies

    monkeypatch.chdir(tmp_path)
    shutil.copy(finished.folder / "mlflow.db", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        client.search_experiments()
    return client, studies.find_study(client), studies


@pytest.fixture
def report(opened):
    client, study, _ = opened
    return build_report.gather(client, study, ProgressReporter())


def test_trials_come_back_with_numbers_as_numbers(report, finished):
    held = finished.trials()
    assert [row.number for row in report.rows] == [trial.number for trial in held]
    for row, trial in zip(report.rows, held, strict=True):
        assert row.params == trial.params
        assert row.state == COMPLETE
        assert row.score == pytest.approx(trial.value)
        assert row.low < row.score < row.high
        assert row.milliseconds > 0
        assert 0.01 < row.megabytes < 1  # staintex-s has 0.01 MB of filters, and the heads of three folds
    assert report.ranked[0].tied


def test_a_backbone_costs_the_same_in_every_trial_and_a_view_as_much_as_another(report):
    """Not what the first trial took, which computed the features for all."""
    averaged = {row.number: row.params["views"] if row.params["tta"] else 1 for row in report.rows}
    assert len({round(row.milliseconds / averaged[row.number], 9) for row in report.rows}) == 1


def test_intervals_and_correction_are_those_that_the_study_printed(report, finished):
    record = finished.store.record(finished.store.parent(), "trials.json")
    for shown, row in zip(record["best"], report.ranked, strict=True):
        assert (shown["low"], shown["high"], shown["tied"]) == pytest.approx((row.low, row.high, row.tied))
    assert report.corrected is not None
    assert report.corrected.raw == pytest.approx(report.proposed.score)


def test_the_proposed_trial_is_the_one_that_the_study_logged(report, opened, finished):
    _, study, _ = opened
    logged = finished.store.parent().data.tags
    assert str(report.proposed.number) == logged["bhsearch.proposed_trial"]
    assert str(report.ranked[0].number) == logged["bhsearch.best_trial"]
    assert report.selection[0] == logged["bhsearch.proposed_because"]
    assert len(report.selection) == 2  # the second is about the default parameters
    assert proposed_trial(study).number == report.proposed.number  # which reads the predictions near the best only
    assert score(report.proposed_predictions, BINARY) == pytest.approx(report.proposed.score)


def test_it_knows_what_the_study_was_made_with(report):
    assert (report.study, report.data) == (STUDY, "phantom-cases24-images3")
    assert report.synthetic
    assert report.has_cases
    assert not report.invalid
    assert report.facts["searched on"].startswith("19 cases")
    assert report.n_cases[0] == 19
    assert {name for name, _, _ in report.space} == set(report.rows[0].params)
    assert report.log == []
    assert report.test is None
    assert report.openings == []


def test_it_knows_the_sealed_cases_by_class_before_they_are_opened(report):
    """Counted from what the study kept before its first trial: nothing of the sealed images is read."""
    index = phantom_dataset(SMALL["data"])
    hidden = ~np.isin(index.column("path"), report.proposed_predictions.path)
    cases = index.column("case")
    assert report.sealed == SealedCases(
        n_cases=len(set(cases[hidden])),
        n_benign=len(set(cases[hidden & (index.labels == 0)])),
        n_malignant=len(set(cases[hidden & (index.labels == 1)])),
        n_images=int(hidden.sum()),
    )


def test_it_says_when_how_and_on_what_the_study_was_made(report):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", report.made["begun"])
    assert report.made["time in trials"].endswith(", 4 trials")
    assert report.made["command"].startswith(f"python -m bhsearch.run --data {SMALL['data']} --trials 4")
    assert "core" in report.made["machine"]


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([(0, 1000), (1000, 3000)], 3),
        ([(0, 1000), (5000, 6000)], 2),  # a pause between sittings
        ([(0, 4000), (1000, 2000), (3000, 5000)], 5),  # side by side
    ],
)
def test_time_in_trials_counts_no_pause_and_nothing_twice(spans, seconds):
    assert build_report._covered(spans) == seconds


@pytest.mark.parametrize(
    ("seconds", "said"), [(4.25, "4.2 s"), (42, "42 s"), (200, "3 min 20 s"), (59.7, "60 s"), (7500, "2 h 5 min")]
)
def test_durations_are_said_in_two_units(seconds, said):
    assert build_report._duration(seconds) == said


def test_shown_images_are_of_development_cases_and_both_right_and_wrong(report):
    index = phantom_dataset(SMALL["data"])
    named = {case for shown in report.images for case in re.findall(r"case (\S+)", shown.caption)}
    assert named
    assert named <= set(report.proposed_predictions.case)
    assert named < set(index.column("case"))
    assert len({shown.correct for shown in report.images}) == 2


def test_changed_data_are_not_shown(opened):
    """An image of another patient under the old caption would be a lie."""
    client, study, _ = opened
    changed = replace(study, tags={**study.tags, "bhsearch.data_fingerprint": "0" * 16})
    found = build_report.gather(client, changed, ProgressReporter())
    assert found.images == []
    assert found.kept_images.startswith(b"<svg")
    gone = replace(study, settings={**study.settings, "data": "nowhere"})
    assert build_report.gather(client, gone, ProgressReporter()).images == []


def test_leaks_and_unknown_cases_are_invalid(opened, monkeypatch):
    client, study, studies = opened
    real = studies.read_record

    def leaky(owner, path):
        kept = real(owner, path)
        if path == keys.SPLIT:
            kept |= {"leaks": ["torn"], "why_not_promotable": "not known", "warnings": ["not known", "few"]}
        return kept

    monkeypatch.setattr(studies, "read_record", leaky)
    found = build_report.gather(client, study, ProgressReporter())
    assert list(found.invalid) == ["torn", "not known"]
    assert list(found.warnings) == ["few"]


def test_a_failed_trial_is_listed_with_its_reason(opened):
    client, study, studies = opened
    run = client.create_run(
        study.experiment_id,
        tags={
            "mlflow.parentRunId": study.run_id,
            keys.UID: study.uid,
            "bhsearch.trial": "4",
            "bhsearch.state": "fail",
            "bhsearch.reason": "it diverged",
        },
    )
    client.log_param(run.info.run_id, "views", 4)
    client.set_terminated(run.info.run_id, "FAILED")
    found = build_report.gather(client, studies.find_study(client), ProgressReporter())
    failed = found.rows[4]
    assert (failed.state, failed.score, failed.reason, failed.params) == (FAILED, None, "it diverged", {"views": 4})
    assert "it diverged" in report_page(found)


def test_an_opened_test_is_shown_with_its_count(opened):
    client, study, studies = opened
    for when, auc in (("2026-01-01", 0.9), ("2026-02-01", 0.7)):
        tags = {"mlflow.parentRunId": study.run_id, keys.OPENED: when, "bhsearch.opened_trial": "3"}
        run = client.create_run(study.experiment_id, tags=tags | {"bhsearch.openings": "2"})
        for name, value in (("auc", auc), ("auc_low", auc - 0.1), ("auc_high", auc + 0.1), ("brier", 0.2)):
            client.log_metric(run.info.run_id, f"test/{name}", value)
    # One that was broken off gave no number, and still counts.
    client.create_run(study.experiment_id, tags={"mlflow.parentRunId": study.run_id, keys.OPENED: "2026-03-01"})
    found = build_report.gather(client, studies.find_study(client), ProgressReporter())
    test = found.test
    assert test is not None
    assert (test.auc.value, test.auc.low, test.auc.high) == pytest.approx((0.9, 0.8, 1.0))  # the first
    assert test.opening.trial == "trial 3"
    assert [opening.auc is None for opening in found.openings] == [False, False, True]
    assert test.others["brier"].value == 0.2
    assert test.predictions is None  # this run kept none, and nothing computes them again
    assert "The gate did not decide" in report_page(found)


def test_trials_of_the_study_it_was_started_from_count_for_the_correction(opened, report):
    client, study, _ = opened
    started = replace(study, tags={**study.tags, "bhsearch.started_from": study.name})
    found = build_report.gather(client, started, ProgressReporter()).corrected
    assert (found.n_trials, report.corrected.n_trials) == (8, 4)
    lost = replace(study, tags={**study.tags, "bhsearch.started_from": "nosuch"})
    gathered = build_report.gather(client, lost, ProgressReporter())
    assert gathered.corrected is None
    assert "'nosuch'" in gathered.uncorrected


def test_a_study_that_has_not_ended_has_a_report_without_importances(opened, monkeypatch):
    client, study, studies = opened
    real = studies.read_record

    def running(owner, path):
        if path == keys.TRIALS:
            raise MissingError("not yet")
        return real(owner, path)

    monkeypatch.setattr(studies, "read_record", running)
    found = build_report.gather(client, study, ProgressReporter())
    assert found.importances == {}
    assert "Known once ten trials with different scores are complete" in report_page(found)


def test_the_record_of_the_space_is_read_whole(opened):
    _, study, studies = opened
    kept = studies.read_record(study, keys.SPACE)
    assert json.loads(json.dumps(kept)) == kept
    assert {len(row) for row in kept} == {9}
