"""Servers that the tests of faults take away and give back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.postgres import Postgres


@pytest.fixture(scope="session")
def database_server() -> Iterator[Postgres]:
    """A PostgreSQL for all tests of a process; they make databases of their own in it."""
    pytest.importorskip("psycopg")
    from tests.faults.postgres import NoPostgresError, postgres

    try:
        with postgres() as server:
            yield server
    except NoPostgresError as error:
        pytest.skip(str(error))
