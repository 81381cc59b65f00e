"""Generate the reference pages and the picture of the rooms from the source, whenever the documentation is built.

MkDocs calls the two hooks at the end of this file, so that no page can be out of date. To read the pages as text:

    python docs/generate.py FOLDER
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import html
import importlib
import inspect
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bhsearch"
COMMANDS = ("run", "worker", "register", "predict", "validate", "report", "reproduce", "dataset")
PICTURE = "<!-- picture of the rooms -->"
SOURCE = re.compile(r"^<!-- source: (\S+) -->$", re.MULTILINE)

# -- text --------------------------------------------------------------------------------------------------------------


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Format rows as a Markdown table; empty cells stay empty and line breaks become spaces."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    for row in rows:
        cells = (" ".join(str(cell).split()).replace("|", "\\|").replace("<", "&lt;") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def code(text: object) -> str:
    """Format a value as a code span; an empty one stays empty."""
    return f"`{text}`" if str(text) else ""


def docstring_as_markdown(text: str) -> str:
    """Turn the sections of a Google docstring into Markdown lists; everything else stays as it is."""
    lines: list[str] = []
    section = False
    for line in inspect.cleandoc(text).splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields|Source|Examples?):", line):
            lines += ["", f"**{line[:-1]}**", ""]
            section = True
        elif section and (item := re.fullmatch(r" {4}([\w*`.]+(?:, [\w*`.]+)*): (.*)", line)):
            lines.append(f"- `{item[1].strip('`')}`: {item[2]}")
        elif section and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            section = section and not line.strip()
            lines.append(line)
    return "\n".join(lines)


# -- commands and settings ---------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command as a user types it, with its Click object; groups come before their subcommands."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("scripts", {})
    if "bhsearch" in scripts and (app := _app_of(scripts["bhsearch"])) is not None:
        yield from _walk("bhsearch", app)
        return
    for name in COMMANDS:
        app = importlib.import_module(f"bhsearch.{name}").app
        yield from _walk(f"python -m bhsearch.{name}", typer.main.get_command(app))


def _app_of(script: str) -> Any:
    """Return the Click command behind a console script, or None where it is a plain function without one."""
    module_name, _, attribute = script.partition(":")
    module = importlib.import_module(module_name)
    for found in (getattr(module, attribute), getattr(module, "app", None)):
        if hasattr(found, "make_context"):
            return found
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
    return None


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    if hasattr(command, "list_commands"):
        context = command.context_class(command, info_name=name)
        for each in command.list_commands(context):
            found = command.resolve_command(context, [each])[1]  # a lazy group imports the subcommand here
            if found is not None and not found.hidden:
                yield from _walk(f"{name} {each}", found)


def _choices(option: Any) -> list[str]:
    """Return the values that an option takes, or nothing where it takes any."""
    kind = getattr(option, "bare_type", None)
    if inspect.isclass(kind) and issubclass(kind, enum.Enum):
        return [str(each.value) for each in kind]
    return [str(each) for each in get_args(kind) if isinstance(each, str)] if get_origin(kind) is Literal else []


def _option_rows(command: Any) -> list[tuple[str, str]]:
    rows = []
    for option in command.params:
        if option.name == "help" or getattr(option, "hidden", False):
            continue
        names = [*option.opts, *option.secondary_opts]
        name = ", ".join(code(each) for each in names) if names[0].startswith("-") else code(option.name.upper())
        text = (getattr(option, "help", None) or "").replace("\\[", "[")  # escaped for the terminal
        choices = _choices(option)
        if choices and not all(each in text for each in choices):
            text += f" One of {', '.join(choices)}."
        if option.default not in (None, False, (), "") and not callable(option.default) and "default:" not in text:
            text += f" [default: {option.default}]"
        rows.append((name, text))
    return rows


def commands_page() -> str:
    """Return the page of every command with its arguments and options."""
    parts = [
        "# Commands",
        "Generated from the commands themselves. `python -m bhsearch.run` and its like are the same commands.",
    ]
    for name, command in commands():
        help_text = inspect.cleandoc(command.help or "").replace("\f", "")
        parts += [f"## {name}", help_text]
        if hasattr(command, "list_commands"):
            continue
        if rows := _option_rows(command):
            parts.append(table(("option", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Return the page of the settings: option, key of a TOML file, values, default and meaning, by section."""
    from bhsearch.config.table import markdown_tables

    example = (ROOT / "experiments" / "breakhis-frozen.toml").read_text(encoding="utf-8").strip()
    return (
        "# Settings\n\nEach setting is an option of `bhsearch run`, a key of a TOML file given with `--config`, and a "
        "keyword of `bhsearch.optimize`. Options override the file.\n\n"
        + re.sub("^###", "##", markdown_tables(), flags=re.MULTILINE)
        + f"\n## Example of a settings file\n\n```toml\n{example}\n```\n"
    )


