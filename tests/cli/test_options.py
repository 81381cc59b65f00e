"""The options of a command are made from the settings, and have no value of their own."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
import typer.main
from typer.testing import CliRunner

from bhsearch.cli.run import app
from bhsearch.config import Settings
from bhsearch.config.option import choice_names, option_of


def options() -> dict[str, object]:
    """The options of `bhsearch run`, by the name of the parameter that they fill."""
    found = typer.main.get_command(app).params
    return {option.name: option for option in found if option.name not in ("config", "help")}


def shown(words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    return CliRunner().invoke(app, words).output


def test_every_field_is_an_option_and_every_option_a_field():
    assert list(options()) != []
    assert set(options()) == {field.name for field in fields(Settings)}


def test_every_option_is_called_as_its_field():
    for name, option in options().items():
        assert f"--{name.replace('_', '-')}" in option.opts


def test_no_option_has_a_default_of_its_own():
    """A default in the command would override the settings file without being given."""
    assert {name: option.default for name, option in options().items() if option.default is not None} == {}


def test_help_shows_choices_and_defaults(monkeypatch):
    text = " ".join(re.sub("[│╭╰─╮╯]", " ", shown(["--help"], 200, monkeypatch)).split())
    assert "[optuna, keras-tuner; default: optuna]" in text
    assert "[default: 50]" in text
    for field in fields(Settings):
        assert all(name in text for name in choice_names(option_of(field)))


@pytest.mark.parametrize("columns", [60, 80])
def test_help_fits_a_narrow_terminal(columns, monkeypatch):
    assert max(map(len, shown(["--help"], columns, monkeypatch).splitlines())) <= columns


@pytest.mark.parametrize("columns", [50, 80])
def test_help_cuts_no_name_of_an_option(columns, monkeypatch):
    text = shown(["--help"], columns, monkeypatch)
    assert "…" not in text
    assert "<bool>" not in text


def test_the_choices_are_completed():
    regime = options()["regime"]
    found = regime.shell_complete(None, "f")
    assert [item.value for item in found] == ["frozen", "finetune"]
