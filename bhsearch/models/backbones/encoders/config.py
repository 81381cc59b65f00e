"""Description of a published encoder in `config.json` and `preprocessor_config.json`, beside its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.encoders.names import TIMM, TRANSFORMERS, Naming

CONFIG, PREPROCESSING, README = "config.json", "preprocessor_config.json", "README.md"
Colours = tuple[float, float, float]

_MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers")
# Names of activation functions in configurations -> names of the functions in `network.ACTIVATIONS`.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Plain vision transformers of timm, whose other variants (CLIP, SigLIP, hybrids, rotary embeddings) are other networks.
_ARCHITECTURE = re.compile(r"vit_([a-z0-9]+)_patch\d+(_reg\d+)?(_gap)?_(\d+|dinov2)(\..*)?")
# Number of attention heads, which no tensor shows, by size in the name of the architecture.
_HEADS = {
    "tiny": 3, "small": 6, "medium": 8, "mediumd": 8, "betwixt": 10, "base": 12, "large": 16, "huge": 16, "giant": 16,
    "gigantic": 16,
}  # fmt: skip
_GIANT_DINOV2_HEADS = 24
# Arguments of timm's VisionTransformer that the shapes of the tensors show, that are read here, or that do not matter.
_FREE_ARGUMENTS = {
    "img_size", "patch_size", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values",
    "class_token", "no_embed_class", "reg_tokens", "global_pool", "fc_norm", "act_layer", "dynamic_img_size",
    "strict_img_size", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
    "drop_path_rate", "weight_init",
}  # fmt: skip
# Values of further arguments, in lower case and without a module, with which the network is the one that is built here.
_FIXED_ARGUMENTS = {
    "in_chans": ("3",),
    "norm_layer": ("layernorm",),
    "mlp_layer": ("mlp", "swiglu", "swiglupacked"),
    "final_norm": ("true",),
    "proj_bias": ("true",),
    "pre_norm": ("false",),
    "qk_norm": ("false",),
    "scale_attn_norm": ("false",),
    "scale_mlp_norm": ("false",),
    "dynamic_img_pad": ("false",),
    "pool_include_prefix": ("false",),
}


@dataclass(frozen=True)
class EncoderConfig:
    """Description of an encoder in the files beside its weights; None for what they do not say.

    Attributes:
        naming: Names of the tensors.
        width: Length of a token.
        depth: Number of blocks.
        n_heads: Number of attention heads.
        hidden: Units of the hidden layer of each block; None if the shapes show it.
        image_size: Side in pixels of the images of pretraining, for which the position embeddings are.
        patch: Side of a patch in pixels.
        activation: Activation function of the hidden layers, a key of `network.ACTIVATIONS`.
        gate_activation: Activation function where hidden layers are gated (SwiGLU).
        epsilon: Epsilon of layer normalisation.
        n_registers: Number of register tokens.
        layer_scale: Whether the blocks have layer scale.
        antialias: Whether position embeddings are resampled with antialiasing.
        pooling: How the library itself pools the tokens, one of `config.parsing.POOLINGS`.
        mean: Mean of each channel that is subtracted from RGB in 0..1.
        deviation: Standard deviation of each channel by which the difference is divided.
        licence: Licence of the weights as the folder states it; empty if it states none.
    """

    naming: Naming
    width: int | None
    depth: int | None
    n_heads: int
    hidden: int | None
    image_size: int | None
    patch: int | None
    activation: str
    gate_activation: str
    epsilon: float
    n_registers: int | None
    layer_scale: bool | None
    antialias: bool
    pooling: str
    mean: Colours
    deviation: Colours
    licence: str


def read_config(folder: Path) -> EncoderConfig:
    """Read the description of the encoder in a folder.

    Raises:
        BackboneError: If a file is missing or invalid, or the encoder is of an unsupported kind.
    """
    content = _json(folder / CONFIG, "Download it with the weights; it describes the architecture.")
    if "auto_map" in content:
        raise BackboneError(
            f"{folder / CONFIG} names Python code that computes the encoder (auto_map), which bhsearch does not run. "
            f"Supported are the model types {', '.join(_MODEL_TYPES)} of transformers and timm's VisionTransformer "
            "without code of their own."
        )
    if "model_type" in content:
        return _of_transformers(folder, content)
    if "architecture" in content:
        return _of_timm(folder, content)
    raise BackboneError(
        f"{folder / CONFIG} states neither model_type (transformers: {', '.join(_MODEL_TYPES)}) nor architecture "
        "(timm), so the encoder is unknown. Give one of them there."
    )


def _of_transformers(folder: Path, content: Mapping[str, Any]) -> EncoderConfig:
    file, model_type = folder / CONFIG, content["model_type"]
    if model_type not in _MODEL_TYPES:
        raise BackboneError(
            f"The model_type in {file} must be one of {', '.join(_MODEL_TYPES)}, but is {model_type!r}. For timm's "
            "vision transformers, use the folder whose config.json states architecture."
        )
    width = _count(content, "hidden_size", file)
    is_vit = model_type == "vit"
    hidden = _count(content, "intermediate_size", file) if is_vit else None
    mean, deviation = _of_preprocessor(folder)
    return EncoderConfig(
        naming=TRANSFORMERS,
        width=width,
        depth=_count(content, "num_hidden_layers", file),
        n_heads=_count(content, "num_attention_heads", file),
        hidden=hidden,
        image_size=_square(content, "image_size", file),
        patch=_square(content, "patch_size", file),
        activation=_activation(content.get("hidden_act", "gelu"), "hidden_act", file),
        gate_activation="silu",
        epsilon=_number(content, "layer_norm_eps", 1e-12 if is_vit else 1e-6, file),
        n_registers=_count(content, "num_register_tokens", file) if model_type.endswith("registers") else 0,
        layer_scale=not is_vit,
        antialias=model_type.endswith("registers"),
        pooling="cls",
        mean=mean,
        deviation=deviation,
        licence=licence_of(folder, content),
    )


def _of_timm(folder: Path, content: Mapping[str, Any]) -> EncoderConfig:
    file, architecture = folder / CONFIG, str(content["architecture"])
    named = _ARCHITECTURE.fullmatch(architecture)
    if named is None:
        raise BackboneError(
            f"The architecture in {file} must be a plain vision transformer of timm, such as vit_large_patch16_224, "
            f"but is {architecture!r}."
        )
    arguments = {name: value for name, value in (content.get("model_args") or {}).items() if value is not None}
    wrong = [name for name, value in arguments.items() if not _is_built(name, value)]
    if wrong:
        raise BackboneError(
            f"model_args in {file} has {', '.join(f'{name} = {arguments[name]!r}' for name in wrong)}, which bhsearch "
            "does not build."
        )
    cfg = content.get("pretrained_cfg") or content  # older files have its keys at the top
    mean, deviation = (_colours(cfg, key, file, f'"pretrained_cfg": {{"{key}": [R, G, B]}}') for key in ("mean", "std"))
    _check_range(mean, deviation, 1.0, ("mean", "std"), file)
    if "input_size" in cfg and "img_size" not in arguments:
        arguments["img_size"] = cfg["input_size"][-1]
    if "global_pool" in content:
        arguments["global_pool"] = content["global_pool"]
    act_layer = arguments.get("act_layer")
    return EncoderConfig(
        naming=TIMM,
        width=_count(arguments, "embed_dim", file) if "embed_dim" in arguments else None,
        depth=_count(arguments, "depth", file) if "depth" in arguments else None,
        n_heads=_timm_heads(arguments, named, file),
        hidden=None,
        image_size=_square(arguments, "img_size", file) if "img_size" in arguments else None,
        patch=_square(arguments, "patch_size", file) if "patch_size" in arguments else None,
        activation=_activation(act_layer or "gelu", "act_layer", file),
        gate_activation=_activation(act_layer or "silu", "act_layer", file),
        epsilon=1e-6,
        n_registers=_count(arguments, "reg_tokens", file, least=0) if "reg_tokens" in arguments else None,
        layer_scale=bool(arguments["init_values"]) if "init_values" in arguments else None,
        antialias=True,
        pooling=_timm_pooling(arguments.get("global_pool", "token"), file),
        mean=mean,
        deviation=deviation,
        licence=licence_of(folder, content),
    )


def _is_built(name: str, value: Any) -> bool:
    """Return whether the network that is built here has this value of an argument of timm's VisionTransformer."""
    return name in _FREE_ARGUMENTS or str(value).rpartition(".")[2].lower() in _FIXED_ARGUMENTS.get(name, ())


