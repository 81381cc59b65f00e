"""Identity, state and exit codes of processes, and the start of child processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bhsearch
from bhsearch.runtime.processes import (
    how_it_ended,
    is_alive,
    is_here,
    memory_mb,
    process_name,
    python_command,
    this_process,
)


def test_this_process_is_alive():
    assert this_process()["pid"] == os.getpid()
    assert is_alive(this_process())
    assert is_here(this_process())


def test_a_process_that_ended_is_not():
    code = "import json; from bhsearch.runtime.processes import this_process; print(json.dumps(this_process()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not is_alive(json.loads(done.stdout))


def test_a_process_that_ended_and_was_not_asked_for_its_exit_code_is_not():
    load = "import json; from bhsearch.runtime.processes import this_process"
    code = f"{load}; print(json.dumps(this_process()), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        named = json.loads(process.stdout.readline())
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(named)


def test_another_process_with_the_same_number_is_not():
    """Numbers are used again; a trial of a dead process must not wait for a stranger."""
    assert not is_alive(this_process() | {"started": this_process()["started"] - 3600})


def test_a_process_on_another_host_is_taken_to_be_alive():
    """Nobody here can know; ending its trial would be worse than waiting."""
    other = this_process() | {"host": "another", "pid": 1}
    assert is_alive(other)
    assert not is_here(other)


def test_no_two_processes_have_a_name_in_common_and_each_is_one_of_a_file():
    """Process 1 of two pods that start together differs by its host only."""
    first = {"host": "job-0", "pid": 1, "started": 1234.567}
    others = [first | {"host": "job-1"}, first | {"pid": 2}, first | {"started": 1234.587}, first | {"host": "a/b c"}]
    names = {process_name(each) for each in [first, *others]}
    assert len(names) == 5
    assert all(Path(name).name == name for name in names)
    assert process_name(first) == process_name(dict(first))


def test_a_trial_without_an_owner_belongs_to_nobody():
    assert not is_alive({})


@pytest.mark.parametrize(("code", "words"), [(3, "exit code 3"), (-9, "signal SIGKILL"), (-200, "signal 200")])
def test_an_exit_code_in_words(code, words):
    assert how_it_ended(code) == words


def test_memory_is_in_megabytes():
    assert 10 < memory_mb() < 100_000


ASK = """
import subprocess
from bhsearch.runtime.processes import python_command
command = python_command("bhsearch.told", "one", "2")
print(subprocess.run(command, capture_output=True, text=True).stdout or "nothing")
"""
TOLD = """
import json, random, sys
import bhsearch
print(json.dumps([sys.argv[1:], bhsearch.__file__, random.__file__, sys.path[-1], __name__]))
"""
PACKAGE = Path(bhsearch.__file__).parent


def package_in(folder):
    """A copy of the package, with a program in it."""
    ignored = shutil.ignore_patterns("__pycache__")
    copied = Path(shutil.copytree(PACKAGE, folder / "bhsearch", ignore=ignored))
    (copied / "told.py").write_text(TOLD)
    return copied


def answer(folder, *arguments, **variables):
    """What a child says of itself whose parent was started in a folder with files of any name."""
    (folder / "random.py").write_text("raise RuntimeError('imported')")
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder)} | variables
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def libraries():
    return [entry for entry in sys.path if entry.endswith("site-packages")]


def check(answered, package):
    arguments, found, random_file, last, name = answered
    assert arguments == ["one", "2"]
    assert Path(found).parent == package
    assert "lib" in random_file
    assert last == str(package.parent)
    assert name == "__main__"


def test_a_child_runs_the_parents_package_from_pythonpath(tmp_path, elsewhere):
    (tmp_path / "given").mkdir()
    package = package_in(tmp_path / "given")
    path = os.pathsep.join([str(package.parent), *libraries()])
    check(answer(elsewhere, "-P", "-c", ASK, PYTHONPATH=path), package)


def test_a_child_runs_the_parents_package_from_a_relative_pythonpath(tmp_path, elsewhere):
    (elsewhere / "given").mkdir()
    package = package_in(elsewhere / "given")
    check(answer(elsewhere, "-P", "-c", ASK, PYTHONPATH=os.pathsep.join(["given", *libraries()])), package)


def test_a_child_runs_an_uninstalled_checkout_and_no_other_file_of_it(tmp_path, elsewhere):
    """Whatever lies in the checkout beside the package hides nothing from the child; not even an older installation."""
    package, older = package_in(elsewhere), tmp_path / "older"
    (older / "bhsearch").mkdir(parents=True)
    (older / "bhsearch" / "__init__.py").write_text("raise RuntimeError('another version')")
    first = f"import random, sys; sys.path.insert(0, {str(elsewhere)!r})\n"
    path = os.pathsep.join([str(older), *libraries()])
    check(answer(elsewhere, "-P", "-c", first + ASK, PYTHONPATH=path), package)


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_a_child_runs_an_installed_package(tmp_path, elsewhere, kind):
    """A wheel puts the package among the libraries, an editable installation a line with its folder."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60)
    (place,) = environment.glob("lib/python*/site-packages")
    (tmp_path / "checkout").mkdir()
    package = package_in(place if kind == "wheel" else tmp_path / "checkout")
    lines = [*([] if kind == "wheel" else [str(package.parent)]), *libraries()]
    (place / "more.pth").write_text("\n".join(lines))
    (elsewhere / "random.py").write_text("raise RuntimeError('imported')")
    command = [environment / "bin" / "python", "-P", "-c", ASK]
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(elsewhere)}
    done = subprocess.run(command, cwd=elsewhere, env=bare, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), package)


def test_no_file_of_the_package_starts_a_child_in_another_way():
    """`-m` would put the working directory first on the path of the child."""
    others = [
        file.name
        for file in PACKAGE.rglob("*.py")
        if "sys.executable" in file.read_text(encoding="utf-8") and file.name != "processes.py"
    ]
    assert others == []
    assert python_command("bhsearch.told")[1] == "-P"
