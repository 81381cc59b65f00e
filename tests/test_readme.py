"""The README says what the program does: its table of the space is the program's, options and pictures exist."""

import importlib
import re
from pathlib import Path

import click
import pytest
import typer.main

from bhsearch.objectives.space import finetune_space, frozen_space, markdown_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_the_spaces_are_those_that_engines_read():
    assert markdown_table(frozen_space(("those that can be had",))) in README
    assert markdown_table(finetune_space(("those that can be had",), (224,))) in README


def commands() -> dict[str, click.Command]:
    """Every command of the program, by what follows `python -m`."""
    found = {}
    for module in ("run", "worker", "register", "predict", "report", "reproduce", "dataset"):
        made = typer.main.get_command(importlib.import_module(f"bhsearch.{module}").app)
        found[f"bhsearch.{module}"] = made
        found |= {f"bhsearch.{module} {name}": each for name, each in getattr(made, "commands", {}).items()}
    return found


COMMANDS = commands()
CODE = [*re.findall(r"`([^`\n]+)`", README), *re.findall(r"^    (.*)$", README, re.MULTILINE)]


def test_every_option_named_is_one_of_the_program():
    known = {word for command in COMMANDS.values() for option in command.params for word in option.opts}
    known |= {word for command in COMMANDS.values() for option in command.params for word in option.secondary_opts}
    known |= {"--env-manager", "--port"}  # of `mlflow models serve`
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known


def test_every_command_named_is_one_of_the_program():
    named = {word for code in CODE for word in re.findall(r"python -m (bhsearch[\w.]*)", code)}
    assert len(named) > 5
    assert named <= set(COMMANDS)
    parts = {word for code in CODE for word in re.findall(r"python -m (bhsearch\.dataset [\w-]+)", code)}
    assert parts <= set(COMMANDS)


def test_every_file_of_the_repository_named_in_code_is_there():
    """The README once cited a script as evidence that had been removed long before."""
    named = {word for code in CODE for word in re.findall(r"(?<![\w/.])(?:experiments|bhsearch|tests)/[\w/.-]*", code)}
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", re.findall(r"\]\((experiments/[^)]+)\)", README))
def test_every_picture_is_there(path):
    assert (ROOT / path).is_file()


def test_it_says_what_it_must_not_be_used_for():
    assert re.search(r"Nobody may screen patients", README)
