"""Compiled trainers are cached within a memory limit, by measured cost."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.errors import BackboneError
from bhsearch.models.training.step_cache import TrainerCache
from bhsearch.models.training.train_step import TrainerSpec
from tests.models.finetuning import CNN
from tests.tasks.samples import BINARY

MB = 1 << 20


def shape(size):
    return TrainerSpec(CNN, size, 4, "all", 0, loss=BINARY.loss)


def use(pool, size, held, n_bytes=0):
    """Use a program while the process grows; `held` keeps what it grew by."""
    with pool.program(shape(size)) as program:
        held.append(np.ones(n_bytes, np.uint8))
    return program


def kept(pool, sizes):
    return [size for size in sizes if shape(size) in pool]


def test_the_next_trial_of_a_shape_gets_the_same_program():
    pool, held = TrainerCache(), []
    first = use(pool, 32, held)
    assert use(pool, 33, held) is not first
    assert use(pool, 32, held) is first


def test_the_program_not_used_for_longest_goes_when_all_take_too_much():
    pool, held = TrainerCache(500 * MB), []
    first = use(pool, 32, held, 200 * MB)
    use(pool, 33, held, 200 * MB)
    assert kept(pool, [32, 33]) == [32, 33]
    assert use(pool, 32, held) is first  # used again: now 33 is the oldest
    use(pool, 34, held, 200 * MB)
    assert kept(pool, [32, 33, 34]) == [32, 34]


def test_as_many_go_as_have_to():
    pool, held = TrainerCache(500 * MB), []
    for size in (32, 33):
        use(pool, size, held, 150 * MB)
    use(pool, 34, held, 450 * MB)
    assert kept(pool, [32, 33, 34]) == [34]


def test_the_program_in_use_stays_however_much_it_takes():
    pool, held = TrainerCache(0), []
    first = use(pool, 32, held, 50 * MB)
    assert use(pool, 32, held) is first
    with pool.program(shape(33)):
        assert shape(33) in pool
    assert kept(pool, [32, 33]) == [33]


def test_a_forgotten_program_is_made_anew_and_costs_nothing_more():
    pool, held = TrainerCache(500 * MB), []
    first = use(pool, 32, held, 400 * MB)
    pool.forget(shape(32))
    assert shape(32) not in pool
    pool.forget(shape(32))  # what is not there can be forgotten, too
    use(pool, 33, held, 200 * MB)
    assert use(pool, 32, held) is not first
    assert kept(pool, [32, 33]) == [32, 33]


def test_a_program_that_fails_in_its_first_use_is_still_kept_and_measured():
    pool, held = TrainerCache(500 * MB), []

    def fail():
        with pool.program(shape(32)):
            held.append(np.ones(450 * MB, np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert shape(32) in pool
    use(pool, 33, held, 100 * MB)
    assert kept(pool, [32, 33]) == [33]


def test_a_network_that_cannot_be_built_leaves_nothing(mobilenet):
    pool, too_small = TrainerCache(), TrainerSpec(mobilenet, 16, 4, "all", 0, loss=BINARY.loss)
    with pytest.raises(BackboneError, match="at least 32"), pool.program(too_small):
        pass
    assert too_small not in pool
