"""What the catalogue says, against the networks themselves."""

from __future__ import annotations

import pytest

from bhsearch.errors import BackboneError
from bhsearch.models.backbones import keras_applications
from bhsearch.models.backbones.base import KINDS
from bhsearch.models.backbones.catalogue import BUILT_IN, read_catalogue
from bhsearch.models.backbones.keras_applications import REGISTRY
from tests.models.backbones.encoders.tiny import PATCH, SIDE, WIDTH, Tiny

SIZE = 64


@pytest.fixture(autouse=True)
def _no_weights_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr(keras_applications, "keras_models", lambda: [tmp_path / "none"])


@pytest.fixture
def _offline(monkeypatch):
    def online():
        raise AssertionError("a list must not ask for a connection")

    monkeypatch.setattr(keras_applications, "_online", online)


def by_name(catalogue):
    return {entry.backbone.name: entry for entry in catalogue.entries}


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("names", [(), ("auto",)])
def test_everything_that_needs_no_name_is_listed_for_both_regimes(names, random_weights):
    found = read_catalogue(names, random_weights, SIZE)
    entries = by_name(found)
    own = [name for name in KINDS if name not in KINDS.built_in]
    assert list(entries) == ["staintex-s", "staintex-l", "cnn", *local(random_weights), *own]
    assert {entries[name].kind for name in ("staintex-s", "cnn")} == {"fixed filters", "network from scratch"}
    assert entries["cnn"].place == BUILT_IN
    assert found.unusable == ()
    missing = {name for name in REGISTRY if name not in entries}
    assert dict(found.left_out) == dict.fromkeys(missing, "no local weights")


def local(folder) -> list[str]:
    return [name for name, facts in REGISTRY.items() if (folder / facts.weights_file).is_file()]


def test_a_network_of_keras_applications_is_described_as_it_is_built(random_weights):
    (name, *_) = local(random_weights)
    (entry,) = read_catalogue([name], random_weights, SIZE).entries
    network = entry.backbone.build(SIZE)
    assert entry.description.n_features == network.output_shape[1]
    assert entry.description.n_parameters == pytest.approx(network.count_params(), rel=0.02)
    assert entry.kind == "keras.applications"
    assert entry.place == str(random_weights / REGISTRY[name].weights_file)
    assert entry.description.sizes == "at least 32 px"


def test_a_keras_file_is_described_by_its_network(own_network):
    (entry,) = read_catalogue([str(own_network.file)], None, SIZE).entries
    network = own_network.build(SIZE)
    assert entry.kind == ".keras file"
    assert (entry.description.n_parameters, entry.description.n_features) == (
        network.count_params(),
        network.output_shape[1],
    )
    assert entry.backbone.licence == "unknown"


def test_a_keras_file_of_one_size_is_described_at_any_requested_size(tmp_path):
    import keras

    images = keras.Input((48, 48, 3))
    keras.Model(images, keras.layers.Conv2D(6, 5)(images)).save(tmp_path / "mine.keras")
    (entry,) = read_catalogue([str(tmp_path / "mine.keras")], None, SIZE).entries
    assert entry.description.sizes == "48 px"
    assert (entry.description.n_parameters, entry.description.n_features) == (6 * (75 + 1), 6)


def test_an_encoder_is_found_with_its_licence_and_the_sizes_that_it_does_not_take(tmp_path):
    folder = Tiny(scaled=True).write_transformers(tmp_path / "tiny", "dinov2")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (entry,) = read_catalogue([f"{folder}@cls+mean"], None, SIDE + 1).entries
    assert (entry.backbone.name, entry.kind) == ("tiny@cls+mean", "published encoder")
    assert (entry.backbone.licence, entry.place) == ("cc-by-nc-4.0", str(folder))
    assert entry.description.n_features == 2 * WIDTH
    assert f"multiple of its patches of {PATCH} pixels" in entry.not_at
    assert read_catalogue([str(folder)], None, SIDE).entries[0].not_at == ""


def test_an_unusable_name_hides_no_other(tmp_path):
    folder = Tiny().write_timm(tmp_path / "tiny")
    found = read_catalogue(["nosuch", str(tmp_path / "gone"), str(folder), str(folder)], None, SIDE)
    assert list(by_name(found)) == ["tiny"]
    assert [("nosuch" in found.unusable[0]), ("gone" in found.unusable[1])] == [True, True]
    assert len(found.unusable) == 2


def test_a_folder_of_weights_must_exist(tmp_path):
    with pytest.raises(BackboneError, match="--weights-dir must be an existing folder"):
        read_catalogue([], tmp_path / "none", SIZE)
