"""Files in the working directory that would shadow a standard or third-party module are refused."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import bhsearch
from bhsearch.runtime import shadowing

PACKAGE = Path(bhsearch.__file__).parent
MODULES = """
import importlib.machinery, sys
before = set(sys.modules)
from tests.studies import search
search(trials=2)
from tests.studies import import_mlflow
import_mlflow()
import bhsearch.run, bhsearch.worker, bhsearch.register, bhsearch.predict, bhsearch.report
import bhsearch.dataset, bhsearch.lifecycle.register, bhsearch.lifecycle.build_report, bhsearch.lifecycle.predict
import bhsearch.tracking.serving
import bhsearch.study.workers.launchers.ray.placement
found = {name for name in set(sys.modules) - before if "." not in name and name.isidentifier()}
for name in sorted(found):
    spec = getattr(sys.modules[name], "__spec__", None)
    if spec is not None and spec.origin not in (None, "built-in", "frozen"):
        print(name, spec.origin)
"""


def run(folder, *arguments, **variables):
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "HOME": str(folder),
        **variables,
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100)


def hidden_by(folder, *more):
    """Return the names in a folder that would shadow a module in a fresh interpreter."""
    path = [str(folder), *more, *(entry for entry in sys.path if entry not in ("", str(PACKAGE.parent)))]
    fresh = {name: module for name, module in sys.modules.items() if name in ("os", "sys", "io", "abc")}
    return [Path(file).name for file in shadowing.shadowing_files(str(folder), path, fresh)]


@pytest.mark.parametrize(
    "name", ["random.py", "optuna.py", "keras.py", "numpy.py", "typing.py", "types.py", "random.pyc"]
)
def test_a_file_hides_the_module_of_its_name(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "mine.py").touch()
    assert hidden_by(tmp_path) == [name]


def test_a_compiled_file_hides_it_too(tmp_path):
    name = f"optuna{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    (tmp_path / name).touch()
    assert hidden_by(tmp_path) == [name]


@pytest.mark.parametrize("name", ["mlflow", "numpy", "json"])
def test_a_package_hides_a_module_and_a_folder_without_init_does_not(tmp_path, name):
    (tmp_path / name).mkdir()
    assert hidden_by(tmp_path) == []
    (tmp_path / name / "__init__.py").touch()
    assert hidden_by(tmp_path) == [name]


@pytest.mark.parametrize(
    "name",
    ["turtle.py", "antigravity.py", "os.py", "test.py", "utils.py", "random.txt", "a random.py", "random.py.bak"],
)
def test_files_that_hide_nothing_needed_are_left_alone(tmp_path, name):
    """`os` is loaded before the working directory is on the path."""
    (tmp_path / name).touch()
    assert hidden_by(tmp_path) == []


def test_a_folder_or_a_dead_link_called_like_a_file_is_none(tmp_path):
    (tmp_path / "random.py").mkdir()
    (tmp_path / "keras.py").symlink_to("nowhere")
    assert hidden_by(tmp_path) == []


def test_the_folders_of_a_checkout_hide_nothing(tmp_path):
    for folder in ("bhsearch", "tests", "experiments"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    assert hidden_by(tmp_path) == []


def test_the_folder_of_the_installed_packages_hides_nothing():
    assert hidden_by(Path(pytest.__file__).parents[1]) == []


def test_a_module_that_was_loaded_from_the_folder_is_named(tmp_path):
    """Python itself imports `types` and `warnings` on the way to this package."""
    (tmp_path / "warnings.py").touch()
    loaded = ModuleType("warnings")
    loaded.__file__ = str(tmp_path / "warnings.py")
    found = shadowing.shadowing_files(str(tmp_path), [str(tmp_path), *sys.path], {"warnings": loaded})
    assert found == [loaded.__file__]


def test_a_folder_that_comes_last_on_the_path_hides_nothing(tmp_path):
    (tmp_path / "random.py").touch()
    assert shadowing.shadowing_files(str(tmp_path), [*sys.path, str(tmp_path)], {}) == []


@pytest.mark.parametrize("module", ["bhsearch.run", "bhsearch.dataset"])
def test_a_command_names_the_files_before_it_imports_them(tmp_path, module):
    for name in ("random.py", "keras.py", "__future__.py", "pathlib.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported')")
    done = run(tmp_path, "-m", module, "--help")
    assert done.returncode == 2, done.stderr
    assert all(f"{tmp_path}/{name}" in done.stderr for name in ("random.py", "keras.py", "__future__.py", "pathlib.py"))
    assert "Rename them" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.iterdir())) == 4


def test_a_safe_path_or_a_program_of_ones_own_is_not_ended(tmp_path):
    """There the path is the caller's business."""
    (tmp_path / "keras.py").write_text("raise RuntimeError('imported')")
    assert run(tmp_path, "-P", "-m", "bhsearch.run", "--help").returncode == 0
    assert run(tmp_path, "-c", "import bhsearch").returncode == 0


@pytest.mark.faults
def test_every_module_that_the_commands_import_is_known(tmp_path):
    """A new version of a library may import more; then the list must grow."""
    done = run(tmp_path, "-c", MODULES)
    assert done.returncode == 0, done.stderr
    own = {"bhsearch", "tests", "pytest", "py", "pluggy", "iniconfig"} | {"_pytest", "hypothesis", "sortedcontainers"}
    unknown = {
        line.split()[0]
        for line in done.stdout.splitlines()
        if not shadowing._is_needed(line.split()[0]) and not line.startswith("_")
    } - own
    assert unknown == set()
