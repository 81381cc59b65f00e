"""Openings of sealed tests are counted whatever others delete, for good too."""

from __future__ import annotations

import json
import warnings

import pytest
from click.testing import CliRunner

from tests.studies import import_mlflow

import_mlflow()

from bhsearch.tracking import access_log, keys, reader, registry  # noqa: E402
from bhsearch.tracking.upload import writer  # noqa: E402

SEALED = "0123456789abcdef"


@pytest.fixture
def study(client):
    experiment = client.create_experiment("tissue")
    tags = {writer.UID: "abc", reader.STUDY: "mine", keys.SPLIT_FINGERPRINT: "f", keys.SCHEMA: "1"}
    parent = client.create_run(experiment, tags=tags | {writer.TRIAL: "none"}).info.run_id
    trial = client.create_run(
        experiment, tags=tags | {writer.TRIAL: "3", writer.STATE: "complete", "mlflow.parentRunId": parent}
    )
    client.log_metric(trial.info.run_id, "auc", 0.9)
    client.set_terminated(trial.info.run_id)
    return reader.find_study(client)


def opened(client, study):
    return access_log.log_access(client, study, study.trials[0], SEALED, {"threshold": 0.5}, "model").run_id


def collect(tmp_path):
    """As an administrator does with `mlflow gc`: what is deleted is deleted for good."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        from mlflow.cli import cli
        from mlflow.tracking._tracking_service import utils

        # The command sets both for the whole process.
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setattr(utils, "_tracking_uri", uri)
        done = CliRunner().invoke(cli, ["gc", "--backend-store-uri", uri])
    assert done.exit_code == 0, done.output


def test_an_opening_says_for_what_it_was(client, study):
    run_id = opened(client, study)
    (found,) = access_log.accesses(client, SEALED)
    assert (found.study, found.trial, found.split, found.run_id, found.uid) == ("mine", "3", "f", run_id, "abc")
    assert access_log.accesses(client, "another") == []
    assert client.get_run(run_id).info.status == "RUNNING"
    assert "searched for on tissue" in client.get_registered_model("model").description


def test_a_run_that_is_deleted_for_good_still_counts(client, study, tmp_path):
    first = opened(client, study)
    client.delete_run(first)
    assert len(access_log.accesses(client, SEALED)) == 1
    collect(tmp_path)
    (found,) = access_log.accesses(client, SEALED)
    assert (found.run_id, found.trial) == (first, "3")
    second = opened(client, study)
    assert len(access_log.accesses(client, SEALED)) == 2
    assert client.get_run(second).info.run_name == "test 2 of trial 003"
    assert client.get_run(second).data.tags[keys.OPENINGS] == "2"


def test_an_experiment_that_is_deleted_for_good_still_counts(client, study, tmp_path):
    opened(client, study)
    client.delete_experiment(study.experiment_id)
    assert len(access_log.accesses(client, SEALED)) == 1
    collect(tmp_path)
    assert client.get_experiment_by_name("tissue") is None
    assert len(access_log.accesses(client, SEALED)) == 1


def test_a_registered_model_that_is_deleted_takes_none_with_it(client, study):
    opened(client, study)
    client.delete_registered_model("model")
    assert len(access_log.accesses(client, SEALED)) == 1


def test_an_opening_of_another_set_with_the_same_images_is_seen(client, study):
    """As with another --test-fraction: the larger set holds images of the smaller one, and has another digest."""
    run_id = opened(client, study)
    client.log_dict(run_id, {"test": {"pixels_digest": ["a", "b"], "case": ["1", "2"]}}, keys.LINEAGE)
    opened(client, study)  # without a record: it failed before there was a result
    (found,) = access_log.overlapping(client, "another", ["b", "c", "d"])
    assert (found.run_id, found.shared) == (run_id, "1 of 3 images")
    assert "trial 3, split f (1 of 3 images)" in str(found)
    assert access_log.overlapping(client, SEALED, ["a", "b"]) == []
    assert access_log.overlapping(client, "another", ["c"]) == []
    assert "shared" not in str(client.get_registered_model("model").tags)


def test_a_failed_opening_says_why_without_a_password(client, study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret-token")
    run_id = opened(client, study)
    access_log.fail_test(client, run_id, "RunError: http://ann:hunter2@host failed with secret-token")
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags[access_log.REASON] == "RunError: http://host failed with ***"


# -- which model a user names ------------------------------------------------------------------------------------------


def test_models_are_named_as_people_name_them(client, study, tmp_path):
    from bhsearch.errors import MissingError

    run_id = opened(client, study)
    made = client.create_model_version("model", client.get_run(run_id).info.artifact_uri, run_id)
    client.set_registered_model_alias("model", "challenger", made.version)
    known = {
        "model@challenger": "models:/model/1",
        "models:/model@challenger": "models:/model/1",
        "model/1": "models:/model/1",
        "models:/model/1": "models:/model/1",
        "models:/m-0123": "models:/m-0123",
        "runs:/abc/model": "runs:/abc/model",
        str(tmp_path): str(tmp_path),
    }
    assert {uri: registry.resolve(client, uri) for uri in known} == known
    for uri in ("model", "models:/model", "model@champion", "models:/model@champion"):
        with pytest.raises(MissingError, match=r"has no model model@champion; there are:\n  models:/model@challenger"):
            registry.resolve(client, uri)
    for uri, said in (("model/7", "model/7"), ("models:/other/1", "other/1")):
        with pytest.raises(MissingError, match=rf"has no model {said}; there are:\n  models:/model@challenger"):
            registry.resolve(client, uri)
    client.set_registered_model_alias("model", "champion", made.version)
    assert registry.resolve(client, "model") == registry.resolve(client, None) == "models:/model/1"


def test_a_promoted_version_is_no_longer_the_challenger(client, study):
    def aliases():
        return {alias: str(number) for alias, number in client.get_registered_model("model").aliases.items()}

    run_id = opened(client, study)
    for number in ("1", "2"):
        client.create_model_version("model", client.get_run(run_id).info.artifact_uri, run_id)
        client.set_registered_model_alias("model", "challenger", number)
    first, second = (registry.version_of(client, "model", number) for number in ("1", "2"))
    registry.promote(client, first, "champion", "force", "", {}, None)
    assert aliases() == {"champion": "1", "challenger": "2"}
    registry.promote(client, second, "champion", "gate", "", {}, first)
    assert aliases() == {"champion": "2"}


def test_accesses_of_a_store_of_an_earlier_schema_count(client, study):
    """Nobody gets a second first look by updating bhsearch: the tags of an access keep their names."""
    experiment = client.create_experiment("an earlier schema")
    tags = {
        "bhsearch.sealed": SEALED,
        "bhsearch.opened": "2026-01-01T00:00:00.000+00:00",
        "bhsearch.study": "earlier",
        "bhsearch.opened_trial": "7",
        "bhsearch.split_fingerprint": "g",
        "bhsearch.opened_uid": "def",
        "bhsearch.opening_id": "one",
    }
    client.create_run(experiment, tags=tags)
    copy = {
        "when": "2026-01-02",
        "study": "gone",
        "trial": "8",
        "split": "g",
        "run_id": "r",
        "uid": "ghi",
        "key": "two",
    }
    client.set_experiment_tag(experiment, "bhsearch.opening.two", json.dumps({**copy, "sealed": SEALED}))
    assert [(each.study, each.trial) for each in access_log.accesses(client, SEALED)] == [
        ("earlier", "7"),
        ("gone", "8"),
    ]
    run_id = opened(client, study)
    assert client.get_run(run_id).info.run_name == "test 3 of trial 003"
    assert client.get_run(run_id).data.tags["bhsearch.openings"] == "3"
