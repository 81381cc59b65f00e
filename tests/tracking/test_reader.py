from __future__ import annotations

from pathlib import Path

import pytest

from bhsearch.errors import MissingError, StudyError
from bhsearch.states import COMPLETE
from bhsearch.tracking import keys
from tests.studies import STUDY, Finished, import_mlflow
from tests.tasks.samples import BINARY


@pytest.fixture
def studies(finished, monkeypatch):
    """The module, in the folder of the finished study."""
    import_mlflow()
    from bhsearch.tracking import reader as studies

    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.folder}/mlflow.db")
    return studies


@pytest.fixture
def study(studies, finished):
    return studies.find_study(finished.store.client)


@pytest.mark.parametrize("by", ["name", "uid", "run_id"])
def test_a_study_is_found_by_name_uid_and_run(studies, study, finished, by):
    assert studies.find_study(finished.store.client, getattr(study, by)) == study
    assert studies.latest_study(finished.store.client) == study


def test_a_study_that_is_not_there_is_refused_with_those_that_are(studies, finished):
    with pytest.raises(StudyError, match=f"No study matches 'nosuch'; the MLflow store has:\n  {STUDY}"):
        studies.find_study(finished.store.client, "nosuch")


def test_an_empty_store_says_how_to_make_a_study(client):
    from bhsearch.tracking import reader as studies

    for find in (studies.find_study, studies.latest_study):
        with pytest.raises(StudyError, match=r"python -m bhsearch\.run"):
            find(client)


def test_trials_come_back_as_the_engine_holds_them(study, finished: Finished):
    held = finished.trials()
    assert [trial.number for trial in study.records] == [trial.number for trial in held]
    assert [trial.score for trial in study.records] == pytest.approx([trial.value for trial in held], abs=1e-12)
    assert all(trial.state == COMPLETE for trial in study.records)
    for trial, kept in zip(study.records, held, strict=True):
        assert trial.params == {name: str(value) for name, value in kept.params.items()}
    assert [trial.score for trial in study.trials] == sorted((t.value for t in held), reverse=True)


def test_predictions_give_the_score_that_is_logged(studies, study):
    from bhsearch.evaluation.metrics import score

    trial = study.trials[0]
    assert score(studies.predictions_of(trial), BINARY) == pytest.approx(trial.score, abs=1e-9)


def test_what_the_study_was_made_with_comes_back(studies, study, finished):
    from bhsearch.data.splits import Split

    split = Split.from_dict(studies.read_record(study, keys.SPLIT))
    assert split.fingerprint == study.tags["bhsearch.split_fingerprint"]
    assert studies.read_record(study, keys.AUDIT)["synthetic"] is study.synthetic is True
    assert {row["name"] for row in studies.read_record(study, keys.SPACE)} == set(study.trials[0].params)
    assert "optuna" in studies.read_record(study, keys.VERSIONS)
    assert len(studies.read_record(study, keys.TRIALS)["trials"]) == 4
    assert study.settings["image_size"] == "48"
    with pytest.raises(StudyError, match=r"has no artifact nosuch\.json"):
        studies.read_record(study, "nosuch.json")


def test_the_model_of_a_trial_is_a_folder_of_mlflow(studies, study):
    assert (studies.model_folder(study, study.trials[0]) / "MLmodel").is_file()


def test_a_run_leads_to_its_study_and_trial(studies, study, finished):
    trial = study.records[2]
    assert studies.study_of(finished.store.client, trial.run_id) == (study, trial)
    with pytest.raises(StudyError, match="must be the run of a trial"):
        studies.study_of(finished.store.client, study.run_id)
    with pytest.raises(StudyError, match="has no run"):
        studies.study_of(finished.store.client, "0" * 32)


