"""The process that logs: it sends what waits, each trial once, and outlives whoever started it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bhsearch.errors import RunError, StudyError
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.structures import ArchivePool, StructureBuilder
from bhsearch.runtime import messages
from bhsearch.runtime.messages import Back, Failed, Go, Ready, Sent, from_line, to_line
from bhsearch.runtime.processes import this_process
from bhsearch.states import COMPLETE
from bhsearch.tracking.upload import uploader as module
from bhsearch.tracking.upload.outbox import Outbox
from tests.studies import Store, import_mlflow, started

import_mlflow()
from mlflow import MlflowClient  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE  # noqa: E402

from bhsearch.tracking import requests  # noqa: E402

DRAIN = ("-m", "bhsearch.tracking.upload.uploader")


def messages_in(output: str) -> list[Any]:
    """The messages of a process, whose output may hold lines of its libraries, too."""
    return [sent for line in output.splitlines() if (sent := from_line(line)) is not None]


def is_first_trial(line: str) -> bool:
    sent = from_line(line)
    return isinstance(sent, Sent) and sent.number == 0


def begin(process: subprocess.Popen[str]) -> None:
    process.stdin.write(f"{to_line(Go())}\n")
    process.stdin.flush()


Drain = Callable[..., tuple[int, str]]


@pytest.fixture
def drain(outbox, tmp_path, monkeypatch, capsys) -> Iterator[Drain]:
    """Send everything as the process does, but in this one: exit code, output.

    While a test runs, pytest gives it an empty standard input, as that of a process whose search died.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(module, "_import", lambda: None)  # here, Keras has its backend already

    def main(uri: str = f"sqlite:///{tmp_path}/mlflow.db") -> tuple[int, str]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = module.main(str(outbox.folder))
        return code, capsys.readouterr().out

    yield main
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_drain_that_is_killed_while_it_sends_is_finished_by_the_next(outbox, drain, tmp_path):
    """No trial is lost, and none has two runs."""
    with started(tmp_path, *DRAIN, str(outbox.folder), stdin=subprocess.PIPE) as process:
        begin(process)
        lines = iter(process.stdout.readline, "")
        assert any(is_first_trial(line) for line in lines)
        process.kill()
        process.wait()
    assert Store(tmp_path).children()[0].info.status == "FINISHED"
    assert 0 not in outbox.waiting()
    code, output = drain()
    assert code == 0, output
    sent = messages_in(output)
    assert isinstance(sent[0], Ready)
    assert not [each for each in sent if isinstance(each, Failed)]
    store = Store(tmp_path)
    assert [run.info.status for run in store.children().values()] == ["FINISHED"] * 3
    assert store.parent().info.status == "FINISHED"
    assert not (tmp_path / "outbox").exists()


def test_the_process_needs_neither_keras_nor_a_backend(outbox, tmp_path):
    """The structures of the models are in the cache, where workers or the uploader of another study have put them."""
    record = outbox.study().record
    pool = ArchivePool("sigmoid", StructureBuilder("sigmoid"))
    for number in outbox.waiting():
        trial = outbox.trial(number)
        if trial.record["state"] == COMPLETE:
            backbone = Backbone.from_record(record["backbones"][trial.record["params"]["backbone"]])
            settings = record["settings"]
            pool.get(backbone, settings["resize"], settings["image_size"], trial.record["model"], trial.arrays)
    code = f"""
import atexit, runpy, sys
heavy = ("keras", "tensorflow", "jax", "openvino", "sklearn")
atexit.register(lambda: print("LOADED", *(name for name in heavy if name in sys.modules)))
sys.argv = ["uploader", {str(outbox.folder)!r}]
runpy.run_module("bhsearch.tracking.upload.uploader", run_name="__main__")
"""
    with started(tmp_path, "-c", code, stdin=subprocess.DEVNULL) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert [sent.number for sent in messages_in(output) if isinstance(sent, Sent)] == [0, 1, 2]
    assert output.splitlines()[-1] == "LOADED", output
    for run in Store(tmp_path).children().values():
        assert len(run.outputs.model_outputs) == 1


