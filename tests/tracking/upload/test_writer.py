"""A study as MLflow runs: each trial once, whatever died before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bhsearch.errors import StudyError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.tracking import keys
from tests.reporting.reports import ROBUST
from tests.studies import Store, import_mlflow, killed_at

import_mlflow()
from bhsearch.tracking import reader  # noqa: E402
from bhsearch.tracking.upload.writer import RunWriter, find_study_run, runs_of_trials, stored_predictions  # noqa: E402

# Keras writes its weights with TensorFlow's arrays, which are a version of NumPy behind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NUMBERS = [0, 1, 2]


def log_all(client, outbox) -> RunWriter:
    runs = RunWriter(client, outbox.study())
    for number in outbox.waiting():
        log(runs, outbox, number)
    return runs


def log(runs, outbox, number) -> None:
    runs.log_trial(outbox.trial(number))


def test_a_study_that_is_opened_again_has_one_run(client, outbox, tmp_path):
    first, second = RunWriter(client, outbox.study()), RunWriter(client, outbox.study())
    assert first.run_id == second.run_id == Store(tmp_path).parent().info.run_id
    uid = outbox.study().record["uid"]
    assert find_study_run(client, first.experiment_id, uid) == first.run_id
    assert find_study_run(client, first.experiment_id, "another") is None


def test_trials_are_logged_once_however_often_they_are_sent(client, outbox, tmp_path):
    log_all(client, outbox)
    before = {number: run.info.run_id for number, run in Store(tmp_path).children().items()}
    log_all(client, outbox)
    assert {number: run.info.run_id for number, run in Store(tmp_path).children().items()} == before
    assert list(before) == NUMBERS


@pytest.mark.parametrize("step", ["_log_facts", "_log_dataset", "_log_model"])
def test_a_run_that_was_half_written_is_written_again(client, outbox, tmp_path, step):
    runs = RunWriter(client, outbox.study())
    with killed_at(RunWriter, step):
        log(runs, outbox, 0)
    store = Store(tmp_path)
    (half,) = store.children().values()
    assert half.info.status == "RUNNING"
    log(RunWriter(client, outbox.study()), outbox, 0)
    (whole,) = store.children().values()
    assert whole.info.status == "FINISHED"
    assert whole.info.run_id != half.info.run_id
    assert "auc" in whole.data.metrics
    assert "pictures/roc.svg" in store.files(whole)


def test_a_run_that_another_command_gave_up_is_written_again(client, outbox, tmp_path):
    """It took a trial for lost whose record was on its way."""
    log_all(client, outbox)
    store = Store(tmp_path)
    client.set_terminated(store.children()[1].info.run_id, "FAILED")
    log_all(client, outbox)
    assert [run.info.status for run in store.children().values()] == ["FINISHED"] * len(NUMBERS)
    assert "auc" in store.children()[1].data.metrics


def test_a_failed_trial_is_a_failed_run_with_its_reason(client, outbox, tmp_path):
    record = outbox.trial(0).record
    failed = {key: record[key] for key in ("number", "params", "started_ms", "ended_ms")}
    outbox.put(0, failed | {"state": "FAIL", "reason": "it diverged"}, {})
    outbox.sent(0)
    outbox.release(0)
    RunWriter(client, outbox.study()).log_trial(outbox.trial(0))
    (run,) = Store(tmp_path).children().values()
    assert run.info.status == "FAILED"
    assert run.data.tags["bhsearch.reason"] == "it diverged"
    assert run.data.tags["bhsearch.state"] == "fail"
    assert run.data.params == {name: str(value) for name, value in record["params"].items()}
    assert run.data.metrics == {}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_retry_names_the_run_of_its_trial_whichever_is_logged_first(client, outbox, tmp_path, order):
    """The uploader of a command may send a trial of a dead worker after another uploader has sent the retry."""
    first, retry = outbox.trial(0), outbox.trial(1)
    failed = {key: first.record[key] for key in ("number", "params", "started_ms", "ended_ms")}
    messages = [
        replace(first, record=failed | {"state": "FAIL", "reason": "its process died"}, arrays={}),
        replace(retry, record=retry.record | {"retry_of": 0}),
    ]
    for number in order:  # each by an uploader of its own
        RunWriter(client, outbox.study()).log_trial(messages[number])
    runs = Store(tmp_path).children()
    assert runs[1].data.tags["bhsearch.retry_of"] == "0"
    assert runs[1].data.tags["bhsearch.retry_of_run"] == runs[0].info.run_id
    assert "bhsearch.retry_of" not in runs[0].data.tags


def test_runs_have_the_times_of_their_trials(client, outbox, tmp_path):
    """They are logged later, and by another process."""
    log(RunWriter(client, outbox.study()), outbox, 1)
    (run,) = Store(tmp_path).children().values()
    record = outbox.trial(1).record
    assert (run.info.start_time, run.info.end_time) == (record["started_ms"], record["ended_ms"])


def test_predictions_come_back_as_they_were_computed(client, outbox):
    runs = log_all(client, outbox)
    record = outbox.study().record
    kept = stored_predictions(client, record["experiment"], record["uid"])
    assert sorted(kept) == NUMBERS
    for number, predictions in kept.items():
        assert isinstance(predictions, Predictions)
        assert (predictions.probability == outbox.trial(number).arrays["probability"]).all()
        assert (predictions.fold == outbox.study().arrays["fold"]).all()
    assert sorted(runs_of_trials(client, runs.experiment_id, record["uid"])) == NUMBERS


def test_a_store_without_the_experiment_has_no_predictions(client):
    assert stored_predictions(client, "nosuch", "uid") == {}


def test_the_end_closes_the_study_with_its_pictures(client, outbox, tmp_path):
    runs = RunWriter(client, outbox.study())
    assert Store(tmp_path).parent().info.status == "RUNNING"
    runs.log_end(outbox.end())
    end = outbox.end().record
    parent = Store(tmp_path).parent()
    assert parent.info.status == end["status"] == "FINISHED"
    assert parent.data.metrics["trial/best"] == end["best"][0]["score"] == end["corrected"]["raw"]
    for name, key in (("auc", "score"), ("auc_low", "low"), ("auc_high", "high"), ("auc_bound", "bound")):
        assert parent.data.metrics[f"corrected/{name}"] == end["corrected"][key]
    assert "pictures/history.svg" in Store(tmp_path).files(parent)
    assert parent.data.tags["mlflow.note.content"] == end["summary"]


def test_a_model_lies_in_the_experiment_of_its_run(client, outbox):
    """And a trial's own metrics are the model's, too."""
    runs = log_all(client, outbox)
    models = client.search_logged_models([runs.experiment_id])
    of_runs = {run.info.run_id: run for run in Store(Path.cwd()).children().values()}
    assert {model.source_run_id for model in models} == set(of_runs)
    for model in models:
        metrics = {metric.key: metric.value for metric in model.metrics}
        assert metrics["auc"] == of_runs[model.source_run_id].data.metrics["auc"]


def test_a_study_that_goes_on_runs_again(client, outbox, tmp_path):
    RunWriter(client, outbox.study()).log_end(outbox.end())
    RunWriter(client, outbox.study())
    assert Store(tmp_path).parent().info.status == "RUNNING"


def test_a_study_with_another_backbone_shows_its_new_space(client, outbox, tmp_path):
    """The parent run was made when the study was smaller."""
    RunWriter(client, outbox.study())
    message = outbox.study()
    message.record["files"]["space.json"] = ["grown"]
    outbox.put_study(message.record, message.arrays)
    RunWriter(client, outbox.study())
    store = Store(tmp_path)
    assert store.record(store.parent(), "study/space.json") == ["grown"]


def test_licences_are_on_all_runs(client, outbox, tmp_path):
    log_all(client, outbox)
    store = Store(tmp_path)
    assert store.parent().data.tags["bhsearch.licences"] == '{"staintex-s": "no weights"}'
    assert {run.data.tags["bhsearch.licence"] for run in store.children().values()} == {"no weights"}
    assert not any("commercial" in run.data.tags["mlflow.note.content"] for run in store.children().values())


@pytest.mark.parametrize("first", [None, '{"other": "mit"}'])
def test_a_study_that_goes_on_shows_the_licences_of_now(client, outbox, tmp_path, first):
    """A study of an earlier version has none, and a study may get another backbone."""
    message = outbox.study()
    now = message.record["tags"].pop("bhsearch.licences")
    if first is not None:
        message.record["tags"]["bhsearch.licences"] = first
    outbox.put_study(message.record, message.arrays)
    log(RunWriter(client, outbox.study()), outbox, 0)
    store = Store(tmp_path)
    assert store.parent().data.tags.get("bhsearch.licences") == first
    # Without a record, the name tells that a filter bank has no weights.
    assert store.children()[0].data.tags["bhsearch.licence"] == ("no weights" if first is None else "unknown")
    message.record["tags"]["bhsearch.licences"] = now
    outbox.put_study(message.record, message.arrays)
    RunWriter(client, outbox.study())
    assert store.parent().data.tags["bhsearch.licences"] == now


def test_no_password_is_kept_in_the_parameters(client, outbox, tmp_path):
    RunWriter(client, outbox.study())
    assert Store(tmp_path).parent().data.params["config/storage"] == "sqlite:///optuna.db"


def test_an_end_without_a_correction_has_no_metric_of_it(client, outbox, tmp_path):
    end = outbox.end()
    record = {**end.record, "corrected": None}
    RunWriter(client, outbox.study()).log_end(replace(end, record=record))
    assert not [name for name in Store(tmp_path).parent().data.metrics if name.startswith("corrected")]


def test_robustness_is_on_the_runs_of_the_trials_and_comes_back(client, outbox, tmp_path):
    log_all(client, outbox)
    end = outbox.end()
    # Another process, which has not logged the trials itself, logs the end.
    runs = RunWriter(client, outbox.study())
    runs.log_end(replace(end, record={**end.record, "robustness": {"1": ROBUST.to_record()}}))
    store = Store(tmp_path)
    logged = {number: run.data.metrics for number, run in store.children().items()}
    assert {name: logged[1][f"robustness/{name}"] for name in ROBUST.metrics()} == ROBUST.metrics()
    assert not [name for name in logged[0] if name.startswith("robustness/")]
    assert reader.robustness_of(reader.read_study(client, store.parent())) == {1: ROBUST}
    # A later command that does not compute it keeps it.
    RunWriter(client, outbox.study()).log_end(end)
    assert reader.robustness_of(reader.read_study(client, store.parent())) == {1: ROBUST}


def test_the_studys_run_has_a_point_per_trial_that_grows_as_they_come(client, outbox, tmp_path):
    runs = RunWriter(client, outbox.study())
    scores = [outbox.trial(number).record["score"] for number in NUMBERS]
    for number in NUMBERS:
        log(runs, outbox, number)
        for name, values in (("trial/auc", scores), ("trial/best", np.maximum.accumulate(scores))):
            points = client.get_metric_history(runs.run_id, name)
            assert {point.step: point.value for point in points} == pytest.approx(dict(enumerate(values[: number + 1])))
    log(RunWriter(client, outbox.study()), outbox, 1)  # sent again
    assert len(client.get_metric_history(runs.run_id, "trial/auc")) == len(NUMBERS)


def test_the_last_point_is_the_best_of_all_in_whichever_order_they_were_logged(client, outbox, tmp_path):
    runs = RunWriter(client, outbox.study())
    for number in reversed(NUMBERS):
        log(runs, outbox, number)
    runs.log_end(outbox.end())
    assert Store(tmp_path).parent().data.metrics["trial/best"] == max(
        outbox.trial(number).record["score"] for number in NUMBERS
    )


def test_settings_are_resolved_and_stand_apart(client, outbox, tmp_path):
    """What `auto` stood for on the device is known when the first trial has ended."""
    runs = RunWriter(client, outbox.study())
    assert "config/feature_backend" not in Store(tmp_path).parent().data.params
    log(runs, outbox, 0)
    params = Store(tmp_path).parent().data.params
    assert all(name.startswith("config/") for name in params)
    assert not {"auto", "None", "()", "[]", ""} & set(params.values())
    expected = {
        "layout": "phantom",
        "regime": "frozen",
        "sampler": "tpe",
        "pruner": "none",
        "feature_backend": "openvino",
    }
    assert {name: params[f"config/{name}"] for name in expected} == expected
    assert params["config/study"] == outbox.study().record["study"]


def test_nothing_is_written_to_an_experiment_of_an_earlier_schema(client, outbox):
    record = outbox.study().record
    experiment = client.create_experiment(record["experiment"])
    tags = {keys.UID: record["uid"], keys.TRIAL: "none", keys.STUDY: record["study"]}
    made = client.create_run(experiment, tags=tags).info.run_id
    with pytest.raises(StudyError, match="has the schema 0"):
        RunWriter(client, outbox.study())
    with pytest.raises(StudyError, match="has the schema 0"):
        stored_predictions(client, record["experiment"], record["uid"])
    assert [run.info.run_id for run in client.search_runs([experiment])] == [made]
    assert client.get_run(made).data.tags.keys() & {keys.SCHEMA} == set()


def test_a_study_in_mlflow_carries_the_schema_number(client, outbox, tmp_path):
    RunWriter(client, outbox.study())
    assert Store(tmp_path).parent().data.tags[keys.SCHEMA] == "1"


def test_runs_are_named_and_described_by_what_they_tried(client, outbox, tmp_path):
    log_all(client, outbox)
    for number, run in Store(tmp_path).children().items():
        assert run.info.run_name.startswith(f"{number:03d} staintex-s ")
        note = run.data.tags["mlflow.note.content"]
        assert f"**{run.data.metrics['auc']:.4f}**" in note
        assert "Synthetic data" in note
    assert "viewStateShareKey" in client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"]
