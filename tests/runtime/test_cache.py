from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from bhsearch.errors import PlaceError
from bhsearch.runtime import cache
from bhsearch.runtime.cache import cache_key, cache_root, clear, discard, entries, folder_of, get_or_create, lookup

FACTS = {"colour": "violet", "size": 96}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Fill:
    """Fills an entry, and counts how often."""

    def __init__(self, content=b"content"):
        self.calls, self._content = 0, content

    def __call__(self, folder):
        self.calls += 1
        assert list(folder.iterdir()) == []
        (folder / "inner").mkdir()
        (folder / "one.bin").write_bytes(self._content)
        (folder / "inner" / "two.bin").write_bytes(self._content * 2)


def everything(root):
    """Return all files of the cache except the empty lock files."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


# Keys and places


def test_a_key_does_not_depend_on_the_order_of_the_facts():
    assert cache_key({"a": 1, "b": {"c": 2, "d": 3}}) == cache_key({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_key_depends_on_every_fact():
    facts = [{}, {"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": 1}, {"a": [1, 2]}, {"a": [2, 1]}, {"a": None}]
    assert len({cache_key(each) for each in facts}) == len(facts)


def test_the_cache_lies_where_the_environment_says(root, monkeypatch):
    assert cache_root() == root
    assert folder_of("pixels", FACTS) == root / "pixels" / cache_key(FACTS)
    monkeypatch.delenv("BHSEARCH_CACHE")
    assert cache_root().name == "bhsearch"


# Filling


def test_an_entry_is_filled_once_and_found_ever_after():
    fill = Fill()
    folder = get_or_create("pixels", FACTS, fill)
    assert folder == folder_of("pixels", FACTS)
    assert (folder / "one.bin").read_bytes() == b"content"
    assert (folder / "inner" / "two.bin").read_bytes() == b"contentcontent"
    assert get_or_create("pixels", FACTS, fill) == folder
    assert fill.calls == 1


def test_a_discarded_entry_is_gone_with_its_lock_although_this_process_used_it(root):
    fill = Fill()
    kept, gone = (get_or_create("parts", {"start": start}, fill) for start in (0, 8))
    discard("parts", {"start": 8})
    discard("parts", {"start": 16})  # which never existed
    assert sorted(kept.parent.iterdir()) == [kept, kept.with_suffix(".lock")]
    assert lookup("parts", {"start": 8}) is None
    assert get_or_create("parts", {"start": 8}, fill) == gone
    assert fill.calls == 3


def test_kinds_and_facts_are_kept_apart():
    fill = Fill()
    folders = {get_or_create(kind, {"n": n}, fill) for kind in ("pixels", "features") for n in (1, 2)}
    assert len(folders) == fill.calls == 4


def test_nothing_is_seen_of_an_entry_before_it_is_whole():
    def fill(folder):
        assert not folder_of("pixels", FACTS).exists()
        Fill()(folder)
        assert not folder_of("pixels", FACTS).exists()

    assert get_or_create("pixels", FACTS, fill).exists()


@pytest.mark.parametrize("error", [ValueError("no image"), KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_filling_that_fails_leaves_nothing_and_can_be_tried_again(root, error):
    def fill(folder):
        Fill()(folder)
        raise error

    with pytest.raises(type(error)):
        get_or_create("pixels", FACTS, fill)
    assert everything(root) == []
    assert entries() == []
    again = Fill()
    get_or_create("pixels", FACTS, again)
    assert again.calls == 1


# Damage


def truncate(folder):
    (folder / "one.bin").write_bytes(b"con")


def flip_a_bit(folder):
    (folder / "inner" / "two.bin").write_bytes(b"contentconteot")


def lose_a_file(folder):
    (folder / "inner" / "two.bin").unlink()


def lose_the_sums(folder):
    (folder / "entry.json").unlink()


def empty_the_sums(folder):
    (folder / "entry.json").write_text("")


def garble_the_sums(folder):
    (folder / "entry.json").write_text("[1, 2]")


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, lose_a_file, lose_the_sums, empty_the_sums, garble_the_sums],
    ids=lambda f: f.__name__,
)
def test_a_damaged_entry_is_made_again_rather_than_believed(damage):
    fill = Fill()
    folder = get_or_create("pixels", FACTS, fill)
    damage(folder)
    assert get_or_create("pixels", FACTS, fill) == folder
    assert fill.calls == 2
    assert (folder / "one.bin").read_bytes() == b"content"
    assert (folder / "inner" / "two.bin").read_bytes() == b"contentcontent"


# Several processes

SCRIPT = """
import os, sys, time
from pathlib import Path
from bhsearch.runtime import cache as store

log, ready, go, wait = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])

def fill(folder):
    with log.open("a") as stream:
        stream.write("filled\\n")
    (folder / "half.bin").write_bytes(b"half")
    time.sleep(wait)
    (folder / "whole.bin").write_bytes(b"whole")

ready.touch()
while not go.exists():
    time.sleep(0.005)
