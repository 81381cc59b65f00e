"""The reference lists every setting once, as the command takes it."""

from __future__ import annotations

import re
from dataclasses import fields

from bhsearch.config import Settings
from bhsearch.config.table import markdown_tables


def rows() -> dict[str, list[str]]:
    """The cells of each row of the tables, by TOML key."""
    found = {}
    for line in markdown_tables().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].startswith("`--"):
            found[cells[1].strip("`")] = cells
    return found


def test_every_setting_has_one_row():
    assert set(rows()) == {field.name for field in fields(Settings)}
    assert markdown_tables().count("| `--") == len(fields(Settings))


def test_a_row_gives_option_values_default_and_help():
    option, key, values, default, text = rows()["regime"]
    assert (option, key, values, default) == ("`--regime`", "`regime`", "`auto`, `frozen`, `finetune`", "`auto`")
    assert text.startswith("Train heads on frozen features")
    assert rows()["quiet"][0] == "`--quiet`, `-q`"
    assert rows()["tracking"][0] == "`--tracking`, `--no-tracking`"
    assert rows()["workers"][3] == "one per GPU, else one"
