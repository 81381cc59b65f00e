from __future__ import annotations

import threading

from bhsearch.runtime.background import repeated


def test_a_step_is_done_at_once_and_again_until_the_block_ends():
    done = threading.Semaphore(0)
    with repeated(done.release, 0.001):
        assert all(done.acquire(timeout=30) for _ in range(3))
    while done.acquire(blocking=False):
        pass
    assert not done.acquire(timeout=0.05)


def test_the_first_step_does_not_wait_for_the_interval():
    done = threading.Event()
    with repeated(done.set, 3600):
        assert done.wait(30)


def test_the_first_step_waits_for_the_interval_if_asked_to():
    done = threading.Semaphore(0)
    with repeated(done.release, 0.2, at_once=False):
        assert not done.acquire(blocking=False)
        assert done.acquire(timeout=30)


def test_an_error_in_the_block_ends_the_thread_too():
    n_threads = threading.active_count()
    try:
        with repeated(lambda: None, 3600):
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert threading.active_count() == n_threads
