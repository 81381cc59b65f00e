"""The house as DESIGN draws it, read from the imports: who may know which framework, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bhsearch

PACKAGE = Path(bhsearch.__file__).parent
# Top to bottom; data flows one way. What lies in no room is a command, or shared by commands.
ROOMS = (
    "top",
    "runtime",
    "config",
    "data",
    "tasks",
    "models",
    "evaluation",
    "reporting",
    "objectives",
    "engines",
    "tracking",
    "study",
    "lifecycle",
    "protocols",
    "cli",
)
TOP = tuple(f"bhsearch.{name}" for name in ("errors", "plugins", "states", "text"))
# Framework -> the only modules that may import it, at any place in them.
HOMES = {
    "mlflow": "bhsearch.tracking",
    "optuna": "bhsearch.engines.optuna",
    "optuna_integration": "bhsearch.engines.optuna",
    "keras_tuner": "bhsearch.engines.keras_tuner",
    "keras": "bhsearch.models",
    "openvino": "bhsearch.models",
    "onnx": "bhsearch.models",
    "onnxruntime": "bhsearch.models",
    "ray": "bhsearch.study.workers.launchers.ray",
    "tensorflow": "bhsearch.models.backend",
    "jax": "bhsearch.models.backend",
}
FRAMEWORKS = (*HOMES, "torch", "matplotlib", "sklearn", "scipy.stats")
MOST_LINES = 500
MOST_MODULES = 16  # a folder
MOST_IMPORTS = 12  # of modules of other rooms
# Modules that join more, with what they import today: the numbers may only fall.
JOINING = {
    "bhsearch.cli.dataset": 16,
    "bhsearch.lifecycle.build_report": 15,
    "bhsearch.lifecycle.fitted_model": 13,
    "bhsearch.lifecycle.predict": 18,
    "bhsearch.lifecycle.reproduce": 15,
    "bhsearch.lifecycle.restore": 15,
    "bhsearch.objectives.finetune": 15,
    "bhsearch.protocols.breakhis_folds": 13,
    "bhsearch.protocols.leakage": 13,
    "bhsearch.study.checks.plugins": 14,
    "bhsearch.study.context": 14,
}


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, and for types only too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute in this package"
            assert node.module is not None
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in MODULES else node.module


def own_imports(name: str) -> set[str]:
    return {found for found in imports(MODULES[name]) if found.split(".")[0] == "bhsearch"}


def room_of(module: str) -> int:
    if module in TOP:
        return 0
    parts = module.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] in ROOMS else len(ROOMS) - 1


def loaded_by(*code: str) -> set[str]:
    """Frameworks that a fresh process has loaded after running some code."""
    (loaded,) = loaded_after(code)
    return loaded


def loaded_after(*programs: tuple[str, ...]) -> list[set[str]]:
    """Frameworks that a fresh process has loaded after each of some programs, which it runs in turn."""
    say = f"import sys; print('LOADED', *(set({FRAMEWORKS!r}) & set(sys.modules)))"
    lines = [line for program in programs for line in (*program, say)]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    said = [set(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert len(said) == len(programs), done.stdout + done.stderr
    return said


def command(*arguments: str, code: int, module: str = "run") -> tuple[str, ...]:
    """Lines of a program that runs a command and checks how it ends."""
    return (
        "import runpy, sys",
        f"sys.argv = ['bhsearch.{module}', *{arguments!r}]",
        "try:",
        f"    runpy.run_module('bhsearch.{module}', run_name='__main__')",
        "except SystemExit as end:",
        f"    assert end.code == {code}, (sys.argv, end.code)",
    )


def test_every_room_is_there():
    """The tests below would pass on an empty house."""
    assert {room_of(name) for name in MODULES} == set(range(len(ROOMS)))


@pytest.mark.parametrize("name", MODULES)
def test_a_framework_is_imported_only_in_its_room(name):
    for found in imports(MODULES[name]):
        home = HOMES.get(found.split(".")[0])
        assert home is None or name == home or name.startswith(f"{home}."), f"{name} imports {found}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_room_and_those_above(name):
    assert [found for found in own_imports(name) if room_of(found) > room_of(name)] == []


def test_no_module_imports_itself_through_others():
    """Imports inside functions count: they hide a cycle and do not undo it."""
    list(TopologicalSorter({name: own_imports(name) - {name} for name in MODULES}).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_longer_than_a_sitting(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_no_folder_has_more_modules_than_a_person_reads():
    counts = Counter(file.parent for file in MODULES.values() if file.name != "__init__.py")
    assert {str(folder): n for folder, n in counts.items() if n > MOST_MODULES} == {}


def rooms_known_by(name: str) -> int:
    """How many modules of other rooms a module imports."""
    return len({found for found in own_imports(name) if room_of(found) != room_of(name)})


@pytest.mark.parametrize("name", MODULES)
def test_no_module_joins_more_of_the_house_than_it_may(name):
    assert rooms_known_by(name) <= JOINING.get(name, MOST_IMPORTS)


def test_what_may_join_more_still_does():
    """A module that has come down to the limit loses its exception."""
    assert [name for name, n in JOINING.items() if rooms_known_by(name) != n] == []


@pytest.mark.parametrize(
    ("modules", "allowed"),
    [
        (("study.runner", "study.workers.process"), {"optuna"}),
        (("tracking.upload.uploader", "tracking.upload.trial_files"), set()),
        (("tracking.upload.writer",), {"mlflow"}),
    ],
)
def test_a_process_of_a_study_starts_without_what_it_may_never_need(modules, allowed):
    """Each of the processes that begin together would pay for it."""
    loaded = loaded_after(*((f"import bhsearch.{module}",) for module in modules))
    assert [(module, names) for module, names in zip(modules, loaded, strict=True) if names - allowed] == []


WRONG = [
    (("--help",), 0),
    (("--trials", "many"), 2),
    (("--trials", "0"), 2),
    (("--nosuch",), 2),
    (("--config", "nosuch.toml"), 2),
    (("--regime", "nosuch"), 2),
]


def test_the_package_help_and_argument_errors_load_no_framework():
    """A person who mistyped a word does not wait for TensorFlow."""
    package, *loaded = loaded_after(("import bhsearch",), *(command(*words, code=code) for words, code in WRONG))
    assert package == set()
    assert [(words, names) for (words, _), names in zip(WRONG, loaded, strict=True) if names] == []


def test_wrong_data_and_backbones_are_found_without_the_slow_frameworks():
    """Optuna may be there (0.3 s); what takes seconds may not."""
    wrong = (("--data", "nosuch"), ("--backbones", "nosuch", "--data", "phantom:cases=10"))
    loaded = loaded_after(*(command(*words, code=2) for words in wrong))
    assert [(words, names) for words, names in zip(wrong, loaded, strict=True) if names - {"optuna"}] == []