def _timm_heads(arguments: Mapping[str, Any], named: re.Match[str], file: Path) -> int:
    if "num_heads" in arguments:
        return _count(arguments, "num_heads", file)
    size = named[1]
    if size not in _HEADS:
        raise BackboneError(
            f"{file} does not state the number of attention heads, which no tensor shows. Give it there: "
            '"model_args": {"num_heads": N}.'
        )
    return _GIANT_DINOV2_HEADS if size == "giant" and named[4] == "dinov2" else _HEADS[size]


def _timm_pooling(global_pool: Any, file: Path) -> str:
    """Return the pooling of timm's name; without pooling, both kinds of token are used, as their publishers advise."""
    pooling = {"token": "cls", "avg": "mean", "": "cls+mean"}.get(global_pool)
    if pooling is None:
        raise BackboneError(
            f'global_pool in {file} must be "token", "avg" or "" (no pooling), but is {global_pool!r}. Another pooling '
            "needs weights of its own, which bhsearch does not build."
        )
    return pooling


def _of_preprocessor(folder: Path) -> tuple[Colours, Colours]:
    """Return mean and standard deviation, for RGB in 0..1, of a preprocessor of transformers."""
    file = folder / PREPROCESSING
    example = '{"image_mean": [R, G, B], "image_std": [R, G, B]} for RGB in 0..1'
    content = _json(file, f"Download it, or write it with the mean and deviation that the encoder expects: {example}.")
    is_scaled = content.get("do_rescale") is not False
    factor = _number(content, "rescale_factor", 1 / 255, file) * 255 if is_scaled else 255.0
    if content.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1 / factor,) * 3
    mean, deviation = (_colours(content, key, file, f'"{key}": [R, G, B]') for key in ("image_mean", "image_std"))
    _check_range(mean, deviation, factor, ("image_mean", "image_std"), file, f": {example}")
    return tuple(m / factor for m in mean), tuple(d / factor for d in deviation)  # type: ignore[return-value]


