"""Which MLflow store is used, and what is said of one that cannot be."""

from __future__ import annotations

import pytest

from bhsearch.errors import StudyError
from bhsearch.tracking.store import artifact_folder, check_store, open_client, open_experiment
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
    with pytest.raises(StudyError, match="MLflow store must be one that can be opened") as caught:
        open_client()
    assert "hunter2" not in str(caught.value)
    assert [path.name for path in here.iterdir()] == ["file"]


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
    with pytest.raises(StudyError, match="'breakhis' must be active"):
        open_experiment(client, "breakhis")
