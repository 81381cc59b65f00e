"""Which MLflow store is used, and what is said of one that cannot be."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import quote

import pytest
from alembic.operations import Operations

from bhsearch.errors import StudyError
from bhsearch.tracking.connection import (
    artifact_folder,
    check_store,
    open_client,
    open_experiment,
    require_store,
    tracking_host,
)
from bhsearch.tracking.store_uri import hidden, shown
from tests.studies import import_mlflow


@pytest.fixture
def here(tmp_path, monkeypatch):
    import_mlflow()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def old_store(folder):
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")


def test_an_empty_folder_and_one_with_a_kept_mlruns_are_fine(here):
    check_store()
    (here / "mlruns").mkdir()
    (here / "mlruns" / ".gitkeep").touch()
    (here / "mlruns" / "phantom").mkdir()  # artifacts of an experiment, by its name
    (here / "mlruns" / "phantom" / "meta.yaml").touch()
    check_store()


def test_the_old_file_store_is_refused_with_the_way_out(here):
    old_store(here)
    with pytest.raises(StudyError, match=r"mlruns.0.meta\.yaml.*mlflow migrate-filestore"):
        check_store()


def test_the_old_file_store_does_not_matter_to_a_store_elsewhere(here, monkeypatch):
    old_store(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/other.db")
    check_store()


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///file/mlflow.db", "mysql://ann:hunter2@host/db", "nosuch://ann:hunter2@host"],
)
def test_a_store_that_cannot_be_opened_is_named_without_its_password(here, monkeypatch, uri):
    (here / "file").touch()  # MLflow makes folders that are missing, but not in a file
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StudyError, match="Cannot open the MLflow store") as caught:
        open_client()
    assert "hunter2" not in str(caught.value)
    assert [path.name for path in here.iterdir()] == ["file"]


def test_a_server_that_does_not_answer_is_said_without_the_words_of_libraries(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    with pytest.raises(
        StudyError, match=r"The MLflow server http://127\.0\.0\.1:9 cannot be reached\. Start it"
    ) as caught:
        open_client()
    assert "HTTPConnection" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("file:./mlruns", "mlflow migrate-filestore"),
        ("file:///data/mlruns", "mlflow migrate-filestore"),
        ("./mlruns", "mlflow migrate-filestore"),
        ("../runs", "mlflow migrate-filestore"),
        ("~/mlruns", "mlflow migrate-filestore"),
        ("/data/mlruns", "mlflow migrate-filestore"),
        ("mlruns", "mlflow migrate-filestore"),
        ("C:\\mlruns", "mlflow migrate-filestore"),
        ("databricks", "Databricks and Unity Catalog are not supported"),
        ("databricks://profile", "Databricks and Unity Catalog are not supported"),
        ("databricks-uc", "Databricks and Unity Catalog are not supported"),
        ("uc:x", "Databricks and Unity Catalog are not supported"),
        ("http:/host", "Write http://HOST:PORT"),
        ("http:host", "Write http://HOST:PORT"),
        ("https://", "Write https://HOST:PORT"),
        ("http://:5000", "Write http://HOST:PORT"),
        ("localhost:5000", "Write http://localhost:5000"),
        ("127.0.0.1:5000", "Write http://127.0.0.1:5000"),
        ("mlflow.hospital.org:5000/path", "Write http://mlflow.hospital.org:5000/path"),
        ("mlflow.hospital.org", "Write http://mlflow.hospital.org"),
        ("sqlite:mlflow.db", "Write sqlite:///mlflow.db"),
        ("sqlite:/mlflow.db", "Write sqlite:///mlflow.db"),
        ("sqlite://mlflow.db", "Write sqlite:///mlflow.db"),
        ("sqlite://", "Write sqlite:///mlflow.db"),
        ("sqlite:///", "a database in memory"),
        ("sqlite:///:memory:", "a database in memory"),
        ("mlflow.db", "Write sqlite:///mlflow.db"),
        ("postgres://ann:hunter2@host/db", "Write postgresql://"),
        ("postgresql:ann:hunter2@host/db", "Write postgresql://HOST"),
        ("ann:hunter2@host:5000", "must name a database or an MLflow server"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_with_what_to_write(here, monkeypatch, uri, advice):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StudyError, match="MLFLOW_TRACKING_URI must name a database or an MLflow server") as caught:
        check_store()
    assert advice in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert shown(uri) in str(caught.value)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    ["http://host", "https://ann:hunter2@host:5000/mlflow", "sqlite:///mlflow.db", "sqlite:////data/mlflow.db",
     "postgresql+psycopg://ann:hunter2@host/db", "mysql://host/db", "mssql+pyodbc://host/db", "arn:aws://x",
     "http://[::1]:5000"],
)  # fmt: skip
def test_an_address_that_can_be_one_is_left_to_mlflow(here, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check_store()


@pytest.mark.parametrize(
    ("uri", "seen"),
    [
        ("http://ann:hunter2@host:5000", "http://host:5000"),
        ("postgresql://ann:hun/ter2@host/db?password=hunter2", "postgresql://host/db"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a@b/mlflow.db", "sqlite:////b/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_user(uri, seen):
    assert shown(uri) == seen


def test_passwords_are_hidden_in_what_others_say(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hun%40ter2@host:5000/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret-token")
    said = hidden(
        "API request to http://ann:hun%40ter2@host:5000/api failed: hun@ter2, secret-token; mysql://bob:other@there/x"
    )
    assert said == "API request to http://host:5000/api failed: ***, ***; mysql://there/x"


@pytest.mark.parametrize("uri", ["", "sqlite:///nosuch/mlflow.db"])
def test_a_store_that_must_be_there_is_not_made(here, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StudyError, match=r"No MLflow store was found.*python -m bhsearch\.run"):
        require_store()
    assert list(here.iterdir()) == []


def test_a_database_is_complete_or_absent(here, monkeypatch):
    """MLflow cannot open a database whose creation was interrupted, so a process killed meanwhile must leave none."""

    def enter(folder):
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{quote(str(folder))}/mlflow.db")

    folder = here / "a b 100%25"
    enter(folder)
    monkeypatch.setenv("BHSEARCH_CACHE", str(here / "cache"))
    code = """
