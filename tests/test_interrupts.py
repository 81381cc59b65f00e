"""A signal is raised where a study can bear it, and else remembered."""

from __future__ import annotations

import signal
import threading

import pytest

from bhsearch.interrupts import Interrupts, deferred


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    """A signal whose handler raises KeyboardInterrupt, as in a command; it must be raised in this thread, at once."""
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    assert signal.getsignal(request.param) is signal.default_int_handler
    signal.signal(request.param, before)


def test_the_first_is_remembered_and_raised_where_it_is_allowed(number):
    with deferred() as interrupts:
        assert not interrupts.asked
        signal.raise_signal(number)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            pytest.fail("it was asked before")


def test_it_is_raised_at_once_where_it_is_allowed_and_once_only(number):
    with deferred() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            signal.raise_signal(number)
        assert interrupts.asked


def test_a_second_is_raised_wherever_it_comes(number):
    with deferred():
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_what_is_allowed_is_over_when_it_is_left():
    interrupts = Interrupts()
    with interrupts.allowed():
        pass
    interrupts.ask()
    assert interrupts.asked


def test_a_signal_that_is_ignored_or_ends_the_process_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with deferred() as interrupts:
            signal.raise_signal(signal.SIGTERM)
        assert not interrupts.asked
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_changes():
    handlers = []

    def work():
        with deferred():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