folder = store.get_or_create("pixels", {"shared": True}, fill)
print((folder / "whole.bin").read_text())
"""


def start(tmp_path, number, wait):
    arguments = [tmp_path / "log", tmp_path / f"ready-{number}", tmp_path / "go", wait]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def wait_for(condition):
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, "the other process never came so far"
        time.sleep(0.005)


def test_processes_that_ask_at_once_do_the_work_once(tmp_path):
    processes = [start(tmp_path, number, 0.3) for number in range(3)]
    wait_for(lambda: all((tmp_path / f"ready-{number}").exists() for number in range(3)))
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=30)[0] for process in processes]
    assert said == ["whole\n"] * 3
    assert (tmp_path / "log").read_text() == "filled\n"


def test_a_process_that_is_killed_while_filling_leaves_no_entry_and_no_lock(tmp_path):
    process = start(tmp_path, 0, 60)
    (tmp_path / "go").touch()
    wait_for((tmp_path / "log").exists)
    wait_for(lambda: list(cache_root().rglob("half.bin")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not folder_of("pixels", {"shared": True}).exists()
    fill = Fill()
    get_or_create("pixels", {"shared": True}, fill)
    assert fill.calls == 1


# Places that cannot be written


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_file_where_the_cache_should_be_is_an_error_that_says_so(tmp_path, monkeypatch, inside):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "file" / inside))
    with pytest.raises(PlaceError, match=r"Cannot write .*file.*BHSEARCH_CACHE=FOLDER") as caught:
        get_or_create("pixels", FACTS, Fill())
    assert caught.value.exit_code == 2
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_folder_that_may_not_be_written_is_an_error_that_says_so(root):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    root.mkdir()
    root.chmod(0o500)
    try:
        with pytest.raises(PlaceError, match="Cannot write"):
            get_or_create("pixels", FACTS, Fill())
    finally:
        root.chmod(0o700)


FULL = """
import sys
from bhsearch.runtime import cache as store
from bhsearch.errors import PlaceError

def fill(folder):
    (folder / "small.bin").write_bytes(bytes(1000))
    (folder / "large.bin").write_bytes(bytes(2 << 20))

store.get_or_create("pixels", {"before": 1}, lambda folder: (folder / "one.bin").write_bytes(b"kept"))
try:
    store.get_or_create("pixels", {"after": 1}, fill)
except PlaceError as error:
    print(error)
print([(entry.kind, entry.key == store.cache_key({"before": 1})) for entry in store.entries()])
print(sorted(path.name for path in store.cache_root().rglob("*.bin")))
"""


def test_a_full_disk_is_an_error_that_leaves_no_broken_entry(tmp_path):
    # A disk of one megabyte that only this process sees, and that is gone with it.
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs "{disk}" && exec "$0" "$@"'
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", mount]
    try:
        possible = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no small disk can be mounted here")
    environment = {**os.environ, "BHSEARCH_CACHE": str(disk / "cache")}
    run = subprocess.run(
        [*alone, sys.executable, "-c", FULL], capture_output=True, text=True, env=environment, check=False
    )
    assert run.stderr == ""
    message, found, files = run.stdout.splitlines()
    assert "The disk is full" in message
    assert str(disk / "cache") in message
    assert found == "[('pixels', True)]"
    assert files == "['one.bin']"


# Listing and clearing


def test_entries_are_listed_largest_first():
    get_or_create("pixels", {"n": 1}, Fill(bytes(1000)))
    get_or_create("features", {"n": 2}, Fill(bytes(5000)))
    first, second = entries()
    assert (first.kind, first.key) == ("features", cache_key({"n": 2}))
    assert (second.kind, second.key) == ("pixels", cache_key({"n": 1}))
    assert 15_000 <= first.n_bytes < 16_000
    assert 3_000 <= second.n_bytes < 4_000


def test_an_entry_knows_when_it_was_last_used():
    folder = get_or_create("pixels", FACTS, Fill())
    ten_days_ago = time.time() - 10 * 86400
    os.utime(folder, (ten_days_ago, ten_days_ago))
    assert entries()[0].age_days == pytest.approx(10, abs=0.1)
    get_or_create("pixels", FACTS, Fill())
    assert entries()[0].age_days == pytest.approx(0, abs=0.1)


def test_clearing_deletes_all_and_says_how_much(root):
    assert clear() == 0
    get_or_create("pixels", {"n": 1}, Fill(bytes(1000)))
    get_or_create("features", {"n": 2}, Fill(bytes(5000)))
    size = sum(entry.n_bytes for entry in entries())
    assert clear() == size
    assert entries() == []
    assert everything(root) == []
    fill = Fill()
    get_or_create("pixels", {"n": 1}, fill)
    assert fill.calls == 1


def test_facts_of_entries_are_read_by_kind(root):
    facts = [{"a": 1}, {"a": 2, "name": "K\u00f6ln"}]
    for each in facts:
        cache.get_or_create("speeds", each, Fill())
    cache.get_or_create("pixels", {"a": 3}, Fill())
    for name, text in (("damaged", "{"), ("other", "[]")):
        (root / "speeds" / name).mkdir()
        (root / "speeds" / name / "entry.json").write_text(text)
    found = dict(cache.facts_of_entries("speeds"))
    assert found == {cache.folder_of("speeds", each): each for each in facts}
    assert list(cache.facts_of_entries("none")) == []


def test_an_empty_cache_has_no_entries():
    assert cache.entries() == []
