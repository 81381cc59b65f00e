"""Vision transformers as Keras networks of built-in layers, with the weights of published encoders.

Layer scale is folded into the layer before it, and mean tokens, position embeddings and the bias of the patches are one
bias per token, so that every weight belongs to a built-in layer and can be trained.

Source:
    Dosovitskiy et al. 2021 (ViT), Touvron et al. 2021 (layer scale), Shazeer 2020 (SwiGLU), Oquab et al. 2024 (DINOv2),
    Darcet et al. 2024 (registers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.backbones.encoders.architecture import Architecture
from bhsearch.models.backbones.encoders.config import EncoderConfig
from bhsearch.models.backbones.encoders.positions import resample

Array = npt.NDArray[np.float32]
Read = Callable[[str], Array]  # from the name of a tensor to its values


def build(config: EncoderConfig, architecture: Architecture, read: Read, pooling: str, size: int, name: str) -> Any:
    """Build an encoder with its weights.

    Args:
        config: Description of the encoder.
        architecture: Architecture of the encoder.
        read: Returns a tensor by its name here; see `names`.
        pooling: `cls` for the class token, `mean` for the mean of the patches, `cls+mean` for both.
        size: Side of the images in pixels, a multiple of the side of a patch.
        name: Name of the network.

    Returns:
        A Keras network from float32 RGB in 0..255, shape (batch, size, size, 3), to features, shape (batch, width), or
        (batch, 2 * width) for `cls+mean`.
    """
    import keras
    from keras import ops

    images = keras.Input((size, size, 3), dtype="float32")
    tokens = _embedded(_patches(images, config, size // architecture.patch), architecture, config.antialias, read)
    activation = config.gate_activation if architecture.gates else config.activation
    for number in range(architecture.depth):
        tokens = tokens + _attention(tokens, architecture, config.epsilon, read, number)
        tokens = tokens + _perceptron(tokens, architecture, config.epsilon, activation, read, number)
    norm = keras.layers.LayerNormalization(epsilon=config.epsilon, name="norm")
    if architecture.norm == "norm":
        tokens = norm(tokens)
    pooled = []
    if "cls" in pooling:
        pooled.append(tokens[:, 0])
    if "mean" in pooling:
        pooled.append(ops.mean(tokens[:, architecture.n_prefix :], axis=1))
    if architecture.norm != "norm":
        pooled = [norm(token) for token in pooled]
    norm.set_weights([read(f"{architecture.norm}.weight"), read(f"{architecture.norm}.bias")])
    features = ops.concatenate(pooled, axis=-1) if len(pooled) > 1 else pooled[0]
    network = keras.Model(images, features, name=name)
    for layer in network.layers:  # not of the network itself, which could then not be trained by layers
        layer.trainable = False
    return network


def _patches(images: Any, config: EncoderConfig, side: int) -> Any:
    """Scale images and cut them into patches. Shape (batch, side * side, patch * patch * 3).

    The images are cut before they are scaled: then no array but the input is an image, and saliency does not take one
    for a convolutional map.
    """
    from keras import layers, ops

    patch = images.shape[1] // side
    cut = ops.reshape(images, (-1, side, patch, side, patch, 3))  # with -1, programs of OpenVINO take any batch
    factors = [1 / (255 * d) for d in config.deviation]
    offsets = [-m / d for m, d in zip(config.mean, config.deviation, strict=True)]
    scaled = layers.Rescaling(factors, offset=offsets, name="scale")(cut)
    return ops.reshape(ops.transpose(scaled, (0, 1, 3, 2, 4, 5)), (-1, side**2, 3 * patch**2))


def _embedded(patches: Any, architecture: Architecture, antialias: bool, read: Read) -> Any:
    """Project patches to tokens, and put the class token and the registers before them.

    These tokens are projections of empty patches, so that they consist of the bias of their place.
    """
    from keras import layers, ops

    width, n_prefix, grid = architecture.width, architecture.n_prefix, architecture.grid
    side = round(patches.shape[1] ** 0.5)
    positions, n_embedded = read("positions")[0], architecture.n_embedded
    prefix = np.zeros((n_prefix, width), np.float32)
    if architecture.class_token:
        prefix[:1] += read("class_token")[0]
    if architecture.n_registers:
        prefix[n_prefix - architecture.n_registers :] += read("registers")[0]
    prefix[:n_embedded] += positions[:n_embedded]
    places = resample(positions[n_embedded:].reshape(grid, grid, width), side, antialias).reshape(-1, width)
    bias = np.concatenate([prefix, places + read("patch.bias")])
    kernel = read("patch.weight").transpose(2, 3, 1, 0).reshape(-1, width)
    layer = layers.EinsumDense(
        "btp,pd->btd", output_shape=(len(bias), width), bias_axes="td", kernel_initializer="zeros", name="patches"
    )
    tokens = layer(ops.pad(patches, ((0, 0), (n_prefix, 0), (0, 0))))
    layer.set_weights([kernel, bias])
    return tokens


def _attention(tokens: Any, architecture: Architecture, epsilon: float, read: Read, number: int) -> Any:
    """Return the output of a block's attention, without the residual connection. Shape (batch, n_tokens, width)."""
    from keras import ops

    width, n_heads = architecture.width, architecture.n_heads
    n_tokens, length = tokens.shape[1], width // n_heads
    names = ("qkv",) if architecture.packed else ("query", "key", "value")
    kernel = np.concatenate([read(f"{number}.{name}.weight") for name in names])
    bias = np.concatenate([read(f"{number}.{name}.bias") for name in names]) if architecture.qkv_bias else None
    normed = _normed(tokens, epsilon, read, f"{number}.norm1")
    qkv = ops.reshape(_dense(normed, kernel, bias, f"block{number}_qkv"), (-1, n_tokens, 3, n_heads, length))
    query, key, value = (qkv[:, :, part] for part in range(3))
    query, value = (ops.transpose(part, (0, 2, 1, 3)) for part in (query, value))
    scores = ops.matmul(query * length**-0.5, ops.transpose(key, (0, 2, 3, 1)))
    mixed = ops.matmul(ops.softmax(scores, axis=-1), value)
    joined = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, n_tokens, width))
    kernel, bias = _scaled(architecture, read, number, "projection", "scale1")
    return _dense(joined, kernel, bias, f"block{number}_projection")


