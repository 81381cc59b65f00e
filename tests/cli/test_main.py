"""The console script: every command, lazily imported; errors, version and completion."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

import bhsearch
from bhsearch.cli.main import COMMANDS
from tests.studies import environment
from tests.test_layers import loaded_by

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("run", "register", "predict", "validate", "report", "reproduce", "dataset", "worker")


def call(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bhsearch", *words],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_script_is_the_function_of_the_module():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["bhsearch"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_help_lists_every_command_and_fits_a_narrow_terminal(tmp_path):
    done = call(tmp_path, "--help", COLUMNS="60")
    assert done.returncode == 0
    assert all(re.search(rf"^. {name} ", done.stdout, re.MULTILINE) for name in COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_help_imports_no_command_and_no_framework():
    code = (
        "import sys",
        "from bhsearch.cli import main, terminal",
        "sys.argv = ['bhsearch', '--help']",
        "try:",
        "    main.main()",
        "except SystemExit as end:",
        "    assert end.code == 0",
        "assert not {f'bhsearch.cli.{name}' for name in main.COMMANDS} & set(sys.modules)",
        "assert 'numpy' not in sys.modules",
    )
    assert loaded_by(*code) == set()


def test_the_version_is_printed(tmp_path):
    assert call(tmp_path, "--version").stdout == f"bhsearch {bhsearch.__version__}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("rum",), "Did you mean 'run'"),
        (("run", "--trails", "3"), "--trials"),
        (("run", "--trials", "0"), "--trials must be at least 1"),
        (("register",), "No MLflow store was found"),
        (("predict", "nosuch"), "'nosuch'"),
        (("report",), "No MLflow store was found"),
        (("studies",), "No MLflow store was found"),
        (("reproduce",), "No MLflow store was found"),
        (("dataset", "info", "nosuch"), "nosuch"),
        (("dataset", "breakhis-folds", "nosuch"), "--folds-file"),
        (("worker",), "Missing option"),
        (("sync", "now"), "unexpected extra argument"),
    ],
)
def test_wrong_words_end_with_two_and_a_sentence(tmp_path, words, sentence):
    done = call(tmp_path, *words)
    assert done.returncode == 2
    assert sentence in " ".join(re.sub("[│╭╰─╮╯]", " ", done.stderr).split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_command_is_the_subcommand(name):
    module = importlib.import_module(f"bhsearch.{name}")
    assert module.app is importlib.import_module(f"bhsearch.cli.{name}").app


def test_a_shell_completes_commands_and_choices(tmp_path):
    def completed(line: str) -> list[str]:
        words = {"_BHSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        code = "import sys; sys.argv = ['bhsearch']; from bhsearch.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert completed("bhsearch re") == ["report", "register", "reproduce"]
    assert completed("bhsearch run --engine ") == ["optuna", "keras-tuner"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_a_sentence_that_begins_with_a_verb(name):
    command = typer.main.get_command(importlib.import_module(f"bhsearch.cli.{name}").app)
    assert re.match(r"[A-Z][a-z]+ ", command.help)
    assert re.match(r"[A-Z][a-z]+ ", COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_usage_line_has_no_empty_brackets(name):
    def usages(command, context):
        yield command.get_usage(context)
        for inner in getattr(command, "commands", {}).values():
            yield from usages(inner, typer.Context(inner, info_name=inner.name))

    command = typer.main.get_command(importlib.import_module(f"bhsearch.cli.{name}").app)
    assert not [usage for usage in usages(command, typer.Context(command, info_name=name)) if "[]" in usage]