def test_a_store_that_cannot_be_opened_is_said_in_one_line_and_nothing_is_lost(outbox, drain, tmp_path):
    (tmp_path / "file").touch()  # MLflow makes folders that are missing, but not in a file
    code, output = drain(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert code == 2
    (failed,) = messages_in(output)
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("Cannot open the MLflow store")
    assert Outbox(outbox.folder).waiting() == [0, 1, 2]


@pytest.mark.slow
def test_two_that_send_at_once_send_each_trial_once(outbox, tmp_path):
    """The one of a killed search may still be at it when the next search starts."""
    command = (*DRAIN, str(outbox.folder))
    (outbox.folder / "end").rename(tmp_path / "end")  # a killed search has put none
    with started(tmp_path, *command, stdin=subprocess.PIPE) as first:
        begin(first)
        assert isinstance(from_line(first.stdout.readline()), Ready)
        with started(tmp_path, *command, stdin=subprocess.PIPE) as second:
            begin(second)
            first.stdin.close()
            output = first.stdout.read()
            assert first.wait() == 0, output
            (tmp_path / "end").rename(outbox.folder / "end")
            second.stdin.close()
            output += second.stdout.read()
            assert second.wait() == 0, output
    store = Store(tmp_path)
    runs = [Sent(number, run.info.run_id) for number, run in store.children().items()]
    assert [each for each in messages_in(output) if isinstance(each, Sent)] == runs
    assert list(store.children()) == [0, 1, 2]
    assert store.parent().info.status == "FINISHED"
    assert not outbox.folder.exists()


def test_a_search_that_ended_before_its_first_trial_leaves_no_run(outbox, drain, tmp_path):
    for number in outbox.waiting():
        outbox.sent(number)
    (outbox.folder / "end").rename(tmp_path / "end")
    assert drain() == (0, "")
    assert Store(tmp_path).runs() == []
    assert outbox.study().record


def test_a_damaged_trial_is_said_and_stays(outbox, drain):
    (outbox.folder / "00001" / "record.json").write_text("{")
    code, output = drain()
    assert code == 1
    assert messages_in(output)[-1].reason.startswith("JSONDecodeError")
    assert {1, 2} <= set(outbox.waiting())


def test_an_mlflow_db_that_is_removed_meanwhile_fills_no_terminal(outbox, tmp_path, monkeypatch):
    """MLflow logs a traceback for every request; what is not sent stays in the outbox."""
    monkeypatch.setenv("BHSEARCH_PATIENCE", "1")
    with started(tmp_path, *DRAIN, str(outbox.folder), stdin=subprocess.PIPE) as process:
        begin(process)
        lines = iter(process.stdout.readline, "")
        assert any(is_first_trial(line) for line in lines)
        for file in tmp_path.glob("mlflow.db*"):
            file.unlink()
        process.stdin.close()
        output = process.stdout.read()
        assert process.wait() == 1, output
    assert "Traceback" not in output
    assert [each for each in messages_in(output) if isinstance(each, messages.Away)]
    assert set(outbox.waiting()) & {1, 2}


class Away:
    """A step that fails as a store does that is away, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise MlflowException("connection refused", TEMPORARILY_UNAVAILABLE)
        return "done"


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setattr(requests, "AGAIN_SECONDS", (0.01,))
    return module.RetryPolicy(threading.Event())


def test_a_store_that_is_away_is_waited_for(patience, capsys):
    assert patience.call(Away(3)) == "done"
    away, back = messages_in(capsys.readouterr().out)
    assert isinstance(away, messages.Away)
    assert "connection refused" in away.reason
    assert back == Back()


def test_it_is_not_waited_for_ever_once_the_search_has_ended(patience, monkeypatch):
    monkeypatch.setenv("BHSEARCH_PATIENCE", "0.05")
    patience.ended.set()
    with pytest.raises(RunError, match=r"unavailable .*connection refused"):
        patience.call(Away(10_000))


def test_what_will_never_succeed_is_not_tried_again(patience):
    def wrong() -> None:
        raise MlflowException("no such parameter", INVALID_PARAMETER_VALUE)

    with pytest.raises(StudyError, match="refused a request: no such parameter"):
        patience.call(wrong)


def test_what_is_no_answer_of_the_store_is_raised_as_it_is(patience):
    def wrong() -> None:
        raise KeyError("a fault of our own")

    with pytest.raises(KeyError, match="our own"):
        patience.call(wrong)


def test_the_password_of_the_store_is_in_no_line(patience, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # as `open_client` has it; MLflow's own take minutes
    monkeypatch.setenv("BHSEARCH_PATIENCE", "0")
    patience.ended.set()
    with pytest.raises(RunError) as caught:
        patience.call(lambda: MlflowClient().search_experiments())
    said = capsys.readouterr().out + str(caught.value)
    assert '"Away"' in said
    assert "127.0.0.1:9" in said
    assert "hunter2" not in said


def test_a_command_that_is_gone_is_sent_by_the_next(outbox, drain, tmp_path):
    """Its process that logs may have died with it."""
    gone = Outbox(tmp_path / "outbox" / f"{outbox.uid}.1-1")
    shutil.copytree(outbox.folder / "study", gone.folder / "study")
    (gone.folder / "owner.json").write_text(json.dumps(this_process() | {"pid": 1, "started": 1.0}))
    (outbox.folder / "00001").rename(gone.folder / "00001")
    code, output = drain()
    assert code == 0, output
    store = Store(tmp_path)
    assert sorted(store.children()) == [0, 1, 2]
    assert store.parent().info.status == "FINISHED"
    assert not (tmp_path / "outbox").exists()