def _check_range(
    mean: Colours, deviation: Colours, most: float, keys: tuple[str, str], file: Path, example: str = ""
) -> None:
    """Check that mean and standard deviation are possible for values from 0 to `most`."""
    if not all(0 <= value <= most for value in mean) or not all(0 < value <= most for value in deviation):
        raise BackboneError(
            f"{keys[0]} in {file} must be from 0 to {most:g} and {keys[1]} above 0 and at most {most:g}, but they are "
            f"{list(mean)} and {list(deviation)}. Give the values with which the encoder was trained{example}."
        )


def licence_of(folder: Path, content: Mapping[str, Any]) -> str:
    """Return the licence from the front matter of the README, or else from the configuration."""
    readme = folder / README
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
        stated = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)\s*$", front[1], re.MULTILINE)) if front else {}
        name = stated.get("license_name") if stated.get("license", "other") == "other" else stated["license"]
        if stated:
            return str(name or stated.get("license", "")).strip("'\"")
    in_cfg = content.get("pretrained_cfg")
    return str(content.get("license") or (in_cfg.get("license") if isinstance(in_cfg, dict) else "") or "")


def _json(file: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError as error:
        raise BackboneError(f"There is no {file.name} in {file.parent}. {remedy}") from error
    except (OSError, ValueError) as error:
        raise BackboneError(f"Cannot read {file} as JSON: {error}. Download it again.") from error
    return content


def _count(content: Mapping[str, Any], key: str, file: Path, least: int = 1) -> int:
    value = content.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        but = "is missing" if value is None else f"is {value!r}"
        raise BackboneError(f"{key} in {file} must be a whole number of at least {least}, but {but}.")
    return value


def _number(content: Mapping[str, Any], key: str, default: float, file: Path) -> float:
    value = content.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
        raise BackboneError(f"{key} in {file} must be a number between 0 and 1, but is {value!r}.")
    return float(value)


def _square(content: Mapping[str, Any], key: str, file: Path) -> int:
    """Return the side of a square, which may also be stated as a pair of equal sides."""
    value = content.get(key)
    if isinstance(value, list) and len(value) == 2:
        if value[0] != value[1]:
            raise BackboneError(f"{key} in {file} must be a square, but is {value[0]} x {value[1]}.")
        value = value[0]
    return _count({key: value}, key, file)


def _colours(content: Mapping[str, Any], key: str, file: Path, example: str) -> Colours:
    value = content.get(key)
    is_right = isinstance(value, (list, tuple)) and len(value) == 3
    if not is_right or not all(isinstance(number, (int, float)) for number in value):  # type: ignore[union-attr]
        raise BackboneError(
            f"{key} in {file} must be three numbers, one per channel, but is {value!r}. Give the values with which the "
            f"encoder was trained: {example}."
        )
    red, green, blue = map(float, value)  # type: ignore[arg-type]
    return red, green, blue


def _activation(name: Any, key: str, file: Path) -> str:
    found = _ACTIVATIONS.get(str(name).rpartition(".")[2].lower())
    if found is None:
        raise BackboneError(f"{key} in {file} must be one of {', '.join(_ACTIVATIONS)}, but is {name!r}.")
    return found
