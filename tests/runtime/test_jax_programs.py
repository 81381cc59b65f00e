import os
import subprocess
import sys
import time
import zlib
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from bhsearch.runtime import jax_programs
from bhsearch.runtime.compiled_programs import programs_folder

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


def test_folder_chosen_by_user_is_kept(caches, monkeypatch):
    monkeypatch.setenv(jax_programs.FOLDER_VARIABLE, "mine")
    jax_programs.use_cache()
    assert os.environ[jax_programs.FOLDER_VARIABLE] == "mine"
    assert not list(caches.iterdir())


def test_interrupted_programs_are_deleted(caches, monkeypatch):
    if "jax" in sys.modules:
        pytest.skip("JAX is imported, so that its cache is chosen")
    folder = programs_folder(jax_programs.PACKAGES, jax_programs.FOLDER_VARIABLE)
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
