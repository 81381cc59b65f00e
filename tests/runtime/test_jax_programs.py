import os
import stat
import subprocess
import sys
import time
import zlib
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from bhsearch.runtime import jax_programs

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")

# A product in a loop, compiled to take longer than a moment; the result and the names of the cached programs.
_RUN = """
import sys
from bhsearch.models import backend
backend.import_backend()
import jax
import numpy as np
program = jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda _, y: jax.numpy.tanh(y @ x), x))
np.save(sys.argv[1], np.asarray(program(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8))))
"""


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(jax_programs.FOLDER_VARIABLE, raising=False)
    return tmp_path


@posix
def test_folder_is_for_this_user_only(caches):
    folder = jax_programs.programs_folder()
    assert folder.is_relative_to(caches)
    assert [stat.S_IMODE(place.stat().st_mode) for place in (folder, folder.parent)] == [0o700, 0o700]
    assert jax_programs.programs_folder() == folder


@posix
@pytest.mark.parametrize("which", ["folder", "parent"])
def test_folder_that_others_may_write_to_is_refused(caches, which):
    folder = jax_programs.programs_folder()
    place = folder if which == "folder" else folder.parent
    place.chmod(0o770)
    with pytest.warns(UserWarning, match=f"{place.name} is not used.*may write.*{jax_programs.FOLDER_VARIABLE}"):
        assert jax_programs.programs_folder() is None


@posix
def test_link_is_refused(caches):
    folder = jax_programs.programs_folder()
    folder.rmdir()
    (caches / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(caches / "elsewhere", target_is_directory=True)
    with pytest.warns(UserWarning, match="is not used"):
        assert jax_programs.programs_folder() is None


def test_other_processor_or_driver_has_other_folder(caches, monkeypatch):
    places = [jax_programs.programs_folder()]
    for name, text in (("_PROCESSOR", "model name: x\nflags : sse avx512f\n"), ("_DRIVER_VERSION", "999.1\n")):
        file = caches / name
        file.write_text(text)
        monkeypatch.setattr(jax_programs, name, file)
        places.append(jax_programs.programs_folder())
    assert len(set(places)) == 3


def test_folder_chosen_by_user_is_kept(caches, monkeypatch):
    monkeypatch.setenv(jax_programs.FOLDER_VARIABLE, "mine")
    jax_programs.use_cache()
    assert os.environ[jax_programs.FOLDER_VARIABLE] == "mine"
    assert not list(caches.iterdir())


def test_interrupted_programs_are_deleted(caches, monkeypatch):
    if "jax" in sys.modules:
        pytest.skip("JAX is imported, so that its cache is chosen")
    folder = jax_programs.programs_folder()
    whole = zlib.compress(np.random.default_rng(0).bytes(4096))
    contents = {"whole": whole, "cut": whole[:2000], "empty": b"", "garbage": b"\x78" + bytes(99), "new": whole[:9]}
    for name, content in contents.items():
        file = folder / f"{name}-cache"
        file.write_bytes(content)
        if name != "new":
            os.utime(file, (time.time() - 100, time.time() - 100))
    monkeypatch.setenv(jax_programs.FOLDER_VARIABLE, "")  # restored afterwards
    monkeypatch.delenv(jax_programs.FOLDER_VARIABLE)
    jax_programs.use_cache()
    assert {file.name for file in folder.glob("*-cache")} == {"whole-cache", "new-cache"}
    assert os.environ[jax_programs.FOLDER_VARIABLE] == str(folder)


def _result(caches: Path, flags: str = "") -> bytes:
    settings = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | settings | ({"XLA_FLAGS": flags} if flags else {})
    file = caches / "result.npy"
    file.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _RUN, str(file)],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return file.read_bytes()


@pytest.mark.skipif(util.find_spec("jax") is None, reason="needs JAX")
def test_damaged_and_foreign_programs_cost_a_compilation_only(caches):
    cold = _result(caches)
    files = [file for file in caches.rglob("*-cache") if file.name.startswith("jit__lambda")]
    assert files
    assert _result(caches) == cold
    for content in (lambda whole: whole[: len(whole) // 2], lambda _: bytes(99), lambda _: zlib.compress(bytes(99))):
        for file in files:
            file.write_bytes(content(file.read_bytes()))
        assert _result(caches) == cold
    assert _result(caches, "--xla_cpu_enable_fast_math=false") == cold
