"""A storage that cannot be opened: the file, its folder, or what a URL of PostgreSQL looks like."""

from __future__ import annotations

import optuna
import pytest

from bhsearch.engines.optuna.storages.connection import connect, retry_while_unavailable
from bhsearch.engines.optuna.study_store import STORE
from bhsearch.errors import PlaceError, StudyError
from tests.surroundings import as_unknown_user


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+nosuch"])
def test_another_name_for_postgresql_gets_the_right_one(scheme):
    with pytest.raises(StudyError, match=r"postgresql\+psycopg://USER@HOST/NAME") as caught:
        connect(f"{scheme}://ann:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StudyError, match=f"The folder of {tmp_path}/no/optuna.db does not exist"):
        connect(f"sqlite:///{tmp_path}/no/optuna.db")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    for place in (tmp_path, *tmp_path.parents[:3]):  # up to pytest's own folder, which is closed to other users
        place.chmod(place.stat().st_mode | 0o055)
    code = "from bhsearch.engines.optuna.storages.connection import connect; connect('sqlite:///optuna.db')"
    done = as_unknown_user(tmp_path, "-c", code)
    assert f"{tmp_path} is not writable; use a writable folder: --storage sqlite:////FOLDER/optuna.db" in done.stderr


def test_text_that_is_no_url_gets_an_example():
    with pytest.raises(StudyError, match=r"Use a URL, such as sqlite:///optuna\.db\."):
        connect("optuna.db")


def test_a_database_that_is_read_only_is_named_at_once_and_without_retries(tmp_path):
    STORE.open(f"sqlite:///{tmp_path}/optuna.db", "one", {})
    url = f"sqlite:///file:{tmp_path}/optuna.db?mode=ro&uri=true"
    with pytest.raises(PlaceError, match=r"database is read-only.*Give write permission.*--storage"):
        STORE.open(url, "two", {})
    study = optuna.load_study(study_name="one", storage=connect(url))
    with pytest.raises(PlaceError, match="database is read-only"):
        retry_while_unavailable(study.ask)()
