"""Who may fail, how it is said, and with what exit code."""

from __future__ import annotations

import inspect

import pytest
import typer

from bhsearch import errors
from bhsearch.cli import terminal

TREE = errors.__doc__ or ""
CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


def command(error: BaseException | None) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def run() -> None:
        if error is not None:
            raise error

    return app


def end_of(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit) as caught:
        terminal.main(command(error), "command")
    return caught.value.code


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_stands_in_the_tree_below_its_parent(kind):
    assert TREE.count(f" {kind.__name__}: ") == 1
    if kind is not errors.BhsearchError:
        assert TREE.index(f" {kind.__bases__[0].__name__}: ") < TREE.index(f" {kind.__name__}: ")


@pytest.mark.parametrize("kind", CLASSES)
def test_wrong_input_ends_with_2_and_failed_work_with_1(monkeypatch, capsys, kind):
    code = 2 if issubclass(kind, errors.InputError) else 1
    assert end_of(monkeypatch, kind("the rule, then the value.")) == code
    shown = capsys.readouterr()
    assert "error: the rule, then the value." in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_success_ends_with_0(monkeypatch):
    assert end_of(monkeypatch, None) == 0


def test_brackets_in_a_message_are_shown_as_they_are(monkeypatch, capsys):
    """File names and regular expressions hold what Rich takes for markup."""
    end_of(monkeypatch, errors.DataError("no case in [bold]x[/] by [0-9]+"))
    assert "no case in [bold]x[/] by [0-9]+" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    """Only errors on purpose become a sentence: anything else must be seen whole."""
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        terminal.main(command(ZeroDivisionError()), "command")
