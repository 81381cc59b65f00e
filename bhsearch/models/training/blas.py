"""Threads of the linear algebra library."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

from threadpoolctl import ThreadpoolController

_THREADED_VALUES = 1 << 21  # size of a product's larger factor from which several threads are faster than one


def threads_for(n_values: int) -> AbstractContextManager[object]:
    """Limit small problems to one thread, on which threads that wait for each other are several times slower.

    Args:
        n_values: Number of values of the larger factor of the matrix products in the block.
    """
    return _controller().limit(limits=1, user_api="blas") if n_values < _THREADED_VALUES else nullcontext()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
