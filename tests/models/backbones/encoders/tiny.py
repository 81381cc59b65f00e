"""Tiny encoders with random weights in the formats of transformers and timm, and their features computed with NumPy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WIDTH, DEPTH, HEADS, PATCH, GRID, HIDDEN, REGISTERS = 12, 2, 3, 8, 4, 20, 2
SIDE = PATCH * GRID  # pixels
MEAN, DEVIATION = (0.7, 0.55, 0.68), (0.2, 0.25, 0.18)
_ERF = np.vectorize(erf)


@dataclass
class Tiny:
    """A tiny encoder: its tensors under names of their meaning, and the two libraries' files of it.

    Attributes:
        gated: Whether hidden layers are gated.
        registers: Number of register tokens.
        scaled: Whether there is layer scale.
        class_token: Whether there is a class token.
        embedded: Number of tokens before the patches with a position embedding.
        seed: Random seed of the weights.
    """

    gated: bool = False
    registers: int = 0
    scaled: bool = False
    class_token: bool = True
    embedded: int = 1
    seed: int = 0
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)

        def draw(name: str, *shape: int, size: float = 0.3) -> None:
            self.tensors[name] = random.normal(0, size, shape).astype(np.float32)

        def layer(name: str, n_out: int, *n_in: int) -> None:
            draw(f"{name}.weight", n_out, *n_in)
            draw(f"{name}.bias", n_out)

        layer("patch", WIDTH, 3, PATCH, PATCH)
        draw("positions", 1, self.embedded + GRID**2, WIDTH)
        if self.class_token:
            draw("class_token", 1, 1, WIDTH)
        if self.registers:
            draw("registers", 1, self.registers, WIDTH)
        layer("norm", WIDTH)
        for k in range(DEPTH):
            layer(f"{k}.norm1", WIDTH)
            for part in ("query", "key", "value", "projection"):
                layer(f"{k}.{part}", WIDTH, WIDTH)
            layer(f"{k}.norm2", WIDTH)
            for part in ("gate", "up") if self.gated else ("fc1",):
                layer(f"{k}.{part}", HIDDEN, WIDTH)
            layer(f"{k}.fc2", WIDTH, HIDDEN)
            if self.scaled:
                draw(f"{k}.scale1", WIDTH)
                draw(f"{k}.scale2", WIDTH)

    # -- what the paper says, in double precision ----------------------------------------------------------------------

    def tokens(self, images: np.ndarray, epsilon: float) -> np.ndarray:
        """Tokens of uint8 images of the own size. Shape (n_images, n_tokens, width)."""
        t = {name: value.astype(np.float64) for name, value in self.tensors.items()}
        pixels = (images / 255 - MEAN) / DEVIATION
        embedded = []
        for image in pixels:
            rows = [
                np.einsum("yxc,dcyx->d", image[i : i + PATCH, j : j + PATCH], t["patch.weight"]) + t["patch.bias"]
                for i in range(0, SIDE, PATCH)
                for j in range(0, SIDE, PATCH)
            ]
            before = [t["class_token"][0, 0]] if self.class_token else []
            before += list(t["registers"][0]) if self.registers else []
            positions = t["positions"][0]
            before = [token + (positions[k] if k < self.embedded else 0) for k, token in enumerate(before)]
            embedded.append([*before, *(np.array(rows) + positions[self.embedded :])])
        x = np.array(embedded)

        def normed(values: np.ndarray, name: str) -> np.ndarray:
            away = values - values.mean(-1, keepdims=True)
            spread = np.sqrt((away**2).mean(-1, keepdims=True) + epsilon)
            return away / spread * t[f"{name}.weight"] + t[f"{name}.bias"]

        def linear(values: np.ndarray, name: str) -> np.ndarray:
            return values @ t[f"{name}.weight"].T + t[f"{name}.bias"]

        for k in range(DEPTH):
            y = normed(x, f"{k}.norm1")
            q, key, v = (linear(y, f"{k}.{part}") for part in ("query", "key", "value"))
            mixed = np.zeros_like(x)
            length = WIDTH // HEADS
            for head in range(HEADS):
                at = slice(head * length, (head + 1) * length)
                scores = q[..., at] @ key[..., at].swapaxes(1, 2) / np.sqrt(length)
                weight = np.exp(scores - scores.max(-1, keepdims=True))
                mixed[..., at] = weight / weight.sum(-1, keepdims=True) @ v[..., at]
            x = x + linear(mixed, f"{k}.projection") * t.get(f"{k}.scale1", 1.0)
            y = normed(x, f"{k}.norm2")
            if self.gated:
                gate = linear(y, f"{k}.gate")
                hidden = gate / (1 + np.exp(-gate)) * linear(y, f"{k}.up")
            else:
                hidden = linear(y, f"{k}.fc1")
                hidden = hidden * 0.5 * (1 + _ERF(hidden / np.sqrt(2)))
            x = x + linear(hidden, f"{k}.fc2") * t.get(f"{k}.scale2", 1.0)
        return normed(x, "norm")

    def features(self, images: np.ndarray, epsilon: float) -> dict[str, np.ndarray]:
        """Class token and mean of the patches."""
        tokens = self.tokens(images, epsilon)
        found = {"mean": tokens[:, int(self.class_token) + self.registers :].mean(axis=1)}
        return found | ({"cls": tokens[:, 0]} if self.class_token else {})

    # -- files ---------------------------------------------------------------------------------------------------------

    def write_transformers(self, folder: Path, model_type: str, version: int = 5, prefix: str = "") -> Path:
        """Write the encoder as transformers 4 or 5 does: `vit`, `dinov2` or `dinov2_with_registers`."""
        is_vit = model_type == "vit"
        inner = _VIT[version] if is_vit else _DINOV2[version]
        block = "layers" if is_vit and version == 5 else "encoder.layer"
        content = {}
        for name, value in self.tensors.items():
            number, _, rest = name.partition(".")
            if number.isdigit():
                part, _, kind = rest.partition(".")
                content[f"{prefix}{block}.{number}.{inner[part]}" + (f".{kind}" if kind else "")] = value
            else:
                content[prefix + _OUTSIDE[number] + (f".{rest}" if rest else "")] = value
        for name in [name for name in content if self.gated and ".mlp.fc2." in name]:
            content[name.replace("fc2", "down_proj" if version == 5 else "weights_out")] = content.pop(name)
        if self.gated and version == 4:  # one layer, the gate first
            for k in range(DEPTH):
                for kind in ("weight", "bias"):
                    both = [content.pop(f"{prefix}{block}.{k}.{part}.{kind}") for part in ("gate", "up")]
                    content[f"{prefix}{block}.{k}.mlp.weights_in.{kind}"] = np.concatenate(both)
        if not is_vit:
            content[f"{prefix}embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)
        if prefix:
            content["classifier.weight"] = np.zeros((2, WIDTH), np.float32)
        config: dict[str, Any] = {
            "model_type": model_type, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
            "image_size": SIDE, "patch_size": PATCH, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
        }  # fmt: skip
        config |= {"intermediate_size": HIDDEN} if is_vit else {"use_swiglu_ffn": self.gated}
        config |= {"num_register_tokens": self.registers} if self.registers else {}
        write(folder, config, content)
        preprocessing = {"image_mean": MEAN, "image_std": DEVIATION, "do_normalize": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
        return folder

    def write_timm(self, folder: Path, global_pool: str = "token", norm: str = "norm", **arguments: Any) -> Path:
        """Write the encoder as timm does."""
        content = {}
        for name, value in self.tensors.items():
            number, _, rest = name.partition(".")
            if number.isdigit():
                part, _, kind = rest.partition(".")
                if part in _TIMM:
                    content[f"blocks.{number}.{_TIMM[part]}" + (f".{kind}" if kind else "")] = value
            else:
                own = norm if number == "norm" else _TIMM_OUTSIDE[number]
                content[own + (f".{rest}" if rest else "")] = value
        for k in range(DEPTH):
            for kind in ("weight", "bias"):
                qkv = [self.tensors[f"{k}.{part}.{kind}"] for part in ("query", "key", "value")]
                content[f"blocks.{k}.attn.qkv.{kind}"] = np.concatenate(qkv)
                if self.gated:
                    both = [self.tensors[f"{k}.{part}.{kind}"] for part in ("gate", "up")]
                    content[f"blocks.{k}.mlp.fc1.{kind}"] = np.concatenate(both)
        config = {
            "architecture": "vit_tiny_patch8_32", "num_classes": 0, "global_pool": global_pool,
            "model_args": {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "img_size": SIDE, **arguments},
            "pretrained_cfg": {"mean": MEAN, "std": DEVIATION, "input_size": [3, SIDE, SIDE]},
        }  # fmt: skip
        write(folder, config, content)
        return folder


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")


def changed(folder: Path, file: str = "config.json", **values: Any) -> None:
    """Change values of a JSON file; None removes them."""
    content = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def images_of(n_images: int = 3, side: int = SIDE, seed: int = 7) -> np.ndarray:
    """Random images. uint8, shape (n_images, side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n_images, side, side, 3)).astype(np.uint8)