# -- space, API, keys, errors ------------------------------------------------------------------------------------------


def space_page() -> str:
    """Return the page of the two search spaces."""
    from bhsearch.objectives.space import finetune_space, frozen_space, markdown_table

    return (
        "# Search space\n\nGenerated from the table that the engines read. *first* is the value of the first trial of "
        "each backbone.\n\n## Frozen regime\n\n"
        + markdown_table(frozen_space(("all available",)))
        + "\n\n## Fine-tuning regime\n\n"
        + markdown_table(finetune_space(("all available",), (224,)))
        + "\n"
    )


def api_page() -> str:
    """Return the page of everything that `import bhsearch` offers."""
    bhsearch = importlib.import_module("bhsearch")
    parts = [
        "# Python API",
        "Generated from the docstrings of what `import bhsearch` offers. Importing it loads no framework.",
    ]
    for name in sorted(bhsearch.__all__, key=str.lower):
        found = getattr(bhsearch, name)
        parts.append(f"## bhsearch.{name}")
        if callable(found):
            parts.append(f"```python\n{_signature(name, found)}\n```")
        parts.append(docstring_as_markdown(inspect.getdoc(found) or ""))
        if inspect.isclass(found) and not dataclasses.is_dataclass(found):
            for key, member in vars(found).items():
                if not key.startswith("_") and inspect.isfunction(member):
                    parts += [f"### {name}.{key}", docstring_as_markdown(inspect.getdoc(member) or "")]
    try:
        from bhsearch.study.outcome.result import StudyResult
    except ImportError:
        return "\n\n".join(parts) + "\n"
    if "StudyResult" not in bhsearch.__all__:
        parts += ["## StudyResult", docstring_as_markdown(inspect.getdoc(StudyResult) or "")]
        for key, member in vars(StudyResult).items():
            if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                parts += [f"### StudyResult.{key}", docstring_as_markdown(inspect.getdoc(member) or "")]
    return "\n\n".join(parts) + "\n"


def _signature(name: str, found: Any) -> str:
    signature = inspect.signature(found)
    parameters = [str(each).replace("'", "") for each in signature.parameters.values()]
    keyword = [each.kind is inspect.Parameter.KEYWORD_ONLY for each in signature.parameters.values()]
    if any(keyword):
        parameters.insert(keyword.index(True), "*")
    joined = f"{name}({', '.join(parameters)})"
    return joined if len(joined) < 100 else f"{name}(\n    " + ",\n    ".join(parameters) + ",\n)"


