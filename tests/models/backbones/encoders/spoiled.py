"""Ways in which the folder of an encoder can be unusable, with words of the sentence that says so."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models.backbones.encoders.tiny import DEVIATION, MEAN, SIDE, WIDTH, changed


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


def _colours(mean, deviation):
    return _text("preprocessor_config.json", json.dumps({"image_mean": mean, "image_std": deviation}))


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
    "heads": (
        _config(num_attention_heads=5),
        "attention heads, but config.json states 5 heads",
    ),
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
    "mean in 0..255": (_colours([123, 117, 104], [0.2] * 3), r"image_mean in .* from 0 to 1 .*, but they are \[123"),
    "deviation 0": (
        _colours([0.5] * 3, [0.0, 0.2, 0.2]),
        r"image_std above 0 .*, but they are .*\[0\.0, 0\.2",
    ),
    "no heads": (_config(num_attention_heads=None), "num_attention_heads in .* at least 1, but is missing"),
    "factor": (_text("preprocessor_config.json", '{"rescale_factor": 2}'), "rescale_factor in .* between 0 and 1"),
}
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
    "deviation 0": (
        _config(pretrained_cfg={"mean": MEAN, "std": [0, 1, 1]}),
        "std above 0 and at most 1, but",
    ),
    "positions": (
        lambda folder: (
            changed(folder, model_args={"num_heads": 3}, pretrained_cfg={"mean": MEAN, "std": DEVIATION}),
            rewrite(folder, lambda tensors: tensors.update(pos_embed=np.zeros((1, 15, WIDTH), np.float32))),
        ),
        r"15 position embeddings do not show .*\"model_args\": \{\"img_size\": PIXELS\}",
    ),
}
