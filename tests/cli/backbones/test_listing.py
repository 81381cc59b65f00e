"""`bhsearch dataset backbones`: what it prints at a terminal, in a pipe and as JSON."""

from __future__ import annotations

import json

import pytest

from bhsearch.cli.backbones import listing
from bhsearch.errors import BackboneError
from bhsearch.models import keras_settings
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.runtime import cache
from tests.cli.test_dataset import call, run
from tests.models.backbones.encoders.tiny import SIDE, WIDTH, Tiny


@pytest.fixture(autouse=True)
def _own_cache_for_each_test(tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoder(tmp_path):
    """A folder whose name looks like Rich's markup and is longer than a narrow terminal."""
    folder = Tiny(scaled=True).write_transformers(tmp_path / f"[red]{'encoder' * 10}", "dinov2")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: owkin-non-commercial\n---\n")
    return folder


def test_a_pipe_has_one_line_for_each_fact(encoder):
    lines = run("backbones", encoder, "--image-size", SIDE).splitlines()
    assert lines[0] == encoder.name
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if line}
    assert facts["kind"] == "published encoder"
    assert facts["features"] == str(WIDTH)
    assert facts["licence"] == "owkin-non-commercial, non-commercial"
    assert facts["found"] == f"in    {encoder}"
    assert facts["speed"] == "not measured here yet"
    assert facts["input"].startswith(f"multiples of 8 px, trained at {SIDE} px; scaled to 0..1, mean 0.7 0.55 0.68")


def test_the_measured_speed_is_shown(encoder):
    (backbone,) = find_backbones([str(encoder)], None).backbones
    facts = {
        "backbone": backbone.name, "weights": backbone.digest, "images": [6, 224, 224, 3],
        "feature_backend": "openvino", "numerics": keras_settings.numerics(),
    }  # fmt: skip
    content = json.dumps({"milliseconds": 80.0})
    cache.get_or_create("speeds", facts, lambda folder: (folder / "speed.json").write_text(content))
    assert "12.5 images a second at 224 px (openvino, 6 tiles each)" in run("backbones", encoder)


def test_everything_fits_sixty_columns_and_nothing_is_cut(encoder, monkeypatch):
    text = run("backbones", encoder, "auto", width=60, monkeypatch=monkeypatch)
    assert max(map(len, text.splitlines())) <= 60
    joined = "".join(text.split())
    for word in (encoder.name, "".join(str(encoder).split()), "owkin-non-commercial", "staintex-l", "convnext-tiny"):
        assert word in joined
    assert "\u2026" not in text


def test_without_names_the_rest_is_listed_with_the_reason_and_the_way_to_more():
    text = run("backbones")
    assert "licence     none needed, no weights" in text
    assert "Not available (no local weights): " in text
    assert listing.MORE in text


def test_json_has_everything(encoder):
    content = json.loads(run("backbones", f"{encoder},staintex-s", "--json", "--image-size", "33"))
    first, second = content["backbones"]
    assert (first["licence"], first["non_commercial"]) == ("owkin-non-commercial", True)
    assert "--image-size is 33" in first["not_at_this_size"]
    assert (second["licence"], second["non_commercial"], second["not_at_this_size"]) == ("no weights", False, "")
    assert first["place"] == str(encoder)


def test_unusable_folders_are_an_error_after_the_others_are_listed(encoder, tmp_path):
    done = call("backbones", tmp_path / "gone", encoder)
    assert done.returncode == 2
    assert done.stdout.startswith(encoder.name)
    assert done.stderr.startswith("error: There is no folder")
    with pytest.raises(BackboneError, match="--weights-dir must be an existing folder"):
        run("backbones", "--weights-dir", tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cc-by-nc-4.0", "cc-by-nc-4.0, non-commercial"),
        ("mit", "mit, commercial use permitted"),
        ("h-optimus", "h-optimus, commercial use unknown"),
        ("unknown", "unknown"),
        ("no weights", "none needed, no weights"),
    ],
)
def test_a_licence_says_whether_it_permits_commercial_use(name, said):
    assert listing.licence(name) == said


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (190_704, "190,704"),
        (7_040_000, "7.04 million"),
        (303_300_000, "303 million"),
        (1_134_000_000, "1.13 billion"),
    ],
)
def test_parameters_are_counted_in_words(number, text):
    assert listing.count(number) == text
