"""The search's side of the process that logs."""

from __future__ import annotations

import json

import pytest

from bhsearch.errors import StudyError
from bhsearch.tracking.upload.client import UploaderProcess, sync
from tests.studies import Store


def test_it_is_ready_with_the_runs_id_and_finishes_with_everything_sent(outbox, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    process = UploaderProcess(outbox, print)
    process.wait_until_ready()
    heard = []
    process.finish(lambda done, total: heard.append((done, total)))
    store = Store(tmp_path)
    assert process.run_id == store.parent().info.run_id
    assert process.experiment_id == store.parent().info.experiment_id
    assert list(store.children()) == [0, 1, 2]
    assert heard[-1][0] == heard[-1][1]
    assert not outbox.folder.exists()


def test_one_that_is_killed_leaves_the_rest_in_the_outbox(outbox):
    process = UploaderProcess(outbox, print)
    process._process.kill()
    with pytest.raises(StudyError, match="ended before it was connected"):
        process.wait_until_ready()
    process.abandon()
    assert outbox.waiting() == [0, 1, 2]


SKIPPING = "Skipping the outboxes of running commands, which send their trials themselves: 1"


def test_sync_sends_nothing_of_a_running_command(outbox):
    said = []
    sync(said.append)
    assert said == [SKIPPING, NOTHING]
    assert outbox.waiting() == [0, 1, 2]


@pytest.mark.slow
def test_sync_sends_what_a_command_left_that_is_gone(outbox, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = []
    owner = json.loads((outbox.folder / "owner.json").read_text())
    (outbox.folder / "owner.json").write_text(json.dumps(owner | {"started": 1.0}))
    sync(said.append)
    assert said == ["3 trials were sent to MLflow."]
    assert list(Store(tmp_path).children()) == [0, 1, 2]
    assert not (tmp_path / "outbox").exists()
    sync(said.append)
    assert said[1:] == [NOTHING]


NOTHING = "There are no trials to send."
