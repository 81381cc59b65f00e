"""What must be true of a study once it has what it shall have, whatever happened on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from bhsearch.engines.base import MOST_RETRIES
from bhsearch.evaluation.metrics import epoch_scores, score_function
from bhsearch.evaluation.predictions import Predictions, case_weights
from bhsearch.tracking.keys import PREDICTIONS
from tests.studies import STUDY, Store
from tests.tasks.samples import BINARY

_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


def assert_whole(folder: Path, n_trials: int, storage: str | None = None, store: Store | None = None) -> None:
    """Optuna and MLflow agree, nothing runs, nothing is lost, nothing is counted twice."""
    trials = trials_in(storage or f"sqlite:///{folder}/optuna.db")
    store = store or Store(folder)
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(finished) == n_trials
    runs = store.children()
    assert sorted(runs) == [trial.number for trial in trials]
    assert [runs[trial.number].info.status for trial in trials] == [_STATUS[trial.state] for trial in trials]
    assert store.parent().info.status == "FINISHED"
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    # Linear heads have a validation curve, others learning curves.
    files = {trial.number: store.files(runs[trial.number]) for trial in complete}
    (artifacts,) = {tuple(sorted(name for name in each if "_curve" not in name)) for each in files.values()}
    assert artifacts
    assert all(sum("_curve" in name for name in each) == 1 for each in files.values())
    for trial in complete:
        stored = Predictions.from_csv(store.files(runs[trial.number])[PREDICTIONS])
        assert score_of(stored) == pytest.approx(trial.value, abs=1e-6)
    assert store.parent().data.metrics["trial/best"] == max(trial.value for trial in complete)
    assert store.parent().data.metrics["finished_trials"] == n_trials
    assert_retried(trials, runs)
    assert not (folder / "outbox").exists()


def trials_in(storage: str) -> list[Any]:
    """Trials of the study in a storage; none where it is not there yet. No connection is left open."""
    if storage.startswith("journal:"):
        file = storage.removeprefix("journal:")
        if not Path(file).exists():
            return []
        return _trials_of(optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file)))
    opened = optuna.storages.RDBStorage(storage)
    try:
        return _trials_of(opened)
    finally:
        opened.remove_session()
        opened.engine.dispose()


def _trials_of(opened: optuna.storages.BaseStorage) -> list[Any]:
    names = optuna.get_all_study_names(opened)
    return optuna.load_study(study_name=STUDY, storage=opened).trials if STUDY in names else []


def assert_retried(trials: list[Any], runs: dict[int, Any]) -> None:
    """A trial whose process died is run again at the same point, twice at most, by a run that names its own."""
    # A process may die before its trial has parameters; such a trial is none.
    retries = [trial for trial in trials if "retry_of" in trial.user_attrs and trial.params]
    assert len({trial.user_attrs["retry_of"] for trial in retries}) == len(retries)
    for trial in retries:
        first = trials[trial.user_attrs["retry_of"]]
        assert first.system_attrs["bhsearch:dead"]
        assert trial.params == first.params
        assert (
            trial.system_attrs["bhsearch:attempt"] == first.system_attrs.get("bhsearch:attempt", 0) + 1 <= MOST_RETRIES
        )
        assert runs[trial.number].data.tags["bhsearch.retry_of_run"] == runs[first.number].info.run_id


def score_of(stored: Predictions) -> float:
    """The score again, from what MLflow keeps."""
    weights = case_weights(stored.group, stored.fold)
    return float(epoch_scores(stored.probability[None], stored.label, stored.fold, weights, score_function(BINARY))[0])


def workers_of(pid: int) -> list[psutil.Process]:
    """Worker processes of a command."""
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in children:
        try:
            if "bhsearch.study.workers.process" in child.cmdline():
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def assert_gone(processes: list[psutil.Process], seconds: float) -> None:
    """Every one of them ends by itself within this time."""
    end = time.monotonic() + seconds
    while alive := [process for process in processes if runs(process)]:
        assert time.monotonic() < end, f"still there after {seconds} s: {alive}"
        time.sleep(0.05)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has asked for its exit code has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
