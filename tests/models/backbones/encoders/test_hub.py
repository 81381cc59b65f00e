"""`hf://OWNER/NAME`: what is downloaded, what comes from the cache, and a sentence for each failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.encoders.folder import KIND
from bhsearch.models.backbones.encoders.hub import HubEncoder
from bhsearch.models.backbones.registry import find_backbones, kind_of, name_of
from tests.models.backbones.encoders.hub_server import COMMIT, GATED, hub_of
from tests.models.backbones.encoders.tiny import Tiny

FIND = """
import json, sys
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.registry import find_backbones
try:
    found = find_backbones(sys.argv[1:], None).backbones[0]
    print(json.dumps([found.name, str(found.file), found.digest]))
except BackboneError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    folder = Tiny(scaled=True).write_transformers(root / "ann" / "tiny", "dinov2")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with hub_of(root) as (address, asked):
        yield address, asked, folder


def find(name, address, home, **variables):
    """What `find_backbones` returns or says in a process whose hub is there."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "PYTHONPATH": ":".join(sys.path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", FIND, name], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_configuration_weights_and_card_are_downloaded_once_and_no_code(hub, tmp_path):
    address, asked, folder = hub
    name, place, digest = find("hf://ann/tiny@mean", address, tmp_path)
    local = find_backbones([f"{folder}@mean"], None).backbones[0]
    assert (name, digest) == ("ann--tiny@mean", local.digest)
    assert sorted(file.name for file in Path(place).iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert not any(path.endswith((".py", ".bin")) for path in asked)
    n_before = len(asked)
    assert find(f"hf://ann/tiny@{COMMIT}@mean", address, tmp_path) == [name, place, digest]
    assert not any("resolve" in path for path in asked[n_before:])
    assert find("hf://ann/tiny@mean", "http://127.0.0.1:9", tmp_path) == [name, place, digest]
    assert find("hf://ann/tiny@mean", address, tmp_path, HF_HUB_OFFLINE="1") == [name, place, digest]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"hf://ann/{GATED}", f"Accept it at https://huggingface.co/ann/{GATED}, and log in with hf auth login"),
        ("hf://ann/nosuch", "there is no such repository, or it is private"),
        ("hf://ann/tiny@nosuch", "it has no revision 'nosuch'"),
        ("hf://tiny", "is named hf://OWNER/NAME"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_with_the_reason(hub, tmp_path, name, words):
    assert words in find(name, hub[0], tmp_path)


def test_without_network_and_cache_another_way_is_named(hub, tmp_path):
    for variables in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        said = find("hf://ann/tiny", hub[0], tmp_path, **variables)
        assert "the hub cannot be reached" in said
        assert "copy the folder of the encoder" in said


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackboneError, match=r"pip install 'bhsearch\[hub\]'"):
        HubEncoder.of("hf://ann/tiny").folder()


def test_the_name_in_the_space_needs_no_network():
    assert kind_of("hf://ann/tiny") == "encoder"
    assert name_of("hf://ann/tiny") == "ann--tiny"
    assert name_of("hf://ann/tiny@v1@cls+mean") == "ann--tiny@cls+mean"
    assert KIND.claims("hf://ann/tiny")
    assert HubEncoder.of("hf://ann/tiny@v1") == HubEncoder("ann", "tiny", "v1", None)
