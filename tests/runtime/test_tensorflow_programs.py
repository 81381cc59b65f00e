"""The cache of XLA's programs for TensorFlow. Programs for a CPU are kept in the same way as those for a GPU."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from bhsearch.runtime import tensorflow_programs
from bhsearch.runtime.tensorflow_programs import FLAGS_VARIABLE

OWN = "--tf_xla_persistent_cache_directory"
needs_tensorflow = pytest.mark.skipif(util.find_spec("tensorflow") is None, reason="needs TensorFlow")

# Runs functions in the order of their numbers, after `n_before` other functions, and prints their results and the
# programs that there were when TensorFlow was imported. These may be damaged then.
_RUN = """
import json, sys
from pathlib import Path
from bhsearch.models import backend
from bhsearch.runtime import tensorflow_programs
order, n_before, damage, gpus = json.loads(sys.argv[1])
tensorflow_programs._GPUS = Path(gpus)
backend._DEVICES = (gpus,)
backend.import_backend()
import numpy as np
import tensorflow as tf
there = sorted(tensorflow_programs._CACHE.folder.glob("*.pb"))
if damage:
    cut, zeros, empty, gone = there
    cut.write_bytes(cut.read_bytes()[:2000])
    zeros.write_bytes(bytes(2000))
    empty.write_bytes(b"")
    gone.unlink()
for _ in range(n_before):
    tf.function(lambda x: x + 1)(1.0)
array = tf.constant(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8))
results = {}
for number in order:
    def function(x, number=number):
        return [tf.while_loop(lambda k, _: k < 9, lambda k, y: (k + 1, tf.tanh(y @ x + number)), (0, x))[1]]
    (result,) = backend._by_xla(function, (array,), [array])(array)
    results[number] = result.numpy().tobytes().hex()
