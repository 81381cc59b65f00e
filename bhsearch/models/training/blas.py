"""Threads of linear algebra.

Libraries of linear algebra start as many threads as there are cores for each product. Threads of small products mostly
wait for each other, and on a machine with other work they wait for each other's turn. Independent products on one
thread each have neither problem, and their results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Protocol, TypeVar

from threadpoolctl import ThreadpoolController

_THREADED_VALUES = 1 << 21  # size of a product's larger factor from which several threads are faster than one
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Map(Protocol):
    """A function that applies another one to several items and returns the results in their order."""

    def __call__(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Apply a function to each item."""


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Apply a function to one item after another."""
    return [function(item) for item in items]


@contextmanager
def parallel(n_values: int) -> Iterator[Map]:
    """Limit products to one thread in a `with` block, and provide a map that computes several products at once.

    Args:
        n_values: Number of values of the larger factor of the products; if there are few, the map uses one thread.
    """
    n_threads = _n_threads()
    with _controller().limit(limits=1, user_api="blas"):
        if n_values < _THREADED_VALUES or n_threads == 1:
            yield in_order
            return
        with ThreadPoolExecutor(n_threads) as pool:

            def at_once(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
                return list(pool.map(function, items))

            yield at_once


def threads_for(n_values: int) -> AbstractContextManager[object]:
    """Limit small problems to one thread, on which threads that wait for each other are several times slower.

    Args:
        n_values: Number of values of the larger factor of the matrix products in the block.
    """
    return _controller().limit(limits=1, user_api="blas") if n_values < _THREADED_VALUES else nullcontext()


def _n_threads() -> int:
    """Return how many threads a product would use."""
    return max((library.num_threads for library in _controller().select(user_api="blas").lib_controllers), default=1)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
