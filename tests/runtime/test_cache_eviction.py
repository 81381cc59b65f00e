"""Eviction: least recently used entries first, never an entry in use, and never a part of an entry."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from bhsearch.errors import SettingsError
from bhsearch.runtime import cache, cache_eviction, leases, locks
from bhsearch.runtime.cache import entries, folder_of, get_or_create

SIZE = 100_000
# Takes entries, says so, and stays until its input ends.
USER = """
import sys
from bhsearch.runtime import cache as store
for number in sys.argv[2:]:
    if sys.argv[1] == "lookup":
        assert store.lookup("pixels", {"n": int(number)}) is not None
    elif sys.argv[1] == "acquire_lease":
        assert store.acquire_lease(store.folder_of("pixels", {"n": int(number)}))
    else:
        store.get_or_create("pixels", {"n": int(number)}, None)
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def limit(monkeypatch):
    """Set the limit in entries of this test; each is slightly larger than `SIZE`."""
    return lambda n: monkeypatch.setenv(cache_eviction.VARIABLE, str((n * SIZE + SIZE / 2) / 1e9))


def python(code: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def make(*numbers: int) -> None:
    """Create entries of a process that has ended; lower numbers were used less recently."""
    code = (
        "import sys; from bhsearch.runtime import cache as store\n"
        f"for n in sys.argv[1:]: store.get_or_create('pixels', {{'n': int(n)}}, "
        f"lambda folder: (folder / 'a.bin').write_bytes(bytes({SIZE})))"
    )
    with python(code, *numbers) as process:
        assert process.wait() == 0
    for number in numbers:
        os.utime(folder_of("pixels", {"n": number}), (number, number))


@contextmanager
def using(how: str, *numbers: int):
    with python(USER, how, *numbers) as process:
        assert process.stdout.readline() == "taken\n"
        yield process
        process.stdin.close()
        assert process.wait() == 0


def there() -> list[int]:
    return [n for n in range(100) if folder_of("pixels", {"n": n}).exists()]


def fill(folder: Path) -> None:
    (folder / "a.bin").write_bytes(bytes(SIZE))


def test_what_was_not_used_for_longest_goes_first(limit):
    make(1, 2, 3, 4)
    limit(3)
    get_or_create("pixels", {"n": 5}, fill)
    assert there() == [3, 4, 5]


def test_using_an_entry_makes_it_young(limit):
    make(1, 2, 3)
    with using("get_or_create", 1):
        pass
    with using("lookup", 2):
        pass
    limit(3)
    get_or_create("pixels", {"n": 5}, fill)
    assert there() == [1, 2, 5]


@pytest.mark.parametrize("how", ["get_or_create", "lookup", "acquire_lease"])
def test_what_a_living_process_uses_stays_whatever_the_limit(limit, how):
    make(1, 2, 3)
    limit(0)
    with using(how, 1, 2):
        get_or_create("pixels", {"n": 5}, fill)
        assert there() == [1, 2, 5]
        assert len(entries()) == 3
    get_or_create("pixels", {"n": 6}, fill)
    assert there() == [5, 6]  # this process uses them itself


def test_a_killed_process_holds_nothing(limit, root):
    make(1)
    with python(USER, "lookup", 1) as process:
        assert process.stdout.readline() == "taken\n"
        process.kill()
        process.wait()
    assert len(list((root / leases.FOLDER).iterdir())) == 1
    limit(0)
    get_or_create("pixels", {"n": 5}, fill)
    assert there() == [5]
    assert len(list((root / leases.FOLDER).iterdir())) == 1  # its own


def test_a_process_that_ends_leaves_no_list(root):
    make(1)
    assert list((root / leases.FOLDER).iterdir()) == []


def test_without_a_limit_nothing_goes(monkeypatch):
    make(1, 2)
    monkeypatch.setenv(cache_eviction.VARIABLE, "none")
    get_or_create("pixels", {"n": 5}, fill)
    assert there() == [1, 2, 5]


def test_below_the_limit_nothing_goes_and_an_old_entry_is_no_reason(limit):
    make(1, 2)
    limit(3)
    get_or_create("pixels", {"n": 5}, fill)
    assert there() == [1, 2, 5]


def test_finding_an_entry_cleans_nothing(limit):
    make(1, 2)
    limit(0)
    with using("get_or_create", 2):
        assert there() == [1, 2]


def test_other_kinds_count_and_go_too_but_not_the_digests(limit, root):
    make(1)
    get_or_create("features", {"n": 9}, fill)
    old = root / "digests" / "key"
    old.mkdir(parents=True)
    (old / "digests.json").write_bytes(bytes(SIZE))
    os.utime(old, (1, 1))
    limit(1)
    get_or_create("pixels", {"n": 5}, fill)
    assert there() == [5]
    assert (old / "digests.json").exists()


def test_what_killed_processes_left_is_deleted(root):
    make(1)
    folder = folder_of("pixels", {"n": 2})
    draft, gone = folder.with_name(f".{folder.name}-abcdefgh"), folder.with_name(f".gone-{folder.name}-12345678")
    for each in (draft, gone):
        each.mkdir()
        (each / "half.bin").write_bytes(b"half")
    folder.with_suffix(".lock").touch()
    old, young = (root / "digests" / "key" / name for name in (".digests-old", ".digests-young"))
    old.parent.mkdir(parents=True)
    for file in (old, young):
        file.touch()
    os.utime(old, (1, 1))
    get_or_create("pixels", {"n": 5}, fill)
    assert sorted(path.name for path in folder.parent.iterdir() if path.name.startswith(".")) == []
    assert not folder.with_suffix(".lock").exists()
    assert folder_of("pixels", {"n": 1}).with_suffix(".lock").exists()
    assert [file.name for file in old.parent.iterdir()] == [young.name]


def test_what_is_being_made_is_not_touched(limit, root):
    limit(0)

    def fill_slowly(folder):
        fill(folder)
        make(1)  # another process makes an entry meanwhile, and cleans
        assert (folder / "a.bin").exists()

    folder = get_or_create("pixels", {"n": 5}, fill_slowly)
    assert (folder / "a.bin").stat().st_size == SIZE


def test_without_any_locks_nothing_that_is_being_made_is_deleted(limit, monkeypatch):
    """Nobody can tell whether a process is still filling a folder."""
    limit(0)
    monkeypatch.setattr(locks, "_acquire", lambda stream, wait=False: None)

    def fill_slowly(folder):
        fill(folder)
        get_or_create("pixels", {"n": 1}, fill)  # which cleans
        assert (folder / "a.bin").exists()

    folder = get_or_create("pixels", {"n": 5}, fill_slowly)
    assert (folder / "a.bin").stat().st_size == SIZE


MANY = """
import sys, random
from bhsearch.runtime import leases; from bhsearch.runtime import cache as store
SIZE = 100_000
chosen = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    leases._release_all(); leases._leases.clear()  # from here on as another process
    n = chosen.randrange(12)
    folder = store.get_or_create("pixels", {"n": n}, lambda folder: (folder / "a.bin").write_bytes(bytes([n]) * SIZE))
    assert (folder / "a.bin").read_bytes() == bytes([n]) * SIZE
    found = store.lookup("pixels", {"n": chosen.randrange(12)})
    assert found is None or len((found / "a.bin").read_bytes()) == SIZE
"""


def test_processes_that_make_use_and_clean_at_once_meet_no_half_entry(limit, root):
    limit(2)
    processes = [python(MANY, seed, 60) for seed in range(4)]
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0] * 4
    get_or_create("pixels", {"n": 99}, fill)
    assert len(entries()) <= 3
    assert [path for path in root.glob("*/.*") if path.is_dir()] == []