print(json.dumps([results, [file.name for file in there]]))
"""


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with a GPU, as the driver describes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv(FLAGS_VARIABLE, raising=False)
    monkeypatch.setattr(tensorflow_programs, "_CACHE", tensorflow_programs._Cache())
    monkeypatch.setattr(tensorflow_programs, "_GPUS", tmp_path / "gpus")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    add_gpu(tmp_path / "gpus", "0000:01:00.0", "NVIDIA H200")
    return tmp_path / "gpus"


def add_gpu(gpus: Path, slot: str, model: str) -> None:
    (gpus / slot).mkdir(parents=True, exist_ok=True)
    (gpus / slot / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 17\n")


def used() -> Path | None:
    """Return the folder of the cache as it is chosen now."""
    tensorflow_programs.use_cache()
    assert tensorflow_programs.in_use() == (tensorflow_programs._CACHE.folder is not None)
    return tensorflow_programs._CACHE.folder


def write_program(folder: Path, name: str, content: bytes, sealed: bytes | None) -> Path:
    """Write a program with the seal of a content, or without a seal."""
    (folder / f"{name}.pb").write_bytes(content)
    if sealed is not None:
        (folder / f"{name}.pb.sha256-{hashlib.sha256(sealed).hexdigest()}").touch()
    return folder / f"{name}.pb"


def test_folder_is_in_the_flags_beside_those_of_the_user(gpus, monkeypatch):
    folder = used()
    assert os.environ[FLAGS_VARIABLE] == f'{OWN}="{folder}"'
    monkeypatch.setenv(FLAGS_VARIABLE, "--tf_xla_clustering_debug=false")
    other = used()
    assert os.environ[FLAGS_VARIABLE] == f'--tf_xla_clustering_debug=false {OWN}="{other}"'
    assert other != folder


def test_flag_of_a_parent_process_is_not_one_of_the_user(gpus, monkeypatch):
    folder = used()
    assert tensorflow_programs.user_flags(os.environ[FLAGS_VARIABLE]) == ""
    assert used() == folder
    assert os.environ[FLAGS_VARIABLE].count(OWN) == 1
    add_gpu(gpus, "0000:01:00.0", "NVIDIA A100")
    assert used() != folder
    monkeypatch.setattr(tensorflow_programs, "_GPUS", gpus / "none")
    assert used() is None
    assert FLAGS_VARIABLE not in os.environ


@pytest.mark.parametrize("flags", [f"{OWN}=/mine", f'--tf_xla_clustering_debug {OWN}="/mine"', "/file/of/flags"])
def test_folder_chosen_by_the_user_is_kept(gpus, monkeypatch, flags):
    monkeypatch.setenv(FLAGS_VARIABLE, flags)
    assert used() is None
    assert os.environ[FLAGS_VARIABLE] == flags
    assert not (gpus.parent / "caches").exists()


def test_nothing_is_set_where_the_gpu_is_unknown(gpus, monkeypatch):
    monkeypatch.setattr(tensorflow_programs, "_GPUS", gpus / "none")
    assert used() is None
    assert FLAGS_VARIABLE not in os.environ
    assert not (gpus.parent / "caches").exists()


def test_nothing_is_set_after_the_import_of_tensorflow(gpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", os)
    assert used() is None
    assert FLAGS_VARIABLE not in os.environ


def test_nothing_is_set_on_a_full_disk(gpus, monkeypatch):
    monkeypatch.setattr(tensorflow_programs, "_MIN_FREE_BYTES", 1 << 62)
    assert used() is None
    assert FLAGS_VARIABLE not in os.environ


def test_path_that_flags_cannot_contain_is_not_used(gpus, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(gpus / 'a "name"'))
    assert used() is None
    assert FLAGS_VARIABLE not in os.environ


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_folder_that_others_may_write_to_is_refused(gpus):
    used().chmod(0o777)
    with pytest.warns(UserWarning, match=f"may write.*{FLAGS_VARIABLE}={OWN}=FOLDER"):
        assert used() is None
    assert FLAGS_VARIABLE not in os.environ


def test_another_gpu_or_numerics_has_another_folder(gpus, monkeypatch):
    places = [used()]
    for name in ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "TF_ENABLE_ONEDNN_OPTS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "something else")
            places.append(used())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert used() == places[0]  # all GPUs are the same
    add_gpu(gpus, "0000:02:00.0", "NVIDIA A100")
    places.append(used())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    places.append(used())
    assert len(set(places)) == len(places) == 6


def test_programs_without_their_seal_are_deleted(gpus):
    folder, whole = used(), np.random.default_rng(0).bytes(4096)
    kept = write_program(folder, "whole", whole, whole)
    write_program(folder, "whole", whole, b"another process compiled the same program before")
    for name, content, sealed in (
        ("cut", whole[:2000], whole),
        ("empty", b"", whole),
        ("garbage", bytes(4096), whole),
        ("other", whole[::-1], whole),
        ("unsealed", whole, None),
    ):
        write_program(folder, name, content, sealed)
    old = folder / "x.pb.tmp"
    old.touch()
    os.utime(old, (0, 0))
    new = folder / "y.pb.tmp"  # another process is writing it
    new.touch()
    assert used() == folder
    assert list(folder.glob("*.pb")) == [kept]
    assert {file.name.partition(".")[0] for file in folder.iterdir()} == {"whole", "y"}
    assert used() == folder
    assert kept.read_bytes() == whole


def test_programs_that_appear_in_the_block_are_sealed(gpus):
    folder = used()
    before = write_program(folder, "before", b"of another function", None)
    with tensorflow_programs.sealing():
        program = write_program(folder, "new", b"a program", None)
    assert [file.name for file in folder.glob("*.sha256-*")] == [
        f"new.pb.sha256-{hashlib.sha256(b'a program').hexdigest()}"
    ]
    assert used() == folder
    assert program.exists()
    assert not before.exists()
    with tensorflow_programs.sealing():
        program.unlink()  # by another process
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with tensorflow_programs.sealing():
        pass


# -- with TensorFlow ---------------------------------------------------------------------------------------------------


def run(gpus: Path, order: list[int], n_before: int = 0, damage: bool = False) -> tuple[dict[str, str], set[str]]:
    """Return results by function, and the programs that there were before."""
    settings = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps([order, n_before, damage, str(gpus)])],
        env=os.environ | settings,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results, there = json.loads(done.stdout)
    return results, set(there)


def programs(gpus: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of the programs by name."""
    files = (gpus.parent / "caches").rglob("*.pb")
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.mark.slow
@needs_tensorflow
def test_programs_are_found_again_and_damaged_ones_cost_a_compilation_only(gpus):
    cold, _ = run(gpus, [0, 1, 2, 3, 4, 5, 6])
    kept = programs(gpus)
    assert len(set(cold.values())) == len(kept) == 7
    # Another history of the process. Each compilation would write a program.
    warm, there = run(gpus, [3, 1, 0, 6, 2, 5, 4], n_before=3)
    assert (warm, there) == (cold, set(kept))
    assert programs(gpus) == kept
    # Three are damaged before TensorFlow is imported, and the other four while it is in use.
    cut, garbage, unsealed, *_ = sorted((gpus.parent / "caches").rglob("*.pb"))
    cut.write_bytes(cut.read_bytes()[:2000])
    garbage.write_bytes(np.random.default_rng(0).bytes(9000))
    next(unsealed.parent.glob(f"{unsealed.name}.sha256-*")).unlink()
    damaged, there = run(gpus, [0, 1, 2, 3, 4, 5, 6], damage=True)
    assert damaged == cold
    assert there == set(kept) - {cut.name, garbage.name, unsealed.name}
    # The first three are there again, and so is the one that was deleted while TensorFlow was in use.
    whole = {name for name, (content, _) in programs(gpus).items() if len(content) > 2000}
    assert {cut.name, garbage.name, unsealed.name} <= whole
    assert len(whole & set(kept)) == 4
