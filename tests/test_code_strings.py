"""Code inside strings of tests, such as programs for child processes, imports only names that exist.

The tools that rename things and check imports don't read strings, and a wrong name in one is often found only by a test
that is slow or skipped.
"""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tests").rglob("*.py"))
OWN = ("bhsearch", "tests")
VALUE = "value_of_f_string"  # stands for what is known only at run time
LINE = re.compile(r"^[ \t]*((?:from|import) (?:bhsearch|tests)\b.*)$", re.MULTILINE)


def code_strings(source: str) -> Iterator[tuple[int, ast.Module]]:
    """Every string of a file that is Python code with an import, with its line.

    If a string is only a part of a program, its lines with imports are yielded. Values in an f-string become names.
    """
    inside = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
            parts = [part.value if isinstance(part, ast.Constant) else VALUE for part in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if "import" not in text:
            continue
        code = parsed(textwrap.dedent(text))
        lines = [parsed(line) for line in LINE.findall(text)] if code is None else [code]
        yield from ((node.lineno, found) for found in lines if found is not None)


def parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):  # ValueError: null bytes
        return None


def imported(code: ast.AST) -> Iterator[tuple[str, str]]:
    """Pairs of module and name that code imports from this project; the name is empty if it imports the module."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] in OWN)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OWN:
            yield from ((node.module, alias.name) for alias in node.names)


def file_of(module: str) -> Path | None:
    """The file of a module; None if there is no such module."""
    place = ROOT.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@cache
def names_of(file: Path) -> frozenset[str]:
    """The names that a module binds at its top level, in branches and blocks, too."""
    found, open_nodes = set(), list(ast.parse(file.read_text(encoding="utf-8")).body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue  # what a function binds is not a name of the module
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        open_nodes += ast.iter_child_nodes(node)
    return frozenset(found)


def exists(module: str, name: str) -> bool:
    """Whether a name can be imported from a module; True if either is known only at run time."""
    file = file_of(module)
    if VALUE in module:
        return True
    if file is None:
        return False
    if name in ("", "*") or VALUE in name or name in names_of(file) or file_of(f"{module}.{name}") is not None:
        return True
    # A module with `__getattr__` makes names when they are asked for.
    return "__getattr__" in names_of(file) and hasattr(importlib.import_module(module), name)


def missing(source: str) -> list[str]:
    return [
        f"line {line}: {module}{'.' if name else ''}{name}"
        for line, code in code_strings(source)
        for module, name in imported(code)
        if not exists(module, name)
    ]


def test_what_code_in_strings_of_tests_imports_exists():
    others = [file for file in FILES if file != Path(__file__)]
    wrong = {str(file.relative_to(ROOT)): missing(file.read_text(encoding="utf-8")) for file in others}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_programs_of_child_processes_are_among_the_strings_that_are_read():
    file = ROOT / "tests" / "runtime" / "test_locks.py"
    pairs = [pair for _, code in code_strings(file.read_text(encoding="utf-8")) for pair in imported(code)]
    assert {("bhsearch.runtime", "leases"), ("bhsearch.runtime.locks", "lock_within")} <= set(pairs)


@pytest.mark.parametrize(
    "line",
    [
        "from bhsearch.errors import NoSuchError",
        "from bhsearch.nosuch import Settings",
        "from bhsearch import nosuch",
        "import bhsearch.nosuch",
        "def f():\n    from tests.studies import nosuch",
        "from bhsearch.runtime.messages import Go, nosuch as other",
    ],
)
def test_a_wrong_name_is_found_in_plain_indented_and_formatted_strings(line):
    for literal in (repr(line), repr(textwrap.indent(line, "    ")), 'f"""' + line + '\nprint({1 + 1})"""'):
        assert len(missing(f"import sys\nrun({literal})")) == 1, literal


@pytest.mark.parametrize(
    "line",
    [
        "import bhsearch",
        "import bhsearch.errors, os",
        "from bhsearch import Settings, optimize, errors",
        "from bhsearch.runtime.messages import Go, M, from_line as read",
        "from tests import studies",
        "from bhsearch.errors import *",
        "import nosuch",  # another project's modules are not looked for
        "important words that are no code: from bhsearch import nosuch, please",
    ],
)
def test_a_right_name_and_prose_are_accepted(line):
    assert missing(f"run({line!r})") == []


def test_a_part_of_a_program_is_read_by_lines():
    part = "if True:\n    import bhsearch.nosuch\nelse:"
    assert len(missing(f"run({part!r})")) == 1


def test_what_is_known_only_at_run_time_is_not_looked_for():
    assert missing('run(f"import bhsearch.{name}", f"from bhsearch.errors import {name}")') == []
