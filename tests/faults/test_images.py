"""A thousand mutated files: each is read right or named as bad; no crash, no hang, memory under 1 GB."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.faults.mutated import ASK, BAD, KINDS, SOUND

SEED, N_FILES = 20261125, 1000
MOST_MB, MOST_SECONDS = 1000, 300
READ = """
import json, sys
from pathlib import Path
from bhsearch.data.images import decode as module
from bhsearch.data.open_data import open_data


module._n_cores = lambda: 16  # as many threads as on a larger machine
index = open_data(sys.argv[1], skip_unreadable=True)
for path in index.paths():
    module.decode(path)
said = {
    "read": dict(zip(index.table["path"], index.table["pixels_digest"])),
    "bad": {file.path: file.reason for file in index.bad},
    "peak_mb": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024,
}
json.dump(said, sys.stdout)
"""


@dataclass(frozen=True)
class Case:
    """A file, what must come of it, and the digest of its pixels where they were known when it was made."""

    path: str
    kind: str
    must_be: str
    digest: str | None
    reason: str


pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "tree"


@pytest.fixture(scope="module")
def cases(root) -> list[Case]:
    for label in ("benign", "malignant"):
        (root / label).mkdir(parents=True)
    made = []
    plan = [row for row in KINDS for _ in range(row[1])]
    for number, (kind, _, must_be, make, reason) in enumerate(plan):
        path = f"{('benign', 'malignant')[number % 2]}/{number:04d}.png"
        pixels = make(np.random.default_rng((SEED, number)), root / path)
        made.append(Case(path, kind, must_be, digest(pixels) if isinstance(pixels, np.ndarray) else pixels, reason))
    assert len(made) == N_FILES
    return made


@pytest.fixture(scope="module")
def said(root, cases, tmp_path_factory) -> dict:
    """What the index says, by a process of its own, whose peak of memory is nobody else's."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is read from /proc")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", str(cache))
        end = subprocess.run(
            [sys.executable, "-W", "error", "-c", READ, str(root)], capture_output=True, text=True, timeout=MOST_SECONDS
        )
    assert (end.returncode, end.stderr) == (0, "")
    return json.loads(end.stdout)


def digest(pixels: np.ndarray) -> str:
    assert pixels.dtype == np.uint8
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def by_pillow(file: Path) -> str | None:
    """Digest of what Pillow gives, brought to RGB as `decode` documents it; None where it gives nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file) as image:
                if (
                    image.format not in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
                    or image.width * image.height > 100_000_000
                ):
                    return None
                image.load()
                turned = ImageOps.exif_transpose(image)
        except Exception:  # the thing asked is whether it can
            return None
        if turned.mode.startswith("I"):
            grey = np.round(np.asarray(turned) / 257).astype(np.uint8)
            return digest(np.dstack([grey] * 3))
        if turned.mode in ("LA", "RGBA", "PA") or "transparency" in turned.info:
            white = Image.new("RGBA", turned.size, (255, 255, 255, 255))
            turned = Image.alpha_composite(white, turned.convert("RGBA"))
        return digest(np.array(turned.convert("RGB")))


def test_every_file_is_read_or_named_and_none_is_both(cases, said):
    assert len(said["read"]) + len(said["bad"]) == N_FILES
    assert {*said["read"], *said["bad"]} == {case.path for case in cases}
    assert all(reason and "\n" not in reason for reason in said["bad"].values())


def test_sound_files_of_every_kind_have_their_pixels(root, cases, said):
    wrong = []
    for case in cases:
        if case.must_be == SOUND:
            expected = case.digest or by_pillow(root / case.path)
            if expected is None or said["read"].get(case.path) != expected:
                wrong.append((case.kind, case.path, said["bad"].get(case.path, "other pixels")))
    assert wrong == []


def test_of_damaged_files_those_are_read_that_pillow_reads_and_with_the_same_pixels(root, cases, said):
    asked = [case for case in cases if case.must_be == ASK]
    wrong = [
        (case.kind, case.path, said["bad"].get(case.path, "read"))
        for case in asked
        if said["read"].get(case.path) != by_pillow(root / case.path)
    ]
    assert wrong == []
    n_read = sum(case.path in said["read"] for case in asked)
    assert 20 < n_read < len(asked) - 20  # both ends are met, or this test says nothing


def test_what_is_no_image_is_named_with_its_reason(cases, said):
    for case in cases:
        if case.must_be == BAD:
            assert said["bad"].get(case.path, "read").startswith(case.reason), case


def test_memory_stays_under_a_gigabyte(said):
    """Four images of the largest size that is read are among them, for which the threads must wait."""
    print(f"peak of memory: {said['peak_mb']:.0f} MB")
    assert said["peak_mb"] < MOST_MB
