"""Parts of other packages: found by metadata, imported when used, refused with a sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bhsearch import plugins
from bhsearch.errors import SettingsError
from bhsearch.plugins import PluginSource, Registry, UnknownPartError, installed_version

GROUP = "bhsearch.samplers"
BUILT_IN = {"list": "builtins:list", "dict": "builtins:dict"}


@pytest.fixture
def registry() -> Registry[object]:
    return Registry(GROUP, "--sampler", BUILT_IN)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put the metadata of a distribution, and a module of its own, where Python finds them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(distribution, parts, code="PART = 1\n", group=GROUP, version="1.2"):
        folder = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = "\n".join(f"{name} = {module}:PART" for name, module in parts.items())
        (folder / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        for module in parts.values():
            (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.setattr(sys, "path", [*sys.path, f"{tmp_path}/{distribution}"])  # as if another folder came

    return write


def test_built_in_parts_come_first_and_have_no_source(registry):
    assert registry.names() == ("list", "dict")
    assert registry.get("dict") is dict
    assert registry.source("dict") is None
    assert "list" in registry
    assert "nosuch" not in registry


def test_names_are_listed_without_importing(registry, install):
    install("toy-parts", {"zeta": "toy_zeta", "alpha": "toy_alpha"}, "raise RuntimeError")
    assert registry.names() == ("list", "dict", "alpha", "zeta")
    assert registry.source("alpha") == PluginSource("toy-parts", "1.2")
    assert installed_version("toy-parts") == "1.2"
    assert installed_version("nosuch") is None
    assert not {"toy_zeta", "toy_alpha"} & set(sys.modules)


def test_only_the_part_that_is_used_is_imported(registry, install, monkeypatch):
    install("toy-parts", {"one": "toy_one", "two": "toy_two"}, "PART = __name__\n")
    assert registry.get("one") == "toy_one"
    assert "toy_two" not in sys.modules
    monkeypatch.delitem(sys.modules, "toy_one")


def test_two_parts_of_one_name_are_refused_with_both_distributions(registry, install):
    install("toy-a", {"same": "toy_a"})
    install("toy-b", {"same": "toy_b"}, version="2.0")
    for use in (registry.names, lambda: registry.get("list"), lambda: registry.source("same")):
        with pytest.raises(
            SettingsError, match=r"the name 'same': in toy-a 1\.2 and in toy-b 2\.0\. .*BHSEARCH_PLUGINS=none"
        ):
            use()


def test_the_name_of_a_built_in_part_is_refused(registry, install):
    install("toy-parts", {"list": "toy_list"})
    with pytest.raises(SettingsError, match=r"the name 'list': in bhsearch \(built in\) and in toy-parts 1\.2"):
        registry.names()


def test_a_part_that_cannot_be_imported_is_one_sentence(registry, install):
    install("toy-parts", {"broken": "toy_broken"}, "import nosuch_module\n")
    with pytest.raises(SettingsError, match=r"toy-parts 1\.2: ModuleNotFoundError") as caught:
        registry.get("broken")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_part_is_refused_with_the_known_ones(registry, install):
    install("toy-parts", {"alpha": "toy_alpha"})
    with pytest.raises(UnknownPartError, match=r"^--sampler must be one of list, dict, alpha, but got 'nosuch'\.$"):
        registry.get("nosuch")


def test_an_unknown_part_where_no_package_has_any_gets_a_sentence_without_a_list():
    with pytest.raises(UnknownPartError, match=r"^--metrics must name .* none has any, and got 'nosuch'\. Install"):
        Registry(GROUP, "--metrics", {}).get("nosuch")


def test_plugins_can_be_turned_off(registry, install, monkeypatch):
    install("toy-parts", {"alpha": "toy_alpha", "list": "toy_list"})
    monkeypatch.setenv("BHSEARCH_PLUGINS", "none")
    assert registry.names() == ("list", "dict")
    assert installed_version("toy-parts") is None
    monkeypatch.setenv("BHSEARCH_PLUGINS", "no")
    with pytest.raises(SettingsError, match="BHSEARCH_PLUGINS must be all or none, but got 'no'"):
        registry.names()


def test_importing_the_registries_imports_no_framework():
    code = (
        "import sys; from bhsearch.engines.registry import ENGINES;"
        "from bhsearch.study.workers.launchers.base import LAUNCHERS;"
        "print(*ENGINES, *LAUNCHERS, 'loaded:', *{'optuna', 'keras', 'mlflow', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    known = [*plugins.BUILT_IN["bhsearch.engines"], *plugins.BUILT_IN["bhsearch.launchers"]]
    names, _, loaded = done.stdout.partition("loaded:")
    assert names.split() == known, done.stderr
    assert loaded.split() == []
