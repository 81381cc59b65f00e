"""Facts about the structure of the package: size of its rooms, fan-out, types, names, and the cost of one long trip.

    python experiments/scripts/house_facts.py facts CHECKOUT [CHECKOUT ...]
    python experiments/scripts/house_facts.py trip

The first command reads the syntax trees of one or more checkouts and prints a column for each. The second one registers
the only study of the MLflow store in the working directory, with a profiler, and prints how many files of bhsearch had
a function that ran, and the longest chain of calls. It runs the package that Python finds, so `PYTHONPATH` selects the
checkout; give each checkout a copy of a folder in which the same command made a study.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_NEW_LOCALS = 0x2  # flag of code that is a function, and not the body of a class or of a module
_N_LONGEST = 8


# -- facts about source files ------------------------------------------------------------------------------------------


def modules_of(checkout: Path) -> dict[str, ast.Module]:
    """Return the syntax tree of each module of a checkout, by the name of the module."""
    files = sorted((checkout / "bhsearch").rglob("*.py"))
    names = (file.relative_to(checkout).with_suffix("").as_posix().replace("/", ".") for file in files)
    return {
        name.removesuffix(".__init__"): ast.parse(file.read_text(encoding="utf-8"))
        for name, file in zip(names, files, strict=True)
    }


def room_of(module: str) -> str:
    """Return the room of a module: the folder below the package, or `top`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "top"


def imports_of(tree: ast.Module, known: set[str]) -> set[str]:
    """Return the modules of the package that a module imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (deeper & known) or {node.module}
    return found & known


def functions_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield name and length, in lines without the docstring, of each function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


def names_of(tree: ast.Module) -> set[str]:
    """Return the functions, classes and constants that a module defines, private ones included."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            targets = [each for target in node.targets for each in ast.walk(target)]
            found |= {each.id for each in targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def facts(checkout: Path) -> dict[str, str]:
    """Return the facts of a checkout, by their heading."""
    trees = modules_of(checkout)
    known = set(trees)
    rooms: dict[str, list[int]] = defaultdict(list)
    for name in trees:
        file = checkout / Path(*name.split("."))
        path = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        rooms[room_of(name)].append(len(path.read_text(encoding="utf-8").splitlines()))
    lines = {f"{room}: modules, lines": f"{len(each)}, {sum(each):,}" for room, each in sorted(rooms.items())}
    fan_out = Counter(
        {name: len({each for each in imports_of(tree, known) if room_of(each) != room_of(name)})
         for name, tree in trees.items()}
    )  # fmt: skip
    longest = sorted(((n, f"{m}.{f}") for m, tree in trees.items() for f, n in functions_of(tree)), reverse=True)
    text = [ast.unparse(tree) for tree in trees.values()]
    defined = Counter(name for tree in trees.values() for name in names_of(tree) if name != "app")
    public = {name: count for name, count in defined.items() if not name.startswith("_") and count > 1}
    return {
        **lines,
        "all: modules, lines": f"{len(trees)}, {sum(map(sum, rooms.values())):,}",
        "largest fan-out to other rooms": _ranked(fan_out.most_common(3)),
        "longest functions": _ranked([(name, n) for n, name in longest[:_N_LONGEST]]),
        "dict[str, Any]": str(sum(each.count("dict[str, Any]") for each in text)),
        "Any": str(sum(isinstance(n, ast.Name) and n.id == "Any" for tree in trees.values() for n in ast.walk(tree))),
        "public names defined in several modules": f"{len(public)}: {', '.join(sorted(public))}",
        "private ones": str(sum(name.startswith("_") and count > 1 for name, count in defined.items())),
    }


def _ranked(rows: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name.removeprefix('bhsearch.')} {count}" for name, count in rows)


# -- the trip of registering -------------------------------------------------------------------------------------------


class Trip:
    """Records which functions of the package run, and the longest chain of them on the stack."""

    def __init__(self, package: Path) -> None:
        self.files: set[str] = set()
        self.functions: set[tuple[str, str]] = set()
        self.longest: list[str] = []
        self._package = str(package)
        self._importing = threading.local()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG002
        """Profile one event; functions that run while a module is imported do not count."""
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(self._package):
            return
        if code.co_name == "<module>":
            depth = getattr(self._importing, "depth", 0)
            self._importing.depth = depth + (1 if event == "call" else -1)
        elif event == "call" and code.co_flags & _NEW_LOCALS and not getattr(self._importing, "depth", 0):
            self.files.add(code.co_filename)
            self.functions.add((code.co_filename, code.co_qualname))
            chain = self._chain(frame)
            if len(chain) > len(self.longest):
                self.longest = chain

    def _chain(self, frame: FrameType | None) -> list[str]:
        found: list[str] = []
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(self._package) and code.co_flags & _NEW_LOCALS:
                module = Path(code.co_filename).relative_to(self._package).with_suffix("").as_posix().replace("/", ".")
                found.append(f"{module}.{code.co_qualname.rpartition('.<locals>.')[2]}")
            frame = frame.f_back
        return found[::-1]


def _first(*names: str) -> Any:
    """Return the first attribute that exists, of names such as `bhsearch.lifecycle.register.register`."""
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"none of {', '.join(names)} exists")


def trip() -> Trip:
    """Register the only study of the store in the working directory, watched."""
    import bhsearch

    register = _first("bhsearch.lifecycle.register.register", "bhsearch.search.registering.register")
    request = _first("bhsearch.lifecycle.registration.RegistrationRequest", "bhsearch.search.registration.Request")
    reporter = _first("bhsearch.study.events.ProgressReporter", "bhsearch.search.reporter.Reporter")
    watcher = Trip(Path(str(bhsearch.__file__)).parent)
    asked, heard = request(), reporter()
    threading.setprofile(watcher)
    sys.setprofile(watcher)
    try:
        register(asked, heard)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return watcher


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("facts").add_argument("checkouts", nargs="+", type=Path)
    commands.add_parser("trip").add_argument("--files", action="store_true", help="print the files, too")
    options = parser.parse_args()
    if options.command == "facts":
        columns = [facts(checkout) for checkout in options.checkouts]
        for heading in dict.fromkeys(name for column in columns for name in column):
            print(f"{heading}:")
            for checkout, column in zip(options.checkouts, columns, strict=True):
                print(f"    {checkout}: {column.get(heading, '-')}")
        return
    found = trip()
    print(f"{len(found.files)} files, {len(found.functions)} functions")
    print(f"longest chain, {len(found.longest)} calls: {' > '.join(found.longest)}")
    if options.files:
        print(*sorted(found.files), sep="\n")


if __name__ == "__main__":
    main()