_OUTSIDE = {
    "patch": "embeddings.patch_embeddings.projection",
    "positions": "embeddings.position_embeddings",
    "class_token": "embeddings.cls_token",
    "registers": "embeddings.register_tokens",
    "norm": "layernorm",
}
_NEW = {part: f"attention.{part[0]}_proj" for part in ("query", "key", "value")} | {"projection": "attention.o_proj"}
_OLD = {part: f"attention.attention.{part}" for part in ("query", "key", "value")} | {
    "projection": "attention.output.dense"
}
_VIT = {
    5: _NEW | {"norm1": "layernorm_before", "norm2": "layernorm_after", "fc1": "mlp.fc1", "fc2": "mlp.fc2"},
    4: _OLD
    | {"norm1": "layernorm_before", "norm2": "layernorm_after", "fc1": "intermediate.dense", "fc2": "output.dense"},
}
_BOTH = {"norm1": "norm1", "norm2": "norm2", "scale1": "layer_scale1.lambda1", "scale2": "layer_scale2.lambda1"}
_DINOV2 = {
    5: _NEW | _BOTH | {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "gate": "mlp.gate_proj", "up": "mlp.up_proj"},
    4: _OLD | _BOTH | {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "gate": "gate", "up": "up"},
}
_TIMM_OUTSIDE = {
    "patch": "patch_embed.proj",
    "positions": "pos_embed",
    "class_token": "cls_token",
    "registers": "reg_token",
}
_TIMM = {
    "norm1": "norm1",
    "projection": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
}