def test_an_opened_test_is_found_at_its_study_only(studies, study, finished, client):
    """Openings are runs below the study; here in a store of their own, so that the finished study stays as it is."""
    experiment = client.create_experiment("tissue")
    parent = client.create_run(
        experiment, tags={"bhsearch.trial": "none", keys.UID: "u", keys.STUDY: "s", keys.SCHEMA: "1"}
    )
    other = client.create_run(experiment, tags={"mlflow.parentRunId": "x", keys.OPENED: "2026-01-01"})
    below = {"mlflow.parentRunId": parent.info.run_id}
    later, first = (
        client.create_run(experiment, tags={**below, keys.OPENED: when}) for when in ("2026-03-01", "2026-02-01")
    )
    client.log_metric(first.info.run_id, "auc", 0.75)
    found = studies.tests_of_study(client, studies.find_study(client, "s"))
    assert [test.run_id for test in found] == [first.info.run_id, later.info.run_id]
    assert other.info.run_id not in [test.run_id for test in found]
    assert found[0].metrics == {"auc": 0.75}


def test_a_report_is_kept_beside_the_study(studies, client, tmp_path):
    experiment = client.create_experiment("tissue", artifact_location=(tmp_path / "kept").as_uri())
    client.create_run(experiment, tags={"bhsearch.trial": "none", keys.UID: "u", keys.STUDY: "s", keys.SCHEMA: "1"})
    study = studies.find_study(client)
    for name in ("first", "second"):
        studies.log_report(client, study, f"<p>{name}</p>", f"# {name}")
        assert studies.read_bytes(study, keys.REPORT) == f"<p>{name}</p>".encode()
        assert studies.read_bytes(study, keys.CHECKLIST) == f"# {name}".encode()


def test_what_a_run_lacks_is_missing_and_nothing_else(studies, study):
    for path in (keys.MADE, keys.SPLIT, keys.TRIALS):
        assert studies.read_record(study, path)
    for path in ("study/nosuch.json", "nosuch.json", "nosuch/split.json"):
        with pytest.raises(MissingError):
            studies.read_record(study, path)


def test_pictures_of_a_trial_are_svg_files_and_those_of_earlier_versions_are_found(studies, study):
    trial = study.records[0]
    drawn = studies.picture(trial, "roc")
    assert drawn.startswith(b"<svg")
    assert studies.picture(trial, "nosuch") == b""
    file = Path(trial.artifact_uri.removeprefix("file://")) / "pictures" / "roc.svg"
    earlier = file.with_suffix(".png")
    file.rename(earlier)
    try:
        assert studies.picture(trial, "roc") == drawn
    finally:
        earlier.rename(file)


def test_openings_of_a_set_are_found_for_every_study_also_where_their_run_was_deleted(studies, client):
    experiment = client.create_experiment("tissue")
    tags = {keys.SEALED: "set", "bhsearch.opened_trial": "4"}
    runs = [
        client.create_run(experiment, tags={**tags, keys.OPENED: when, keys.STUDY: name})
        for when, name in (("2026-03-01", "one"), ("2026-02-01", "another"))
    ]
    client.create_run(experiment, tags={keys.SEALED: "another set", keys.OPENED: "2026-01-01"})
    client.log_metric(runs[0].info.run_id, "test/auc", 0.75)
    client.delete_run(runs[0].info.run_id)
    found = studies.tests_on(client, "set")
    assert [(test.study, test.trial) for test in found] == [("another", "4"), ("one", "4")]
    assert [test.values for test in found] == [{}, {"auc": 0.75}]


@pytest.mark.parametrize(("schema", "reader"), [({}, "schema 0"), ({keys.SCHEMA: "2"}, "unknown schema 2")])
def test_a_study_of_another_schema_is_refused_and_never_read_as_empty(studies, client, schema, reader):
    experiment = client.create_experiment("tissue")
    tags = {keys.TRIAL: "none", keys.UID: "u", keys.STUDY: "s"}
    run_id = client.create_run(experiment, tags=tags | schema).info.run_id
    trial = {**tags, keys.TRIAL: "0", keys.STATE: "complete", "mlflow.parentRunId": run_id}
    trial_run = client.create_run(experiment, tags=trial).info.run_id
    for read in (
        lambda: studies.find_study(client, "s"),
        lambda: studies.find_study(client),
        lambda: studies.latest_study(client),
        lambda: studies.study_of(client, trial_run),
    ):
        with pytest.raises(StudyError, match=f"The study 's' in MLflow has the {reader}"):
            read()
