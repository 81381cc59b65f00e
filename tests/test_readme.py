"""The README says what the program does: its table of the space is the program's, options and pictures exist."""

import re
from pathlib import Path

import pytest

from bhsearch.config import Settings
from bhsearch.search.space import finetune_space, frozen_space, markdown_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_the_spaces_are_those_that_engines_read():
    assert markdown_table(frozen_space(("those that can be had",))) in README
    assert markdown_table(finetune_space(("those that can be had",), (224,))) in README


def test_every_option_named_is_one_of_the_program():
    known = {name.replace("_", "-") for name in Settings.__dataclass_fields__} | {"config", "clear", "from", "sync"}
    known |= {"force", "why", "export", "output", "folds-file", "env-manager", "port", "data"}
    known |= {"dry-run", "yes", "model"}
    assert set(re.findall(r"--([a-z][a-z-]+)", README)) <= known


@pytest.mark.parametrize("path", re.findall(r"\]\((experiments/[^)]+)\)", README))
def test_every_picture_is_there(path):
    assert (ROOT / path).is_file()


def test_it_says_what_it_must_not_be_used_for():
    assert re.search(r"Nobody may screen patients", README)