def key_sections(file: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return constant, value and comment of each string at the top level of a module, by its section.

    A section begins with a comment such as `# -- tags of runs ------`; a comment at the end of a line is the meaning.
    """
    source = file.read_text(encoding="utf-8")
    comments, headings = {}, {0: ""}
    with file.open("rb") as stream:
        for token in tokenize.tokenize(stream.readline):
            if token.type == tokenize.COMMENT:
                heading = re.fullmatch(r"# -- (.*?) -+", token.string)
                found = headings if heading else comments
                found[token.start[0]] = heading[1] if heading else token.string.lstrip("# ").strip()
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        section = headings[max(line for line in headings if line < node.lineno)]
        for name in [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]:
            value = getattr(module, name)
            texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
            rows = [(code(name), code(text), comments.get(node.end_lineno or 0, "")) for text in texts]
            if rows:
                sections.setdefault(section, []).extend(rows)
    return sections


def keys_page() -> str:
    """Return the page of every tag, metric and parameter that is written to MLflow."""
    parts = [
        "# MLflow keys",
        "Generated from `bhsearch/tracking/keys.py`. A key that ends with `/` is a prefix.",
    ]
    for section, rows in key_sections(PACKAGE / "tracking" / "keys.py").items():
        parts += [f"## {section[:1].upper()}{section[1:]}"] if section else []
        parts.append(table(("constant", "key", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def errors_page() -> str:
    """Return the page of the exceptions, as a tree and as a table."""
    errors = importlib.import_module("bhsearch.errors")
    rows: list[tuple[str, str, int, str]] = []

    def visit(kind: type, depth: int) -> None:
        rows.append((code(kind.__name__), code(kind.__mro__[1].__name__), kind.exit_code, inspect.getdoc(kind) or ""))  # type: ignore[attr-defined]
        for child in kind.__subclasses__():
            if child.__module__ == "bhsearch.errors":
                visit(child, depth + 1)

    visit(errors.BhsearchError, 0)
    return (
        "# Errors\n\nGenerated from `bhsearch/errors.py`. A command prints the message of one of these errors without "
        "a traceback and ends with its exit code; Python code catches the class. A command that is interrupted ends "
        "with 130 (Ctrl-C) or 143 (SIGTERM).\n\n"
        + table(("exception", "base", "exit code", "raised when"), rows)
        + "\n"
    )


# -- the picture of the rooms ------------------------------------------------------------------------------------------


def _layer_test(name: str) -> ast.expr:
    """Return the value that the layer test assigns to a name."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == name for each in node.targets
        ):
            return node.value
    raise SystemExit(f"tests/test_layers.py must assign {name}, but does not.")


def rooms() -> tuple[str, ...]:
    """Return the rooms in the order that the layer test enforces, top first."""
    return tuple(ast.literal_eval(_layer_test("ROOMS")))


@cache
def top_modules() -> set[str]:
    """Return the modules of the package that every room may import."""
    texts = [node.value for node in ast.walk(_layer_test("TOP")) if isinstance(node, ast.Constant)]
    return {str(text).removeprefix("bhsearch.") for text in texts} - {""}


