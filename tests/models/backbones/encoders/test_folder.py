"""Folders of encoders: what is found, under which name, and a sentence for each folder that cannot be used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.encoders.folder import KIND
from bhsearch.models.backbones.registry import find_backbones, name_of
from tests.models.backbones.encoders.spoiled import TIMM, WRONG, rewrite, sharded
from tests.models.backbones.encoders.tiny import DEVIATION, MEAN, PATCH, SIDE, WIDTH, Tiny, changed, images_of


def found(folder, pooling: str = "") -> Backbone:
    return find_backbones([f"{folder}@{pooling}" if pooling else str(folder)], None).backbones[0]


@pytest.fixture
def folder(tmp_path):
    return Tiny(scaled=True).write_transformers(tmp_path / "tiny", "dinov2")


@pytest.fixture
def timm(tmp_path):
    return Tiny().write_timm(tmp_path / "timm")


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_backbone_has_the_name_of_its_folder_and_the_given_pooling(folder, monkeypatch):
    assert found(folder).name == "tiny"
    assert found(folder, "cls+mean").name == "tiny@cls+mean"
    assert KIND.most_features(found(folder, "mean")) == WIDTH
    assert KIND.most_features(found(folder, "cls+mean")) == 2 * WIDTH
    monkeypatch.chdir(folder.parent)
    assert found("tiny") == found(folder)
    assert name_of("tiny@mean") == "tiny@mean"


def test_a_snapshot_in_a_cache_of_models_has_the_name_of_its_repository(folder):
    snapshot = folder.parent / "models--ann--tiny" / "snapshots" / "0a1b2c"
    shutil.copytree(folder, snapshot)
    assert found(snapshot).name == "ann--tiny"
    assert name_of(f"{snapshot}@mean") == "ann--tiny@mean"


def test_poolings_of_one_encoder_are_different_backbones(folder):
    poolings = ("cls", "mean", "cls+mean")
    backbones = find_backbones([f"{folder}@{pooling}" for pooling in poolings], None).backbones
    assert len({backbone.digest for backbone in backbones}) == 3
    assert found(folder, "cls").digest == found(folder).digest  # the library's own pooling


def test_the_digest_is_that_of_the_features(folder, tmp_path):
    before = found(folder).digest
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    changed(folder, transformers_version="9")
    assert found(folder).digest == before
    changed(folder, "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    other_mean = found(folder).digest
    rewrite(folder, lambda tensors: tensors["layernorm.bias"].__setitem__(0, 0.1))
    assert len({before, other_mean, found(folder).digest}) == 3


def test_a_word_is_no_folder_unless_it_has_an_encoder(tmp_path, monkeypatch):
    """A folder that happens to have the name of a backbone of another package does not hide it."""
    (tmp_path / "word").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not KIND.claims("word")
    assert not KIND.claims("kind:nosuch/word")
    assert KIND.claims("nosuch/word")
    assert KIND.claims(str(tmp_path / "word"))
    with pytest.raises(BackboneError, match=r"a folder with config.json and model.safetensors, but got 'word'"):
        find_backbones(["word"], None)


def test_sizes_are_those_of_the_network(folder):
    backbone = found(folder)
    network = backbone.build(SIDE)
    # The mask of pretraining is left out; layer scale, and all positions with the bias of the patches, are folded.
    assert backbone.size_mb == pytest.approx(4e-6 * network.count_params(), rel=0.05)
    assert backbone.model_mb == backbone.size_mb


# -- files -------------------------------------------------------------------------------------------------------------


def test_shards_are_one_encoder(folder):
    images = images_of().astype(np.float32)
    whole = np.asarray(found(folder).build(SIDE)(images))
    sharded(folder)
    np.testing.assert_array_equal(np.asarray(found(folder).build(SIDE)(images)), whole)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_any_precision_become_float32(folder, dtype):
    images = images_of().astype(np.float32)
    whole = np.asarray(found(folder).build(SIDE)(images))
    tensors = {name: value.astype(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    network = found(folder).build(SIDE)
    assert {weight.dtype for weight in network.weights} == {"float32"}
    np.testing.assert_allclose(np.asarray(network(images)), whole, atol=0.1)


def test_bfloat16_is_read_in_a_process_of_its_own(folder):
    """safetensors knows the type only once `ml_dtypes` is imported, which Keras does in this process."""
    tensors = {
        name: value.astype(ml_dtypes.bfloat16) for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors")
    code = (
        "import sys; from bhsearch.models.backbones.registry import find_backbones; "
        f"print(find_backbones([{str(folder)!r}], None).backbones[0].digest, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [found(folder).digest, "False"], done.stderr


@pytest.mark.parametrize("factor", [None, 1 / 127.5])
def test_mean_and_deviation_are_for_the_stated_scale(folder, factor):
    """Pixels of 0..255, and of 0..2."""
    images = images_of().astype(np.float32)
    whole = np.asarray(found(folder).build(SIDE)(images))
    scale = 255 if factor is None else 255 * factor
    values = {"image_mean": [scale * m for m in MEAN], "image_std": [scale * d for d in DEVIATION]}
    more = {"do_rescale": False} if factor is None else {"rescale_factor": factor}
    changed(folder, "preprocessor_config.json", **values, **more)
    np.testing.assert_allclose(np.asarray(found(folder).build(SIDE)(images)), whole, atol=1e-5)


def test_without_normalisation_the_pixels_are_scaled_alone(folder):
    images = images_of().astype(np.float32)
    changed(folder, "preprocessor_config.json", image_mean=[0, 0, 0], image_std=[1, 1, 1])
    scaled = np.asarray(found(folder).build(SIDE)(images))
    changed(folder, "preprocessor_config.json", image_mean=None, image_std=None, do_normalize=False)
    np.testing.assert_allclose(np.asarray(found(folder).build(SIDE)(images)), scaled, atol=1e-6)


@pytest.mark.parametrize(
    ("readme", "config", "licence"),
    [
        ("---\nlicense: cc-by-nc-4.0\ntags:\n- x\n---\n# Tiny\n", {}, "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: h-optimus\n---\n", {}, "h-optimus"),
        ("---\ntags:\n- x\n---\n", {"license": "mit"}, "mit"),
        ("# Tiny\nlicense: text that is no front matter\n", {}, "unknown"),
        (None, {"license": "apache-2.0"}, "apache-2.0"),
        (None, {}, "unknown"),
    ],
)
def test_the_licence_is_the_stated_one(folder, readme, config, licence):
    if readme is not None:
        (folder / "README.md").write_text(readme)
    changed(folder, **config)
    assert found(folder).licence == licence


def test_an_encoder_is_described_without_building_it(folder, timm):
    told = found(folder, "cls+mean").describe(224)
    n_stored = sum(tensor.size for tensor in load_file(folder / "model.safetensors").values())
    n_mask = load_file(folder / "model.safetensors").get("embeddings.mask_token", np.empty(0)).size
    assert (told.n_parameters, told.n_features) == (n_stored - n_mask, 2 * WIDTH)
    assert told.sizes == f"multiples of {PATCH} px, trained at {SIDE} px"
    assert told.preprocessing == "scaled to 0..1, mean 0.7 0.55 0.68, deviation 0.2 0.25 0.18"
    assert found(timm).describe(224).n_features == WIDTH


@pytest.mark.parametrize("n_positions", [0, 1, 2, 3])
def test_fewer_position_embeddings_than_other_tokens_are_refused(tmp_path, n_positions):
    """Without patches there is no grid; with registers, timm may have given them positions of their own."""
    folder = Tiny(registers=2).write_timm(tmp_path / "timm")
    rewrite(folder, lambda tensors: tensors.update(pos_embed=tensors["pos_embed"][:, :n_positions].copy()))
    with pytest.raises(BackboneError, match=rf"{n_positions} position embeddings"):
        found(folder)


# -- folders that cannot be used ---------------------------------------------------------------------------------------


def refusal(folder, spoil, words):
    """The message with which a spoiled folder is refused, which contains the words."""
    spoil(folder)
    with pytest.raises(BackboneError) as error:
        found(folder)
    assert re.search(words, str(error.value)), str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", WRONG)
def test_a_folder_that_cannot_be_used_is_a_sentence(folder, name):
    message = refusal(folder, *WRONG[name])
    assert message.rstrip()[-1] in '.")'


@pytest.mark.parametrize("name", TIMM)
def test_a_file_of_timm_that_does_not_say_enough_names_what_to_add(timm, name):
    refusal(timm, *TIMM[name])


def test_what_the_file_of_timm_leaves_out_is_read_off_the_tensors(timm):
    images = images_of().astype(np.float32)
    whole = np.asarray(found(timm).build(SIDE)(images))
    cfg = {"mean": MEAN, "std": DEVIATION}
    (timm / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch8_32", **cfg}))  # the older form
    np.testing.assert_array_equal(np.asarray(found(timm).build(SIDE)(images)), whole)


def test_arguments_of_timm_that_change_nothing_are_accepted(timm):
    before = found(timm).digest
    arguments = json.loads((timm / "config.json").read_text())["model_args"]
    harmless = {"qk_norm": False, "mlp_layer": "timm.layers.Mlp", "norm_layer": "LayerNorm", "in_chans": 3}
    changed(timm, model_args=arguments | harmless)
    assert found(timm).digest == before


def test_a_file_in_place_of_the_folder_is_refused(folder):
    with pytest.raises(BackboneError, match="named by its folder, but got the file"):
        found(folder / "model.safetensors")
    for missing in (folder / "nosuch", "nosuch/tiny", "nosuch/tiny@mean"):
        with pytest.raises(BackboneError, match="There is no folder"):
            found(missing)


def test_a_folder_whose_name_ends_with_a_pooling_must_be_renamed(folder):
    folder = folder.rename(folder.with_name("tiny@mean"))
    with pytest.raises(BackboneError, match="Rename the folder"):
        found(f"{folder}/")


@pytest.mark.parametrize("pooling", ["max", ""])
def test_an_unknown_pooling_is_named(folder, pooling):
    with pytest.raises(BackboneError, match=rf"pooling of .* must be one of cls, mean, cls\+mean, but is '{pooling}'"):
        found(f"{folder}@{pooling}")
