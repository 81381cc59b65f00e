"""The architecture of a published vision transformer, from its configuration and the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt, prod

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.encoders.config import EncoderConfig
from bhsearch.models.backbones.encoders.names import TIMM

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """Architecture of a vision transformer.

    Attributes:
        width: Length of a token.
        depth: Number of blocks.
        n_heads: Number of attention heads.
        hidden: Units of the hidden layer of each block; units after gating if it is gated.
        patch: Side of a patch in pixels.
        grid: Side of the grid of position embeddings, in patches.
        class_token: Whether there is a class token.
        n_registers: Number of register tokens, which follow the class token.
        n_embedded: Number of tokens before the patches that have a position embedding.
        packed: Whether queries, keys and values are one layer in the file.
        qkv_bias: Whether queries, keys and values have a bias.
        gates: How hidden layers are gated: not at all (empty), with `packed` or with `separate` layers in the file.
        layer_scale: Whether the outputs of attention and hidden layers are scaled.
        norm: Name of the last layer normalisation: `norm` for all tokens, `pooled_norm` for the pooled tokens.
    """

    width: int
    depth: int
    n_heads: int
    hidden: int
    patch: int
    grid: int
    class_token: bool
    n_registers: int
    n_embedded: int
    packed: bool
    qkv_bias: bool
    gates: str
    layer_scale: bool
    norm: str

    @property
    def n_prefix(self) -> int:
        """Number of tokens before the patches."""
        return int(self.class_token) + self.n_registers

    @property
    def n_parameters(self) -> int:
        """Number of weights in the file."""
        return sum(prod(shape) for shape in self.shapes().values())

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of each tensor by its name here."""
        return dict(self._shapes())

    def _shapes(self) -> Iterator[tuple[str, Shape]]:
        w, h = self.width, self.hidden
        yield from _layer("patch", (w, 3, self.patch, self.patch))
        yield "positions", (1, self.n_embedded + self.grid**2, w)
        if self.class_token:
            yield "class_token", (1, 1, w)
        if self.n_registers:
            yield "registers", (1, self.n_registers, w)
        yield from _layer(self.norm, (w,))
        for number in range(self.depth):
            block = f"{number}."
            yield from _layer(f"{block}norm1", (w,))
            for name in ("qkv",) if self.packed else ("query", "key", "value"):
                yield from _layer(f"{block}{name}", (3 * w if self.packed else w, w), self.qkv_bias)
            yield from _layer(f"{block}projection", (w, w))
            yield from _layer(f"{block}norm2", (w,))
            for name in ("gate", "up") if self.gates == "separate" else ("fc1",):
                yield from _layer(f"{block}{name}", (2 * h if self.gates == "packed" else h, w))
            yield from _layer(f"{block}fc2", (w, h))
            if self.layer_scale:
                yield f"{block}scale1", (w,)
                yield f"{block}scale2", (w,)


def read_architecture(config: EncoderConfig, shapes: Mapping[str, Shape], names: Mapping[str, str]) -> Architecture:
    """Determine the architecture, and check the names and shapes of all tensors against it.

    Args:
        config: Description of the encoder.
        shapes: Shape of each tensor in the file, by its name in the file.
        names: Name in the file of each tensor, by its name here; see `names.translate`.

    Raises:
        BackboneError: If a tensor is missing, is left over, or has another shape than the description or the other
            tensors say.
    """
    found = {own: tuple(shapes[name]) for own, name in names.items()}
    width, _, patch, _ = _of_rank(found, "patch.weight", 4)
    blocks = {int(name.partition(".")[0]) for name in found if name[0].isdigit()}
    hidden = _of_rank(found, "0.fc2.weight", 2)[1]
    gates = "separate" if "0.gate.weight" in found else ""
    if not gates and _of_rank(found, "0.fc1.weight", 2)[0] == 2 * hidden:
        gates = "packed"
    class_token = "class_token" in found
    n_registers = config.n_registers
    if n_registers is None:
        n_registers = _of_rank(found, "registers", 3)[1] if "registers" in found else 0
    stated_patch = config.patch or patch
    grid, n_embedded = _grid(config, _of_rank(found, "positions", 3)[1], stated_patch, class_token, n_registers)
    architecture = Architecture(
        width=config.width or width,
        depth=config.depth or max(blocks) + 1,
        n_heads=config.n_heads,
        hidden=config.hidden or hidden,
        patch=stated_patch,
        grid=grid,
        class_token=class_token,
        n_registers=n_registers,
        n_embedded=n_embedded,
        packed="0.qkv.weight" in found,
        qkv_bias="0.qkv.bias" in found or "0.query.bias" in found,
        gates=gates,
        layer_scale="0.scale1" in found if config.layer_scale is None else config.layer_scale,
        norm="pooled_norm" if "pooled_norm.weight" in found else "norm",
    )
    if architecture.width % architecture.n_heads:
        raise BackboneError(
            f"The length of a token, {architecture.width}, must be a multiple of the number of attention heads, but "
            f"config.json states {architecture.n_heads} heads. Use the config.json that belongs to the weights."
        )
    _check(architecture.shapes(), found, names)
    return architecture


def _grid(config: EncoderConfig, n_positions: int, patch: int, class_token: bool, n_registers: int) -> tuple[int, int]:
    """Return the side of the grid of position embeddings, and the number of them that belong to other tokens.

    timm gives position embeddings to no token, to the class token, or to all tokens before the patches.
    """
    counts = {int(class_token)}
    if config.naming is TIMM:
        counts |= {0, int(class_token) + n_registers}
    numbers = [(n_positions - n, n) for n in sorted(counts) if n_positions > n]
    possible = [(isqrt(n_patches), n) for n_patches, n in numbers if isqrt(n_patches) ** 2 == n_patches]
    if config.image_size is not None:
        side = config.image_size // patch
        possible = [item for item in possible if item[0] == side]
        if not possible:
            raise BackboneError(
                f"There are {n_positions} position embeddings, but images of {config.image_size} pixels have "
                f"{side} x {side} patches of {patch} pixels. Correct the image size in config.json."
            )
    if len(possible) != 1:
        raise BackboneError(
            f"{n_positions} position embeddings do not show how many patches an image has. Give the size of the images "
            'in config.json: "model_args": {"img_size": PIXELS}.'
        )
    return possible[0]


def _check(expected: Mapping[str, Shape], found: Mapping[str, Shape], names: Mapping[str, str]) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise _missing(missing)
    left_over = [names[name] for name in found if name not in expected]
    if left_over:
        raise BackboneError(
            f"The encoder has {len(left_over)} tensors that its config.json does not provide for, such as "
            f"{left_over[0]}. Use the config.json that belongs to the weights."
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise BackboneError(
                f"The tensor {names[name]} must have the shape {shape}, but has {found[name]}. Use the config.json "
                "that belongs to the weights."
            )


def _missing(names: list[str]) -> BackboneError:
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return BackboneError(
        f"The files of the encoder lack the tensor {names[0]!r}, as bhsearch calls it{more}. Download all files."
    )


def _layer(name: str, shape: Shape, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _of_rank(found: Mapping[str, Shape], name: str, rank: int) -> Shape:
    if name not in found:
        raise _missing([name])
    if len(found[name]) != rank:
        raise BackboneError(f"The encoder's tensor {name!r} must have {rank} axes, but has the shape {found[name]}.")
    return found[name]
