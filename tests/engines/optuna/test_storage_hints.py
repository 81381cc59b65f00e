"""A storage that cannot be opened: the file, its folder, or what a URL of PostgreSQL looks like."""

from __future__ import annotations

import pytest

from bhsearch.engines.optuna.connection import connect
from bhsearch.errors import StudyError
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
    code = "from bhsearch.engines.optuna.connection import connect; connect('sqlite:///optuna.db')"
    done = as_unknown_user(tmp_path, "-c", code)
    assert f"{tmp_path} is not writable; use a writable folder: --storage sqlite:////FOLDER/optuna.db" in done.stderr
