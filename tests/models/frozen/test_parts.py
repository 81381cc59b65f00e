"""Features are stored in parts, which survive a kill, are used once, and are never mixed with others."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bhsearch.models import features as module
from bhsearch.models.frozen.parts import PARTS, FeatureParts, write_array
from bhsearch.runtime import cache as runtime_cache
from tests.models.conftest import pixels_of, tissue

FACTS = {"backbone": "vit", "version": 1}
ROWS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


def stored(kind=PARTS):
    return [entry for entry in runtime_cache.entries() if entry.kind == kind]


def test_rows_that_were_stored_are_found_in_order():
    parts = FeatureParts(FACTS, 10)
    assert (parts.n_done, parts.seconds) == (0, 0.0)
    parts.add(ROWS[:4], 2.0)
    parts.add(ROWS[4:7], 1.5)
    again = FeatureParts(FACTS, 10)
    assert (again.n_done, again.n_before, again.seconds) == (7, 7, 3.5)
    again.add(ROWS[7:], 1.0)
    assert (again.n_done, again.n_before, again.seconds) == (10, 7, 4.5)
    np.testing.assert_array_equal(again.rows(), ROWS)
    assert len(stored()) == 2, "the last part is stored with the whole"
    again.remove()
    assert stored() == []
    assert FeatureParts(FACTS, 10).n_done == 0


@pytest.mark.parametrize("other", [{"version": 2}, {"precision": "bf16"}, {"backbone": "resnet"}])
def test_parts_of_other_features_are_not_used(other):
    FeatureParts(FACTS, 10).add(ROWS[:4], 2.0)
    assert FeatureParts(FACTS | other, 10).n_done == 0


def test_a_damaged_part_is_not_used_and_those_after_it_are_not_either():
    parts = FeatureParts(FACTS, 10)
    for start in (0, 2, 4):
        parts.add(ROWS[start : start + 2], 1.0)
    folder = runtime_cache.folder_of(PARTS, FACTS | {"start": 2})
    content = bytearray((folder / "rows.npy").read_bytes())
    content[-3] ^= 0xFF
    (folder / "rows.npy").write_bytes(content)
    assert FeatureParts(FACTS, 10).n_done == 2


def test_an_array_is_written_as_numpy_writes_it(tmp_path):
    write_array(tmp_path / "ours.npy", ROWS)
    np.save(tmp_path / "theirs.npy", ROWS)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


COMPUTE = """
import json, sys
from pathlib import Path
import numpy as np
from bhsearch.data.images.pixel_cache import PixelCache
from bhsearch.models import features
from bhsearch.models.backbones.registry import find_backbones
key, file, shape = json.loads(sys.argv[1])
features._PART_SECONDS = 0.0
def progress(backbone, view):
    return lambda done, total: print(done, flush=True) or sys.stdin.readline()
cache = features.FeatureCache(PixelCache(key, Path(file), tuple(shape)), "openvino", progress=progress)
cache.get(find_backbones(["staintex-s"], None).backbones[0], "stain1")
"""


def test_a_killed_computation_continues_with_the_same_features(staintex_s, tmp_path):
    images = tissue(200, 64)
    pixels = pixels_of(images, tmp_path)
    whole = module.FeatureCache(pixels, "openvino")
    expected = whole.get(staintex_s, "stain1").copy()
    facts = whole._facts(staintex_s, "stain1")
    runtime_cache.discard("features", facts)
    arguments = f'["{pixels.key}", "{tmp_path / (pixels.key + ".u8")}", {list(pixels.shape)}]'
    with subprocess.Popen(
        [sys.executable, "-c", COMPUTE, arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"BHSEARCH_CACHE": str(runtime_cache.cache_root())},
    ) as process:
        done = []
        while len(done) < 3:  # the third report comes during the second part, when the first one is stored
            line = process.stdout.readline()
            assert line, process.stderr.read()
            done.append(int(line))
            if len(done) < 3:
                process.stdin.write("\n")
                process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    assert done == [0, 64, 128]
    assert len(stored()) == 1
    reports = []
    resumed = module.FeatureCache(
        pixels, "openvino", progress=lambda *_: lambda done, total: reports.append((done, total))
    )
    np.testing.assert_array_equal(resumed.get(staintex_s, "stain1"), expected)
    assert reports == [(64, 200), (128, 200), (192, 200), (200, 200)]
    assert stored() == []


@pytest.mark.parametrize("n_tiles", [1, 2])
def test_features_in_many_parts_are_those_in_one_bit_by_bit(n_tiles, mobilenet, tmp_path, monkeypatch):
    pixels = pixels_of(tissue(324, 64), tmp_path, n_tiles)
    cache = module.FeatureCache(pixels, "openvino")
    for view in ("identity", "stain1"):
        expected = cache.get(mobilenet, view).copy()
        runtime_cache.discard("features", cache._facts(mobilenet, view))
    added = []
    monkeypatch.setattr(module, "_PART_SECONDS", 0.0)
    monkeypatch.setattr(FeatureParts, "add", noted(FeatureParts.add, added))
    again = module.FeatureCache(pixels, "openvino")
    np.testing.assert_array_equal(again.get(mobilenet, "stain1"), expected)
    assert len(added) > 1
    assert stored() == []


def noted(function, calls):
    def call(self, rows, seconds):
        calls.append(len(rows))
        return function(self, rows, seconds)

    return call


def test_parts_are_kept_if_the_whole_cannot_be_written(staintex_s, tmp_path, monkeypatch):
    # A limit on the size of files stands for a full disk: a part is smaller than the whole.
    monkeypatch.setattr(module, "_PART_SECONDS", 0.0)
    pixels = pixels_of(tissue(200, 64), tmp_path)
    cache = module.FeatureCache(pixels, "openvino")
    cache.load(staintex_s)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            cache.get(staintex_s, "identity")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert len(stored()) == 2
    assert stored("features") == []
    assert len(cache.get(staintex_s, "identity")) == 200
    assert stored() == []


def test_short_computations_write_no_parts(staintex_s, tmp_path, monkeypatch):
    def create(kind, facts, fill, created=runtime_cache.get_or_create):
        kinds.append(kind)
        return created(kind, facts, fill)

    kinds = []
    monkeypatch.setattr(runtime_cache, "get_or_create", create)
    started = time.monotonic()
    module.FeatureCache(pixels_of(tissue(200, 64), tmp_path), "openvino").get(staintex_s, "identity")
    assert time.monotonic() - started < module._PART_SECONDS, "the machine is too slow for this test"
    assert PARTS not in kinds
