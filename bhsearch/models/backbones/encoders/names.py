"""Names of the tensors of vision transformers in the files of transformers and timm, and here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bhsearch.errors import BackboneError

# Names here, outside blocks: class_token, registers, positions, patch, norm, pooled_norm. In a block: norm1, qkv (or
# query, key and value), projection, scale1, norm2, fc1 (or gate and up), fc2, scale2.


@dataclass(frozen=True)
class Naming:
    """Names of one library.

    Attributes:
        prefixes: Prefixes of all names in files of networks with a head.
        blocks: Prefixes of the number of a block.
        names: Name here of each layer and tensor outside blocks, by its name in the file.
        in_block: Name here of each layer and tensor within a block, by its name in the file.
        ignored: Prefixes of tensors that do not contribute to the features: heads, and the mask of pretraining.
    """

    prefixes: tuple[str, ...]
    blocks: tuple[str, ...]
    names: dict[str, str]
    in_block: dict[str, str]
    ignored: tuple[str, ...]


TRANSFORMERS = Naming(
    prefixes=("vit.", "dinov2.", "dinov2_with_registers."),
    blocks=("encoder.layer.", "layers."),
    names={
        "embeddings.cls_token": "class_token",
        "embeddings.register_tokens": "registers",
        "embeddings.position_embeddings": "positions",
        "embeddings.patch_embeddings.projection": "patch",
        "layernorm": "norm",
    },
    in_block={
        # transformers 5
        "attention.q_proj": "query",
        "attention.k_proj": "key",
        "attention.v_proj": "value",
        "attention.o_proj": "projection",
        "mlp.gate_proj": "gate",
        "mlp.up_proj": "up",
        "mlp.down_proj": "fc2",
        # transformers 4
        "attention.attention.query": "query",
        "attention.attention.key": "key",
        "attention.attention.value": "value",
        "attention.output.dense": "projection",
        "intermediate.dense": "fc1",
        "output.dense": "fc2",
        "mlp.weights_in": "fc1",
        "mlp.weights_out": "fc2",
        # both
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
        "layer_scale1.lambda1": "scale1",
        "layer_scale2.lambda1": "scale2",
    },
    ignored=("embeddings.mask_token", "pooler.", "classifier."),
)
TIMM = Naming(
    prefixes=(),
    blocks=("blocks.",),
    names={
        "cls_token": "class_token",
        "reg_token": "registers",
        "pos_embed": "positions",
        "patch_embed.proj": "patch",
        "norm": "norm",
        "fc_norm": "pooled_norm",
    },
    in_block={
        "norm1": "norm1",
        "attn.qkv": "qkv",
        "attn.proj": "projection",
        "ls1.gamma": "scale1",
        "norm2": "norm2",
        "mlp.fc1": "fc1",
        "mlp.fc1_g": "gate",
        "mlp.fc1_x": "up",
        "mlp.fc2": "fc2",
        "ls2.gamma": "scale2",
    },
    ignored=("head.", "mask_token"),
)


def translate(naming: Naming, names: Iterable[str], where: str) -> dict[str, str]:
    """Return the name in the file of each tensor, by its name here, such as `2.norm1.weight`.

    Args:
        naming: Names of the library.
        names: Names in the file.
        where: Where the tensors are, for messages.

    Raises:
        BackboneError: If a tensor is unknown, or two tensors have the same meaning.
    """
    ours: dict[str, str] = {}
    unknown = []
    for name in sorted(names):
        prefix = next((prefix for prefix in naming.prefixes if name.startswith(prefix)), "")
        short = name.removeprefix(prefix)
        if short.startswith(naming.ignored):
            continue
        own = _own_name(naming, short)
        if own is None:
            unknown.append(name)
        elif own in ours:
            raise BackboneError(f"The tensors {ours[own]} and {name} in {where} are the same part of the encoder.")
        else:
            ours[own] = name
    if unknown:
        shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise BackboneError(
            f"{where} has tensors that are no part of a vision transformer as bhsearch builds it: {shown}. Its "
            "features would be wrong without them, so this encoder cannot be used."
        )
    return ours


def _own_name(naming: Naming, name: str) -> str | None:
    """Return the name here of a tensor; None if it is unknown."""
    for prefix in naming.blocks:
        found = re.fullmatch(rf"{re.escape(prefix)}(0|[1-9]\d*)\.(.+)", name)
        if found is not None:
            inner = _looked_up(naming.in_block, found[2])
            return f"{found[1]}.{inner}" if inner is not None else None
    return _looked_up(naming.names, name)


def _looked_up(names: dict[str, str], name: str) -> str | None:
    if name in names:
        return names[name]
    layer, _, part = name.rpartition(".")
    return f"{names[layer]}.{part}" if layer in names and part in ("weight", "bias") else None
