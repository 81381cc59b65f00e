"""Test that the README is short, starts with the problem, and states what the tool must not be used for."""

from __future__ import annotations

from pathlib import Path

import bhsearch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_read_in_two_minutes():
    assert len(README.splitlines()) <= 130


def test_the_leak_and_the_picture_come_before_the_installation():
    assert 0 < README.index("folds made by") < README.index("docs/pictures/report.png") < README.index("pip install")


def test_it_says_what_it_must_not_be_used_for():
    assert "No one may screen patients" in README


def test_the_module_command_that_users_rely_on_is_named():
    assert "python -m bhsearch.run --trials 50" in README


def test_version_changelog_and_citation_agree():
    assert f"## [{bhsearch.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {bhsearch.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
