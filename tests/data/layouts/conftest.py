"""Fixtures of the tests of layouts."""

from __future__ import annotations

import pytest


@pytest.fixture
def tree(tmp_path):
    """Create empty files in a data folder; layouts read names only."""

    def make(*paths):
        for path in paths:
            file = tmp_path / "data" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path / "data"

    return make
