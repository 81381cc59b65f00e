"""Folders of compiled programs: who may use them, and what has another folder."""

from __future__ import annotations

import os
import stat

import pytest

from bhsearch.runtime import compiled_programs

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def programs_folder(packages=("numpy",), facts=()):
    return compiled_programs.programs_folder(packages, "VARIABLE", facts)


@posix
def test_folder_is_for_this_user_only(caches):
    folder = programs_folder()
    assert folder.is_relative_to(caches)
    assert [stat.S_IMODE(place.stat().st_mode) for place in (folder, folder.parent)] == [0o700, 0o700]
    assert programs_folder() == folder


@posix
@pytest.mark.parametrize("which", ["folder", "parent"])
def test_folder_that_others_may_write_to_is_refused(caches, which):
    folder = programs_folder()
    place = folder if which == "folder" else folder.parent
    place.chmod(0o770)
    with pytest.warns(UserWarning, match=f"{place.name} is not used.*may write.*VARIABLE"):
        assert programs_folder() is None


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives folders away")
@pytest.mark.parametrize("which", ["folder", "parent"])
def test_folder_of_another_user_is_refused(caches, which):
    folder = programs_folder()
    place = folder if which == "folder" else folder.parent
    os.chown(place, 12345, 12345)
    with pytest.warns(UserWarning, match=f"{place.name} is not used.*another user owns it"):
        assert programs_folder() is None


@posix
def test_link_is_refused(caches):
    folder = programs_folder()
    folder.rmdir()
    (caches / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(caches / "elsewhere", target_is_directory=True)
    with pytest.warns(UserWarning, match="is not used"):
        assert programs_folder() is None


def test_folder_that_cannot_be_created_is_not_used(caches):
    (caches / compiled_programs.FOLDER_NAME).write_text("a file")
    assert programs_folder() is None


def test_what_programs_depend_on_has_another_folder(caches, monkeypatch):
    places = [programs_folder(), programs_folder(("numpy", "pandas")), programs_folder(facts=("another GPU",))]
    x86, arm = "model name: x\nflags : sse avx512f\n", "CPU part : 0xd0c\nFeatures : fp asimd\n"
    for name, text in (("_PROCESSOR", x86), ("_PROCESSOR", arm), ("_DRIVER_VERSION", "999.1\n")):
        file = caches / name
        file.write_text(text)
        monkeypatch.setattr(compiled_programs, name, file)
        places.append(programs_folder())
    monkeypatch.setattr(compiled_programs.metadata, "version", lambda package: "0.0.0")
    places.append(programs_folder())
    assert len(set(places)) == 7


def test_package_that_is_not_installed_has_no_version(caches):
    assert programs_folder(("no-such-package",)) == programs_folder(())