def _perceptron(
    tokens: Any, architecture: Architecture, epsilon: float, activation: str, read: Read, number: int
) -> Any:
    """Return the output of a block's hidden layer, without the residual connection. Shape (batch, n_tokens, width)."""
    names = ("gate", "up") if architecture.gates == "separate" else ("fc1",)
    kernel, bias = (np.concatenate([read(f"{number}.{name}.{part}") for name in names]) for part in ("weight", "bias"))
    normed = _normed(tokens, epsilon, read, f"{number}.norm2")
    hidden = _dense(normed, kernel, bias, f"block{number}_hidden")
    if architecture.gates:
        units = architecture.hidden
        hidden = _activated(hidden[..., :units], activation) * hidden[..., units:]
    else:
        hidden = _activated(hidden, activation)
    kernel, bias = _scaled(architecture, read, number, "fc2", "scale2")
    return _dense(hidden, kernel, bias, f"block{number}_output")


def _scaled(architecture: Architecture, read: Read, number: int, name: str, scale: str) -> tuple[Array, Array]:
    """Return the kernel, shape (width, n_in), and the bias, shape (width,), of a layer, times its layer scale."""
    factor = read(f"{number}.{scale}") if architecture.layer_scale else np.ones(1, np.float32)
    return read(f"{number}.{name}.weight") * factor[:, None], read(f"{number}.{name}.bias") * factor


def _dense(values: Any, kernel: Array, bias: Array | None, name: str) -> Any:
    """Apply a layer with a kernel of shape (n_out, n_in), as PyTorch stores it."""
    from keras import layers

    layer = layers.Dense(len(kernel), use_bias=bias is not None, kernel_initializer="zeros", name=name)
    output = layer(values)
    layer.set_weights([kernel.T] if bias is None else [kernel.T, bias])
    return output


def _normed(tokens: Any, epsilon: float, read: Read, name: str) -> Any:
    from keras import layers

    layer = layers.LayerNormalization(epsilon=epsilon, name=f"block{name}".replace(".", "_"))
    output = layer(tokens)
    layer.set_weights([read(f"{name}.weight"), read(f"{name}.bias")])
    return output


def _activated(values: Any, activation: str) -> Any:
    from keras import ops

    if activation == "quick_gelu":
        return values * ops.sigmoid(1.702 * values)
    if activation.startswith("gelu"):
        return ops.gelu(values, approximate=activation == "gelu_tanh")
    return getattr(ops, activation)(values)  # relu or silu
