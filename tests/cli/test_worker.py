"""`bhsearch worker`, which joins a study that exists."""

from __future__ import annotations

import re

import pytest

from tests.cli.test_main import call


@pytest.mark.parametrize("place", ["study.db", "nosuch/study.db"])
def test_a_database_that_does_not_exist_is_refused_and_not_created(tmp_path, place):
    done = call(tmp_path, "worker", "--storage", f"sqlite:///{place}", "--study", "mine")
    assert done.returncode == 2
    assert re.search(
        r"There is no study 'mine' in the storage: \S+study\.db does not exist", " ".join(done.stderr.split())
    )
    assert f"{tmp_path / place}doesnotexist." in "".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