def imports_between(order: tuple[str, ...]) -> tuple[Counter[tuple[str, str]], Counter[str], Counter[str]]:
    """Count the imports from room to room, and the modules and lines of each room."""
    edges: Counter[tuple[str, str]] = Counter()
    modules: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for file in sorted(PACKAGE.rglob("*.py")):
        room = _room(file.relative_to(PACKAGE).with_suffix("").parts, order)
        source = file.read_text(encoding="utf-8")
        modules[room] += 1
        lines[room] += len(source.splitlines())
        for node in ast.walk(ast.parse(source)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "bhsearch":
                names = [f"bhsearch.{alias.name}" for alias in node.names]
            for name in names:
                parts = tuple(name.split("."))
                if parts[0] == "bhsearch" and len(parts) > 1:
                    edges[room, _room(parts[1:], order)] += 1
    return edges, modules, lines


def _room(parts: tuple[str, ...], order: tuple[str, ...]) -> str:
    if parts[0] in order:
        return parts[0]
    return "top" if parts[0] in top_modules() else order[-1]


def subject(room: str) -> str:
    """Return the first sentence of a room's docstring."""
    if room == "top":
        return "Exceptions, registries of parts, states of trials, and text."
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s", text.splitlines()[0])[0]


def rooms_svg() -> str:
    """Draw the rooms from top to bottom, and how many imports lead from each to the rooms above it."""
    order = rooms()
    edges, modules, lines = imports_between(order)
    cell, row, left, head = 34, 40, 520, 84
    width, height = left + cell * len(order) + 20, head + row * len(order) + 10
    most = max(count for (of, to), count in edges.items() if of != to)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Rooms of the package and the imports between them" '
        'style="max-width:100%;height:auto;font-family:sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for column, room in enumerate(order):
        x = left + column * cell + cell / 2
        parts.append(
            f'<text transform="translate({x + 4},{head - 8}) rotate(-55)" font-size="12" fill="#333">{room}</text>'
        )
    for number, room in enumerate(order):
        y = head + number * row
        shade = "#f3f6fa" if number % 2 else "#ffffff"
        parts += [
            f'<rect x="0" y="{y}" width="{width}" height="{row}" fill="{shade}"/>',
            f'<rect x="6" y="{y + 5}" width="104" height="{row - 10}" rx="5" fill="#27567f"/>',
            f'<text x="58" y="{y + 25}" font-size="13" fill="#ffffff" text-anchor="middle">{room}</text>',
            f'<text x="120" y="{y + 17}" font-size="12" fill="#222">{html.escape(_short(subject(room)))}</text>',
            f'<text x="120" y="{y + 33}" font-size="11" fill="#667">{modules[room]} modules, {lines[room]:,} lines'
            "</text>",
        ]
        for column, other in enumerate(order):
            count = edges[room, other]
            x = left + column * cell
            if other == room:
                parts.append(f'<rect x="{x + 2}" y="{y + 5}" width="{cell - 4}" height="{row - 10}" fill="#d5dde6"/>')
            elif count:
                colour = "#2a78b5" if column < number else "#c0392b"
                strength = 0.2 + 0.8 * (count / most) ** 0.5
                ink = "#ffffff" if strength > 0.6 else "#123"
                parts += [
                    f'<rect x="{x + 2}" y="{y + 5}" width="{cell - 4}" height="{row - 10}" fill="{colour}" '
                    f'fill-opacity="{strength:.2f}"><title>{room} imports {other} {count} times</title></rect>',
                    f'<text x="{x + cell / 2}" y="{y + 24}" font-size="11" fill="{ink}" text-anchor="middle">'
                    f"{count}</text>",
                ]
    return "\n".join([*parts, "</svg>"])


def _short(text: str, most: int = 66) -> str:
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " ..."


# -- source in pages -------------------------------------------------------------------------------------------------


def source_of(place: str) -> str:
    """Return source as a Markdown block: of a file of the repository, or of one of its classes (`FILE:NAME`).

    Raises:
        SystemExit: If there is no such file or class, so that the page must be corrected.
    """
    name, _, wanted = place.partition(":")
    file = ROOT / name
    if not file.is_file():
        raise SystemExit(f"A page shows {name}, but there is no such file.")
    source = file.read_text(encoding="utf-8")
    if wanted:
        found = [node for node in ast.walk(ast.parse(source)) if getattr(node, "name", None) == wanted]
        if not found:
            raise SystemExit(f"A page shows {wanted} of {name}, but there is no such class or function.")
        source = ast.get_source_segment(source, found[0]) or ""
    return f"```{'toml' if file.suffix == '.toml' else 'python'}\n{source.strip()}\n```"


# -- MkDocs ------------------------------------------------------------------------------------------------------------

PAGES = {
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
    "reference/space.md": space_page,
    "reference/api.md": api_page,
    "reference/mlflow-keys.md": keys_page,
    "reference/errors.md": errors_page,
}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of the folder; MkDocs calls it."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the picture of the rooms, or source, where a page asks for it; MkDocs calls it."""
    markdown = SOURCE.sub(lambda found: source_of(found[1]), markdown)
    return markdown.replace(PICTURE, rooms_svg()) if PICTURE in markdown else markdown


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the generated pages into a folder.")
    parser.add_argument("folder", type=Path, help="folder to write to; created if missing")
    target = parser.parse_args().folder
    for name, page in PAGES.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(page(), encoding="utf-8")
    (target / "rooms.svg").write_text(rooms_svg(), encoding="utf-8")