import os
from alembic.operations import Operations
from bhsearch.tracking import connection

created, create = [], Operations.create_table

def create_then_die(self, name, *columns, **options):
    created.append(name)
    if len(created) == 5:
        os._exit(9)
    return create(self, name, *columns, **options)

Operations.create_table = create_then_die
connection.open_client()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 9
    assert not (folder / "mlflow.db").exists()
    assert open_client().search_experiments()
    assert [file.name for file in folder.iterdir()] == ["mlflow.db"]
    # The next database is a copy of an empty one in the cache.
    monkeypatch.setattr(Operations, "create_table", lambda *_, **__: pytest.fail("a table is created again"))
    for name in ("plain", "next a b 100%25"):
        enter(here / name)
        assert open_client().search_experiments()
        assert [file.name for file in (here / name).iterdir()] == ["mlflow.db"]


def test_an_experiment_is_made_once_and_its_artifacts_have_a_whole_path(client, tmp_path):
    """MLflow's own default is relative: the artifacts would be lost to anyone who starts elsewhere."""
    made = open_experiment(client, "breakhis")
    assert open_experiment(client, "breakhis") == made
    assert client.get_experiment(made).artifact_location == (tmp_path / "mlruns" / "breakhis").as_uri()


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        (None, "mlruns"),
        ("sqlite:///mlflow.db", "mlruns"),
        ("sqlite:///deep/other.db?timeout=5", "deep/mlruns"),
        ("sqlite:///a%20b%3F/other.db", "a b?/mlruns"),
        ("http://127.0.0.1:5000", None),
        ("postgresql://host/db", None),
    ],
)
def test_artifacts_of_a_local_database_are_beside_it(here, uri, folder):
    """The working directory may be one that cannot be written."""
    assert artifact_folder(uri) == (here / folder if folder else None)


