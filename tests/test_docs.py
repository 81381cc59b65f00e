"""Test that the documents are true: commands run or parse, options, paths and links exist, and the pages build."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bhsearch
from bhsearch import errors
from bhsearch.config import Settings
from bhsearch.tracking import keys

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
        *DOCS.rglob("*.md"),
        *(ROOT / "experiments").rglob("*.md"),
    ]
)
PAGE_SECONDS = 240  # a page that hangs is ended; all pages together take less than five minutes on two cores
BLOCK = re.compile(r"(?:^<!-- ([^\n]*?) -->\n\n?)?^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FOREIGN_OPTIONS = {
    "--help",
    "--constraint",
    "--editable",
    "--strict",
    "--env-manager",
    "--port",
    "--allowed-hosts",
    "--app-name",
}  # of every command, pip, MkDocs and MLflow


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()
COMMANDS: dict[str, Any] = dict(generate.commands())


@dataclass(frozen=True)
class Block:
    """A shell block of a page, and how it is marked: `run`, `dry` or `outside: REASON`."""

    page: Path
    mark: str
    code: str


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    return [Block(page, mark or "", code) for mark, code in BLOCK.findall(text_of(page))]


BLOCKS = [block for page in PAGES for block in blocks(page)]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def calls(code: str) -> Iterator[list[str]]:
    """Yield the words of each call of bhsearch in shell code; here-documents are left out."""
    code = re.sub(r"<<'EOF'\n.*?^EOF$", "", code, flags=re.MULTILINE | re.DOTALL)
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[:1] == ["bhsearch"] or (words[:2] == ["python", "-m"] and words[2].startswith("bhsearch")):
            yield words


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that a call names, and its arguments."""
    if words[0] == "python":  # `python -m bhsearch.run` is `bhsearch run`
        old = " ".join(words[:3])
        words = [old, *words[3:]] if old in COMMANDS else ["bhsearch", words[2].partition(".")[2], *words[3:]]
    for length in range(len(words), 0, -1):
        name = " ".join(words[:length])
        if name in COMMANDS and (length == len(words) or not hasattr(COMMANDS[name], "list_commands")):
            return COMMANDS[name], words[length:]
    raise AssertionError(f"{' '.join(words)!r} is none of {', '.join(COMMANDS)}")


# -- shell blocks ------------------------------------------------------------------------------------------------------


def test_there_are_blocks_of_each_kind():
    """The tests below go by pattern, and would pass on documents without blocks."""
    assert {block.mark.partition(":")[0] for block in BLOCKS} == {"run", "dry", "outside"}
    assert len(BLOCKS) >= 30


@by_page
def test_every_shell_block_is_marked(page):
    assert [block.code for block in blocks(page) if not re.fullmatch(r"run|dry|outside: \w.{9,}", block.mark)] == []


@by_page
def test_every_call_in_a_shell_block_is_parsed_by_its_command(page):
    """Blocks that need a network or a GPU are parsed, too: only their effect needs it."""
    for block in blocks(page):
        found = list(calls(block.code))
        assert found or block.mark != "dry", f"a dry block must call bhsearch: {block.code}"
        for words in found:
            command, arguments = command_of(words)
            command.make_context(command.name or "bhsearch", list(arguments))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def script(page: Path) -> str:
    return "\n".join(block.code for block in blocks(page) if block.mark == "run")