def test_a_lock_that_was_deleted_is_not_shared_with_the_new_one(tmp_path):
    """Two that wait for a lock whose file is deleted must not both get it."""
    from bhsearch.runtime.locks import lock, lock_within

    file = tmp_path / "a.lock"
    with lock(file):
        file.unlink()
        with lock(file), lock_within(file) as again:
            assert not again
    with lock_within(file) as free:
        assert free


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "1 GB"])
def test_a_limit_that_is_no_number_is_named_before_anything_is_made(monkeypatch, text):
    monkeypatch.setenv(cache_eviction.VARIABLE, text)
    with pytest.raises(SettingsError, match=rf"BHSEARCH_CACHE_LIMIT must be .* but got '{text}'"):
        get_or_create("pixels", {"n": 5}, fill)
    assert there() == []


@pytest.mark.parametrize(("text", "n_bytes"), [("", 20_000_000_000), ("0.5", 500_000_000), ("0", 0), ("None", None)])
def test_the_limit_is_in_gigabytes(monkeypatch, text, n_bytes):
    monkeypatch.setenv(cache_eviction.VARIABLE, text)
    assert cache_eviction.limit_bytes() == n_bytes


def test_a_cache_that_may_only_be_read_is_used_without_a_list(monkeypatch):
    make(1)

    def refuse(self, mode="r", *args, **options):
        if any(letter in mode for letter in "wa+"):
            raise PermissionError(13, "Permission denied")
        return real(self, mode, *args, **options)

    real = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    assert cache.lookup("pixels", {"n": 1}) is not None
