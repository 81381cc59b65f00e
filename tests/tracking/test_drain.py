"""The process that logs: it sends what waits, each trial once, and outlives whoever started it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from bhsearch.tracking.outbox import Outbox
from tests.studies import Store, environment, started

DRAIN = ("-m", "bhsearch.tracking.drain")


def drain(outbox: Outbox, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Let a process send everything; its input has ended already, as that of a search that died."""
    return subprocess.run(
        [sys.executable, *DRAIN, str(outbox.folder)],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_drain_that_is_killed_while_it_sends_is_finished_by_the_next(outbox, tmp_path):
    """No trial is lost, and none has two runs."""
    with started(tmp_path, *DRAIN, str(outbox.folder), stdin=subprocess.PIPE) as process:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("sent 0") for line in lines)
        process.kill()
        process.wait()
    assert Store(tmp_path).children()[0].info.status == "FINISHED"
    assert 0 not in outbox.waiting()
    end = drain(outbox, tmp_path)
    assert end.returncode == 0, end.stdout + end.stderr
    words = [line.split()[0] for line in end.stdout.splitlines()]
    assert words[0] == "ready"
    assert "failed" not in words
    store = Store(tmp_path)
    assert [run.info.status for run in store.children().values()] == ["FINISHED"] * 3
    assert store.parent().info.status == "FINISHED"
    assert not (tmp_path / "outbox").exists()


def test_ctrl_c_does_not_reach_what_logs(outbox, tmp_path):
    """It is for the search; what the search finished is still to be sent."""
    with started(tmp_path, *DRAIN, str(outbox.folder), stdin=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith("ready")
        process.send_signal(signal.SIGINT)
        process.stdin.close()
        output = process.stdout.read()
        assert process.wait() == 0, output
    assert output.split() == ["sent", "0", "sent", "1", "sent", "2"]


def test_a_store_that_cannot_be_opened_is_said_in_one_line_and_nothing_is_lost(outbox, tmp_path):
    (tmp_path / "file").touch()  # MLflow makes folders that are missing, but not in a file
    end = drain(outbox, tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/file/mlflow.db")
    assert end.returncode == 2
    (line,) = end.stdout.splitlines()
    assert line.startswith("failed The MLflow store must be one that can be opened")
    assert Outbox(outbox.folder).waiting() == [0, 1, 2]


def test_a_damaged_trial_is_said_and_stays(outbox, tmp_path):
    (outbox.folder / "00001" / "record.json").write_text("{")
    end = drain(outbox, tmp_path)
    assert end.returncode == 1
    assert end.stdout.splitlines()[-1].startswith("failed JSONDecodeError")
    assert outbox.waiting() == [1, 2]
