"""Studies in PostgreSQL: they outlast an outage, and no message says the password."""

from __future__ import annotations

import traceback
from urllib.parse import quote

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb.storage import _create_scoped_session
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, PendingRollbackError

from bhsearch.engines.optuna.engine import OptunaEngine, metadata_of, open_study
from bhsearch.engines.optuna.storages import connection as storage_module
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.errors import RunError, StudyError
from bhsearch.objectives.space import frozen_space
from bhsearch.states import COMPLETE

SPACE = frozen_space(("a", "b"))


@pytest.fixture
def opened():
    """Open storages, and close their connections at the end: psycopg warns of those that are left."""
    storages = []

    def opened(url):
        storages.append(connect(url))
        return storages[-1]

    yield opened
    for storage in storages:
        storage.engine.dispose()


def test_a_study_goes_on_after_an_outage(database_server, opened, monkeypatch):
    monkeypatch.setattr(storage_module, "PATIENCE_SECONDS", 0.5)
    url = database_server.new_database()
    engine = OptunaEngine(open_study(opened(url), "study", {"seed": 1}), SPACE, "tpe", 0)
    engine.complete(engine.ask().number, 0.7, 1.0)
    running = engine.ask()

    database_server.stop()
    try:
        with pytest.raises(RunError, match="has been unavailable") as caught:
            engine.trials()
        with pytest.raises(StudyError, match="--storage") as refused:
            connect(url)
    finally:
        database_server.start()
    for error in (caught.value, refused.value):
        assert database_server.password not in "".join(traceback.format_exception(error))

    engine.complete(running.number, 0.8, 1.0)
    again = open_study(opened(url), "study", {"seed": 2})
    assert metadata_of(again) == {"seed": 1}
    assert [trial.state for trial in OptunaEngine(again, SPACE, "tpe", 0).trials()] == [COMPLETE] * 2


def test_what_follows_from_a_lost_connection_counts_as_an_outage(database_server, opened):
    """Optuna goes on to commit what could not be carried out, and its error shows that alone."""
    storage = opened(database_server.new_database())

    def lose_the_connection():
        with _create_scoped_session(storage.scoped_session) as session:
            session.execute(text("SELECT 1"))
            database_server.stop()
            database_server.start()
            with pytest.raises(OperationalError):
                session.execute(text("SELECT 1"))

    with pytest.raises(StorageInternalError) as caught:
        lose_the_connection()
    assert isinstance(caught.value.__cause__, PendingRollbackError)
    assert storage_module._is_away(caught.value)


WRONG = {
    "password": lambda server: server.url(password="hunter2@:/%hunter2"),
    "password in an option": lambda server: (
        f"postgresql+psycopg://ann@127.0.0.1:{server.port}/postgres?password=hunter2"
    ),
    "database": lambda server: server.url("nosuch"),
    "user": lambda server: server.url().replace("//ann:", "//nosuch:"),
    "port": lambda server: server.url().replace(f":{server.port}/", ":1/"),
    "host": lambda server: server.url().replace("127.0.0.1", "nosuch.invalid"),
    "option": lambda server: server.url() + "?nosuch=hunter2",
    "driver": lambda server: server.url().replace("+psycopg", "+psycopg2"),
    "password that is not encoded": lambda server: (
        f"postgresql+psycopg://ann:hunter2@hunter2@127.0.0.1:{server.port}/d"
    ),
    "password with braces": lambda server: f"postgresql+psycopg://ann:{{hunter2}}@127.0.0.1:{server.port}/postgres",
    "password with a slash": lambda server: f"postgresql+psycopg://ann:hunter2/hunter2@127.0.0.1:{server.port}/d",
}


@pytest.mark.parametrize("what", WRONG)
def test_no_message_or_traceback_says_a_password(database_server, what):
    url = WRONG[what](database_server)
    with pytest.raises(StudyError, match=r"Cannot open the database in --storage: \w") as caught:
        connect(url)
    said = "".join(traceback.format_exception(caught.value))
    for secret in ("hunter2", "p@ss", quote("p@ss"), database_server.password[-16:]):
        assert secret not in said


def test_the_missing_driver_is_said_with_what_helps(database_server):
    with pytest.raises(StudyError, match=r"bhsearch\[postgres\].*postgresql\+psycopg://"):
        connect(database_server.url().replace("+psycopg", "+psycopg2"))


def test_a_password_with_every_sign_opens_the_database(database_server, opened):
    assert any(sign in database_server.password for sign in "@:/%&")
    assert optuna.get_all_study_names(opened(database_server.new_database())) == []
