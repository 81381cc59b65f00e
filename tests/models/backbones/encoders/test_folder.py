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
from bhsearch.models.backbones.encoders.folder import KIND, licence_of
from bhsearch.models.backbones.registry import find_backbones, name_of
from tests.models.backbones.encoders.tiny import DEVIATION, MEAN, SIDE, WIDTH, Tiny, changed, images_of


def found(folder, pooling: str = "") -> Backbone:
    return find_backbones([f"{folder}@{pooling}" if pooling else str(folder)], None).backbones[0]


@pytest.fixture
def folder(tmp_path):
    return Tiny(scaled=True).write_transformers(tmp_path / "tiny", "dinov2")


@pytest.fixture
def timm(tmp_path):
    return Tiny().write_timm(tmp_path / "timm")


def rewrite(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def sharded(folder) -> None:
    """Write the weights as two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


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
    assert not KIND.claims("nosuch/word")
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


def test_mean_and_deviation_are_for_the_stated_scale(folder):
    images = images_of().astype(np.float32)
    whole = np.asarray(found(folder).build(SIDE)(images))
    values = {"image_mean": [255 * m for m in MEAN], "image_std": [255 * d for d in DEVIATION]}
    changed(folder, "preprocessor_config.json", rescale_factor=0.999999, **values)  # almost unscaled
    np.testing.assert_allclose(np.asarray(found(folder).build(SIDE)(images)), whole, atol=1e-3)


@pytest.mark.parametrize(
    ("readme", "config", "licence"),
    [
        ("---\nlicense: cc-by-nc-4.0\ntags:\n- x\n---\n# Tiny\n", {}, "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: h-optimus\n---\n", {}, "h-optimus"),
        ("---\ntags:\n- x\n---\n", {"license": "mit"}, "mit"),
        ("# Tiny\nlicense: text that is no front matter\n", {}, ""),
        (None, {"license": "apache-2.0"}, "apache-2.0"),
        (None, {}, ""),
    ],
)
def test_the_licence_is_the_stated_one(folder, readme, config, licence):
    if readme is not None:
        (folder / "README.md").write_text(readme)
    changed(folder, **config)
    assert licence_of(found(folder)) == licence


# -- folders that cannot be used ---------------------------------------------------------------------------------------


def _without(name):
    return lambda folder: rewrite(folder, lambda tensors: tensors.pop(name))


def _with(name, value):
    return lambda folder: rewrite(folder, lambda tensors: tensors.update({name: value}))


def _config(**values):
    return lambda folder: changed(folder, **values)


def _pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _missing_shard(folder):
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _tensor_in_no_shard(folder):
    sharded(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["layernorm.more"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shard_elsewhere(folder):
    sharded(folder)
    index = {"weight_map": {"layernorm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _unlink(name):
    return lambda folder: (folder / name).unlink()


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


_NAN = np.full(WIDTH, np.nan, np.float32)
_K = "encoder.layer.1.attention.k_proj.weight"
WRONG = {
    "pickle": (_pickled, r"are a pickle \(pytorch_model\.bin\).*python -c \"import torch; .*save_file"),
    "no weights": (_unlink("model.safetensors"), "neither model.safetensors nor model.safetensors.index.json"),
    "missing shard": (_missing_shard, r"lists model-00002-of-00002\.safetensors, which is not there"),
    "tensor in no shard": (_tensor_in_no_shard, r"lists the tensor layernorm\.more, which is in no file"),
    "shard elsewhere": (_shard_elsewhere, "must contain the file name of each tensor under weight_map"),
    "truncated": (_text("model.safetensors", "weights"), r"Cannot read .*model\.safetensors: .*Download it again"),
    "pointer": (_text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
    "NaN": (_with("layernorm.bias", _NAN), r"layernorm\.bias in .* contains NaN or infinite values"),
    "quantized": (_with("layernorm.bias", np.zeros(WIDTH, np.int8)), r"has the type I8"),
    "missing tensor": (_without(_K), r"lack the tensor '1\.key\.weight', as bhsearch calls it"),
    "missing patches": (_without("embeddings.patch_embeddings.projection.weight"), "lack the tensor 'patch.weight'"),
    "left-over tensor": (_with("encoder.layer.1.attention.q_norm.weight", _NAN), r"no part of .*: .*q_norm\.weight"),
    "left-over block": (_config(num_hidden_layers=1), r"has 18 tensors that its config\.json does not provide for"),
    "one part twice": (_with("layers.0.norm1.bias", _NAN), "are the same part of the encoder"),
    "shape": (_config(hidden_size=24), r"must have the shape \(24, 3, 8, 8\), but has \(12, 3, 8, 8\)"),
    "rank": (_with("layernorm.weight", _NAN[None]), r"layernorm\.weight must have the shape \(12,\)"),
    "heads": (_config(num_attention_heads=5), "a multiple of the number of attention heads, but there are 5"),
    "image size": (_config(image_size=64), r"17 position embeddings, but images of 64 pixels have 8 x 8 patches"),
    "oblong": (_config(image_size=[32, 64]), "image_size in .* must be a square, but is 32 x 64"),
    "model_type": (_config(model_type="swin"), "must be one of vit, dinov2, dinov2_with_registers, but is 'swin'"),
    "no type": (_config(model_type=None), "states neither model_type .* nor architecture"),
    "auto_map": (_config(auto_map={"AutoModel": "code.Model"}), r"names Python code .*\(auto_map\)"),
    "activation": (_config(hidden_act="mish"), "hidden_act in .* must be one of gelu, .*, but is 'mish'"),
    "no config": (_unlink("config.json"), r"There is no config\.json in"),
    "config": (_text("config.json", "{"), r"Cannot read .*config\.json as JSON"),
    "no preprocessing": (_unlink("preprocessor_config.json"), r'no preprocessor_config\.json .*"image_mean": \[R'),
    "mean": (_text("preprocessor_config.json", "{}"), r'image_mean in .* must be three numbers.*"image_mean": \[R'),
    "unscaled": (_text("preprocessor_config.json", '{"do_rescale": false}'), "do_rescale in .* must be true"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_folder_that_cannot_be_used_is_a_sentence(folder, name):
    spoil, words = WRONG[name]
    spoil(folder)
    with pytest.raises(BackboneError) as error:
        found(folder)
    assert re.search(words, str(error.value)), str(error.value)
    assert str(error.value).rstrip()[-1] in '.")'


TIMM = {
    "architecture": (_config(architecture="vit_base_patch16_siglip_224"), "must be a plain vision transformer of timm"),
    "argument": (_config(model_args={"num_heads": 3, "qk_norm": True}), "qk_norm = True, which bhsearch does not"),
    "value": (_config(model_args={"num_heads": 3, "in_chans": 4}), "in_chans = 4, which bhsearch does not build"),
    "heads": (
        _config(architecture="vit_so150m_patch8_32", model_args={"img_size": SIDE}),
        r'attention heads, .* Give it there: "model_args": \{"num_heads": N\}',
    ),
    "pool": (_config(global_pool="map"), 'global_pool in .* must be "token", "avg" or ""'),
    "mean": (_config(pretrained_cfg={"std": DEVIATION}), r'"pretrained_cfg": \{"mean": \[R, G, B\]\}'),
    "positions": (
        lambda folder: (
            changed(folder, model_args={"num_heads": 3}, pretrained_cfg={"mean": MEAN, "std": DEVIATION}),
            rewrite(folder, lambda tensors: tensors.update(pos_embed=np.zeros((1, 15, WIDTH), np.float32))),
        ),
        r"15 position embeddings do not show .*\"model_args\": \{\"img_size\": PIXELS\}",
    ),
}


@pytest.mark.parametrize("name", TIMM)
def test_a_file_of_timm_that_does_not_say_enough_names_what_to_add(timm, name):
    spoil, words = TIMM[name]
    spoil(timm)
    with pytest.raises(BackboneError) as error:
        found(timm)
    assert re.search(words, str(error.value)), str(error.value)


def test_what_the_file_of_timm_leaves_out_is_read_off_the_tensors(timm):
    images = images_of().astype(np.float32)
    whole = np.asarray(found(timm).build(SIDE)(images))
    cfg = {"mean": MEAN, "std": DEVIATION}
    (timm / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch8_32", **cfg}))  # the older form
    np.testing.assert_array_equal(np.asarray(found(timm).build(SIDE)(images)), whole)


def test_a_file_in_place_of_the_folder_is_refused(folder):
    with pytest.raises(BackboneError, match="named by its folder, but got the file"):
        found(folder / "model.safetensors")
    with pytest.raises(BackboneError, match="There is no folder"):
        found(folder / "nosuch")


def test_a_folder_whose_name_ends_with_a_pooling_must_be_renamed(folder):
    folder = folder.rename(folder.with_name("tiny@mean"))
    with pytest.raises(BackboneError, match="Rename the folder"):
        found(f"{folder}/")
