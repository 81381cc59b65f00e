"""Messages of pool and workers pass the channel unchanged, and their kinds are told apart by type."""

from __future__ import annotations

import dataclasses
import inspect
from multiprocessing import Pipe
from typing import get_args

import numpy as np
import pytest

from bhsearch.engines.base import Trial
from bhsearch.errors import DataError, LostStorageError, RunError
from bhsearch.runtime.processes import this_process
from bhsearch.states import COMPLETE
from bhsearch.study.workers import messages
from bhsearch.study.workers.messages import (
    Connected,
    Finished,
    PoolMessage,
    Prepared,
    StartTrials,
    StepAdvanced,
    StepEnded,
    StepStarted,
    Stop,
    TrialAdvanced,
    TrialEnded,
    TrialRescued,
    TrialStarted,
    UserMessage,
    Waiting,
    WorkerFailed,
    WorkerMessage,
    WorkerTask,
)
from bhsearch.study.workers.pool import PoolWorker
from bhsearch.study.workers.worker import DONE

PREDICTIONS = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
TRIAL = Trial(4, COMPLETE, {"backbone": "cnn"}, 0.7, {"seconds": 1.0})
SENT = [
    StartTrials(),
    Stop(),
    Connected(this_process()),
    StepStarted("reading images"),
    StepAdvanced(3, 7),
    StepEnded(),
    Prepared({"flips": np.zeros((2, 3, 4, 4, 3), np.uint8)}),
    TrialStarted(4),
    TrialAdvanced("fold 2 of 5", None),
    TrialEnded(4, PREDICTIONS),
    TrialEnded(5, None),
    TrialRescued(TRIAL, PREDICTIONS),
    Waiting(),
    UserMessage("組織"),
    Finished(DONE),
    WorkerFailed("DataError", "a reason"),
]


@pytest.mark.parametrize("sent", SENT, ids=lambda each: type(each).__name__)
def test_a_message_arrives_as_it_was_sent(sent):
    here, there = Pipe()
    with here, there:
        here.send(sent)
        received = there.recv()
    assert type(received) is type(sent)
    np.testing.assert_equal(vars(received), vars(sent))


def test_each_kind_of_message_is_frozen_and_has_one_direction():
    kinds = {
        kind
        for _, kind in inspect.getmembers(messages, dataclasses.is_dataclass)
        if kind.__module__ == messages.__name__
    }
    to_worker, from_worker = set(get_args(PoolMessage)), set(get_args(WorkerMessage))
    assert to_worker | from_worker == kinds
    assert to_worker.isdisjoint(from_worker)
    assert {type(each) for each in SENT} == kinds - {WorkerTask}  # a study with workers sends the task
    assert all(kind.__dataclass_params__.frozen for kind in kinds)


@pytest.mark.parametrize("kind", [DataError, LostStorageError, RunError])
def test_a_failure_is_raised_as_the_error_that_the_worker_met(kind):
    error = WorkerFailed(kind.__name__, "a reason").error()
    assert type(error) is kind
    assert str(error) == "a reason"


def test_a_failure_of_an_unknown_kind_is_a_run_error():
    assert type(WorkerFailed("NoSuchError", "a reason").error()) is RunError


def test_a_worker_that_has_ended_sends_nothing_more():
    class Handle:
        """The pool's end of a channel; nothing else of a worker is needed here."""

        def __init__(self, connection):
            self.connection = connection

    here, there = Pipe()
    with here:
        worker = PoolWorker(0, Handle(here))
        there.send(TrialStarted(4))
        there.close()
        assert worker.receive() == TrialStarted(4)
        assert worker.receive() is None
        worker.send(Stop())  # without an error: the pool learns of the end when it reads