def pages_by_script() -> dict[str, list[Path]]:
    """Group the pages that run the same, whatever their comments say: README.md and the quickstart do."""
    found: dict[str, list[Path]] = {}
    for page in filter(script, sorted(PAGES)):
        lines = re.sub(r"\s+# .*$", "", script(page), flags=re.MULTILINE).splitlines()
        found.setdefault("\n".join(filter(None, lines)), []).append(page)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "pages",
    pages_by_script().values(),
    ids=lambda pages: "+".join(str(page.relative_to(ROOT)) for page in pages),
)
def test_the_blocks_of_a_page_run_in_one_folder(pages, cache, tmp_path):
    """In their order, so that a study made by one serves the next. All pages share the cache of pixels and features."""
    folder, programs = tmp_path / "work", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for name, arguments in {"python": "", "bhsearch": "-m bhsearch"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BHSEARCH_CACHE": str(cache),
        "COLUMNS": "100",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script(pages[0])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PAGE_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


# -- code spans, paths and links ---------------------------------------------------------------------------------------


@by_page
def test_every_command_and_option_in_a_code_span_exists(page):
    if page.name == "CHANGELOG.md":
        return  # names of earlier versions
    known = {name for command in COMMANDS.values() for each in command.params for name in option_names(each)}
    for span in SPAN.findall(FENCE.sub("", text_of(page))):
        words = span.replace("\\|", "|").split()
        if words[:1] == ["bhsearch"] and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            command, _ = command_of([word for word in words if not word.startswith("-")][:3])
            options = {name for each in command.params for name in option_names(each)}
            assert set(OPTION.findall(span)) <= options, span
        elif words[0].startswith("--"):
            assert set(OPTION.findall(span)) <= known | FOREIGN_OPTIONS | script_options(page), span


def option_names(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def script_options(page: Path) -> set[str]:
    """Return the options of the benchmark that a page is about; `--help` of each is tested with the benchmarks."""
    scripts = [word for block in blocks(page) for word in re.findall(r"[\w/.]+\.py|experiments\.[\w.]+", block.code)]
    files = [ROOT / word for word in scripts if word.endswith(".py")]
    files += [file for word in scripts for file in (ROOT / word.replace(".", "/")).glob("*.py")]
    files += [(ROOT / word.replace(".", "/")).with_suffix(".py") for word in scripts if not word.endswith(".py")]
    return {option for file in files if file.is_file() for option in OPTION.findall(text_of(file))}


@by_page
def test_every_path_of_the_repository_in_a_code_span_exists(page):
    if page.name == "CHANGELOG.md":
        return  # paths of earlier versions
    pattern = r"(?<![\w/.])(?:experiments|bhsearch|tests|docs|\.ci|\.github)/[\w/.-]*"
    spans = " ".join(SPAN.findall(FENCE.sub("", text_of(page))) + [block.code for block in blocks(page)])
    assert [path for path in re.findall(pattern, spans) if not (ROOT / path).exists()] == []


@by_page
def test_every_link_inside_the_repository_has_a_target(page):
    targets = [link.partition("#")[0] for link in LINK.findall(FENCE.sub("", text_of(page))) if "://" not in link]
    generated = {(DOCS / name).resolve() for name in generate.PAGES}
    paths = [(page.parent / target).resolve() for target in targets if target]
    assert [path for path in paths if not path.exists() and path not in generated] == []


def test_pictures_are_small():
    pictures = [*(DOCS / "pictures").iterdir(), *(ROOT / "experiments" / "pictures").iterdir()]
    assert pictures
    assert [picture.name for picture in pictures if picture.stat().st_size >= 200_000] == []


def test_facts_that_are_missing_are_marked_on_one_page_only():
    assert [page for page in PAGES if re.search(r"\bTODO\b", text_of(page))] == [DOCS / "project.md"]


# -- generated pages ---------------------------------------------------------------------------------------------------


def test_every_setting_has_its_option_and_key_on_the_page():
    page = generate.settings_page()
    assert [field.name for field in dataclasses.fields(Settings) if f"`{field.name}`" not in page] == []


def test_every_command_is_on_its_page():
    page = generate.commands_page()
    assert [name for name in COMMANDS if f"## {name}\n" not in page] == []


def test_every_error_is_on_its_page_with_its_exit_code():
    page = generate.errors_page()
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(classes) > 5
    assert [each for each in classes if not re.search(rf"`{each.__name__}` \| `\w+` \| {each.exit_code} ", page)] == []


def test_everything_that_the_package_offers_is_on_its_page():
    page = generate.api_page()
    assert [name for name in bhsearch.__all__ if f"## bhsearch.{name}\n" not in page] == []


def test_every_key_of_mlflow_is_on_its_page():
    page = generate.keys_page()
    tags = [value for value in vars(keys).values() if isinstance(value, str) and value.startswith("bhsearch.")]
    assert "bhsearch.study" in tags
    assert [tag for tag in tags if tag != keys.__name__ and tag != keys.__package__ and f"`{tag}`" not in page] == []


def test_the_picture_shows_every_room_and_no_import_upwards():
    picture = generate.rooms_svg()
    assert all(f">{room}</text>" in picture for room in generate.rooms())
    assert "#c0392b" not in picture


# -- examples of extensions --------------------------------------------------------------------------------------------

PROTOCOLS = {  # page -> the interface that the last object of its example implements
    "layout": ("bhsearch.data.layouts.base", "Layout"),
    "sampler": ("bhsearch.engines.optuna.samplers", "Sampler"),
    "augmentation": ("bhsearch.models.augmentation.base", "Augmentation"),
    "launcher": ("bhsearch.study.workers.launchers.base", "Launcher"),
    "cluster-launcher": ("bhsearch.study.workers.launchers.jobs", "ClusterLauncher"),
}


def example(name: str) -> Any:
    """Return the object that the entry point of an example names."""
    text = text_of(DOCS / "extend" / f"{name}.md")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": f"example_{name}"}
    exec(compile(code, f"docs/extend/{name}.md", "exec"), names)
    group = f"{name.removeprefix('cluster-')}s"
    entry = re.search(rf'entry-points\."bhsearch\.{group}"\]\n[\w-]+ = "[\w.]+:(\w+)"', text)
    assert entry is not None
    return names[entry[1]]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_example_of_a_part_has_what_its_interface_demands(name):
    part = example(name)
    module, interface = PROTOCOLS[name]
    protocol = getattr(importlib.import_module(module), interface)
    members = {each for each in (*vars(protocol), *protocol.__annotations__) if not each.startswith("_")}
    assert members or callable(part)
    assert [each for each in sorted(members) if not hasattr(part, each)] == []
    for each in members:
        if inspect.isfunction(getattr(protocol, each, None)):
            theirs, ours = (list(inspect.signature(getattr(kind, each)).parameters) for kind in (protocol, type(part)))
            assert ours == theirs


def test_the_example_of_a_layout_reads_names(tmp_path):
    from bhsearch.data.images.files import Images
    from bhsearch.data.layouts.base import LayoutOptions

    layout, names = example("layout"), ("P01_b_1.png", "P02_m_2.png")
    assert layout.detect(names, LayoutOptions()) == 1.0
    listing = layout.read(tmp_path, Images(names), LayoutOptions())
    assert [(row.label, row.case) for row in listing.rows] == [(0, "P01"), (1, "P02")]
    with pytest.raises(errors.DataError, match=r"but got wrong\.png"):
        layout.read(tmp_path, Images(("wrong.png",)), LayoutOptions())


def test_the_example_of_a_metric_keeps_the_rules_of_its_page():
    metric = example("metric")
    label, probability, weight = np.array([0, 1, 1]), np.array([0.2, 0.7, 0.4]), np.array([1.0, 2.0, 1.0])
    value = metric.function(label, probability, weight)
    twice = np.array([0, 1, 1, 2])
    assert metric.name == "log_loss"
    assert metric.low <= value <= metric.high
    assert metric.function(label[twice], probability[twice], np.ones(4)) == pytest.approx(value)
    assert metric.function(label, probability, np.stack([weight, 2 * weight])) == pytest.approx(float(value))
    assert np.isnan(metric.function(label, probability, np.zeros(3)))


def test_the_example_of_a_sampler_gives_the_same_proposal_again():
    from optuna.distributions import FloatDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import create_study

    def proposals() -> list[float]:
        sampler = example("sampler")(1, 2, 0)
        assert isinstance(sampler, BaseSampler)
        study = create_study(sampler=sampler)
        return [study.ask({"x": FloatDistribution(0, 1)}).params["x"] for _ in range(2)]

    assert proposals() == proposals()


# -- the site ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages; a broken link or a page outside the navigation fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PAGE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_page(site):
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md")] + [Path(name) for name in generate.PAGES]
    names = [page.parent if page.name == "index.md" else page.with_suffix("") for page in pages]
    assert [name for name in names if not (site / name / "index.html").is_file()] == []


def test_the_site_loads_nothing_from_outside(site):
    pattern = r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//"
    for page in site.rglob("*.html"):
        found = re.findall(pattern, page.read_text(encoding="utf-8"))
        assert found == [], page
    for sheet in site.rglob("*.css"):
        assert re.search(r"@import|url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")) is None, sheet
