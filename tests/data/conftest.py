"""Fixtures shared by the tests of image files."""

from __future__ import annotations

import pytest


@pytest.fixture
def fresh_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"
