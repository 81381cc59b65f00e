"""A storage that is deleted or replaced while it is searched, one in memory, and one of a study that was refused."""

from __future__ import annotations

import csv
import shutil
import sqlite3

import pytest

from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.engines.optuna.storages.url import check_storage
from bhsearch.errors import LostStorageError, SettingsError, StudyError
from bhsearch.study import runner
from bhsearch.study.events import ProgressReporter
from bhsearch.study.runner import optimize
from tests.studies import STUDY, Store, search, settings, tracked_search, uploading_here


class Saboteur(ProgressReporter):
    """Does something to the storage after a trial, and keeps what was said."""

    def __init__(self, act, after=1):
        self.act, self.after, self.said = act, after, []

    def trial(self, trial, best):
        if trial.number == self.after:
            self.act()

    def say(self, sentence):
        self.said.append(sentence)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def delete(folder):
    for file in folder.glob("optuna.db*"):
        file.unlink()


def replace(folder):
    """As `git checkout` and `rsync` do it: another file under the same name."""
    shutil.copy(folder / "optuna.db", folder / "new.db")
    (folder / "new.db").replace(folder / "optuna.db")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("act", "word"), [(delete, "deleted"), (replace, "replaced by another file")])
def test_a_storage_that_is_lost_ends_the_search_and_its_trials_are_written_out(here, act, word, workers):
    with pytest.raises(LostStorageError, match=rf"optuna\.db was {word}.*optuna-{STUDY}-trials\.csv") as caught:
        optimize(settings(tracking=False, trials=6, workers=workers), Saboteur(lambda: act(here)))
    assert caught.value.exit_code == 1
    with (here / f"optuna-{STUDY}-trials.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    complete = [row for row in rows if row["state"] == "COMPLETE"]
    assert [row["trial"] for row in complete][:2] == ["0", "1"]  # a worker may have finished the next one meanwhile
    assert all(0 <= float(row["score"]) <= 1 and row["backbone"] == "staintex-s" for row in complete)


class Undermined:
    """A real objective; the storage is deleted while its third trial runs."""

    def __init__(self, objective, folder):
        self._objective, self._folder, self._left = objective, folder, 3

    def __call__(self, params, watch):
        outcome = self._objective(params, watch)
        self._left -= 1
        if not self._left:
            delete(self._folder)
        return outcome

    def examples(self):
        return self._objective.examples()

    def costs(self, space):
        return self._objective.costs(space)


@pytest.mark.slow
@pytest.mark.parametrize("tracking", [False, True])
def test_the_trial_that_was_running_meanwhile_is_not_lost_either(here, monkeypatch, tracking):
    real = runner.make_objective
    monkeypatch.setattr(runner, "make_objective", lambda *given: Undermined(real(*given), here))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    with pytest.raises(LostStorageError), uploading_here():
        search(trials=6, tracking=tracking)
    if tracking:
        assert sorted(Store(here).children()) == [0, 1, 2]
        return
    with (here / f"optuna-{STUDY}-trials.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["COMPLETE"] * 3


def test_the_file_of_an_earlier_loss_is_kept(here):
    (here / f"optuna-{STUDY}-trials.csv").write_text("mine")
    with pytest.raises(LostStorageError, match=r"trials-2\.csv"):
        optimize(settings(tracking=False, trials=4), Saboteur(lambda: delete(here), after=0))
    assert (here / f"optuna-{STUDY}-trials.csv").read_text() == "mine"


@pytest.mark.slow
def test_with_tracking_the_trials_are_in_mlflow_and_the_same_command_is_refused(here, monkeypatch):
    """Until the storage is back. Whoever deletes it afterwards, or shares a server with others, may want a second."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    kept = here / "kept"
    kept.mkdir()

    def move():
        for file in here.glob("optuna.db*"):
            file.rename(kept / file.name)

    with pytest.raises(LostStorageError, match="The finished trials are in MLflow"):
        optimize(settings(trials=5), Saboteur(move))  # with the process that logs, which outlives the search
    store = Store(here)
    runs = store.children()
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert sorted(runs) == [0, 1]
    assert store.parent().info.status == "FAILED"
    assert not (here / "outbox").exists()
    with pytest.raises(StudyError, match=r"lost its database during the search.*Restore the file") as caught:
        tracked_search(trials=5)
    assert store.parent().data.tags["bhsearch.study_uid"] in str(caught.value)
    assert not (here / "optuna.db").exists()
    for file in kept.iterdir():
        file.rename(here / file.name)
    tracked_search(trials=5)  # it is back
    assert "bhsearch.storage_lost" not in store.parent().data.tags
    assert store.parent().info.status == "FINISHED"
    uid = store.parent().data.tags["bhsearch.study_uid"]
    delete(here)
    reporter = Saboteur(lambda: None)
    optimize(settings(trials=1), reporter)  # with the process that logs, which says it
    assert any(uid in sentence and "another study" in sentence for sentence in reporter.said)


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true", "sqlite:///file:a?mode=memory&uri=true"],
)  # fmt: skip
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(SettingsError, match=r"--storage must be a database that several processes can open"):
        check_storage(url)
    with pytest.raises(SettingsError, match=r"sqlite:///optuna\.db"):
        connect(url)


def test_a_study_that_is_refused_leaves_no_storage_behind(here, monkeypatch):
    """The MLflow server is down: it is asked after the storage, which was made for nothing."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StudyError, match="cannot be reached"):
        tracked_search(trials=1)
    assert list(here.iterdir()) == []
    with pytest.raises(StudyError, match="no study 'nosuch'"):
        search(trials=1, regime="finetune", init_from="nosuch", backbones=("cnn",))
    assert list(here.iterdir()) == []


def test_a_storage_that_was_there_before_is_left_alone(here, monkeypatch):
    search(trials=1, study="other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StudyError, match="cannot be reached"):
        tracked_search(trials=1)
    with sqlite3.connect(here / "optuna.db") as database:
        assert database.execute("SELECT study_name FROM studies").fetchall() == [("other",)]