def test_a_working_directory_with_a_blank_gets_no_sibling_and_its_artifacts_inside(tmp_path, monkeypatch):
    import_mlflow()
    (tmp_path / "a b %").mkdir()
    monkeypatch.chdir(tmp_path / "a b %")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = open_client()
    made = open_experiment(client, "breakhis")
    client.log_text(client.create_run(made).info.run_id, "text", "file.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a b %"]
    assert len(list((tmp_path / "a b %" / "mlruns" / "breakhis").rglob("file.txt"))) == 1


def test_a_deleted_experiment_is_refused(client):
    client.delete_experiment(open_experiment(client, "breakhis"))
    with pytest.raises(StudyError, match=r"'breakhis' is deleted.*mlflow experiments restore --experiment-id"):
        open_experiment(client, "breakhis")


def test_studies_of_a_deleted_experiment_are_not_said_to_be_missing(client):
    from bhsearch.tracking import reader
    from bhsearch.tracking.upload import writer

    experiment = open_experiment(client, "breakhis")
    tags = {writer.TRIAL: "none", writer.UID: "u", reader.STUDY: "mine", "bhsearch.schema": "1"}
    client.create_run(experiment, tags=tags)
    client.delete_experiment(experiment)
    for find in (reader.find_study, reader.latest_study, lambda c: reader.find_study(c, "mine")):
        with pytest.raises(StudyError, match=f"is deleted. Restore .*--experiment-id {experiment}"):
            find(client)
    with pytest.raises(StudyError, match="contains no study"):
        reader.find_study(client, "other")
    client.create_run(open_experiment(client, "idc"), tags=tags | {reader.STUDY: "there"})
    with pytest.raises(StudyError, match="'breakhis' is deleted"):
        reader.find_study(client, "mine")
    assert reader.find_study(client).name == "there"


def test_a_new_experiment_carries_the_schema_number(client):
    made = open_experiment(client, "breakhis")
    assert client.get_experiment(made).tags["bhsearch.schema"] == "1"
    assert open_experiment(client, "breakhis") == made


def test_an_experiment_that_a_person_created_gets_the_schema_number(client):
    """It may have an artifact location of its own; it holds no study that could be misread."""
    made = client.create_experiment("breakhis")
    client.create_run(made)  # of another program
    assert open_experiment(client, "breakhis") == made
    assert client.get_experiment(made).tags["bhsearch.schema"] == "1"


@pytest.mark.parametrize("deleted", [False, True])
def test_an_experiment_with_studies_of_an_earlier_schema_is_refused_with_the_commit_that_reads_it(client, deleted):
    made = client.create_experiment("breakhis")
    run = client.create_run(made, tags={"bhsearch.study_uid": "u"})
    if deleted:
        client.delete_run(run.info.run_id)
    with pytest.raises(StudyError, match=r"'breakhis' has the schema 0 .* commit d6a9faa"):
        open_experiment(client, "breakhis")
    assert "bhsearch.schema" not in client.get_experiment(made).tags


def test_an_experiment_of_a_later_schema_is_refused(client):
    client.create_experiment("breakhis", tags={"bhsearch.schema": "2"})
    with pytest.raises(StudyError, match="has the unknown schema 2"):
        open_experiment(client, "breakhis")


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("", ""),
        ("sqlite:////tmp/mlflow.db", ""),
        ("http://ann:s3cret@mlflow.example.org:5000/base", "mlflow.example.org"),
        ("https://[::1]:5000", "::1"),
        ("postgresql://ann@localhost/mlflow", "localhost"),
    ],
)
def test_the_host_of_a_server_is_known(here, monkeypatch, uri, host):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_host() == host
