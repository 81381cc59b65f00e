"""Deployed models of encoders that are no Keras networks: resize, views, encoder, heads, calibration in one graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bhsearch.errors import RunError
from bhsearch.models.augmentation.base import is_plugin_view
from bhsearch.models.augmentation.cached_views import apply_view
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.files.kind import encoder_of
from bhsearch.models.graphs.onnx_graph import OnnxGraph
from bhsearch.models.graphs.openvino_graph import OpenvinoGraph
from bhsearch.models.graphs.tensor import GraphTensor
from bhsearch.models.resize import grid_of
from bhsearch.models.training.heads import Heads

IMAGE, FEATURES, UNCALIBRATED, PROBABILITY = "image", "features", "uncalibrated", "probability"
_EPS = 1e-7  # bound of clipped probabilities, as in `models.calibrated`
AnyGraph = OnnxGraph | OpenvinoGraph


def deployed_graph(backbone: Backbone, mode: str, views: Sequence[str], heads: Heads, link: str) -> AnyGraph:
    """Return the graph of a trial's model, which computes the same as the networks of `inference_model.ModelPool`.

    Args:
        backbone: Backbone that is no Keras network.
        mode: Resize mode, see `resize.resize_images`.
        views: Views over which probabilities are averaged.
        heads: Heads over which probabilities are averaged, one per fold and repeat.
        link: Name of the link function of the task.

    Returns:
        A graph from uint8, `image` of shape (batch, height, width, 3), to float32, `probability` of shape (batch, 1).
        The tensor `features` in it is the output of the encoder.

    Raises:
        BackboneError: If the files of the backbone have changed.
        RunError: If a view or the link function has no operations in graphs.
    """
    if any(map(is_plugin_view, views)) or link != "sigmoid":
        raise RunError(
            f"A model with the backbone {backbone.name!r} cannot contain the views {', '.join(views)} or the link "
            f"{link}: views of other packages are Keras operations. Leave their policy out, or use a Keras backbone."
        )
    encoder = encoder_of(backbone)
    graph = encoder.graph()
    images = graph.start(IMAGE, np.uint8, (None, None, None, 3))
    seen = resize(graph, images, mode, encoder.size)
    if len(views) > 1:
        seen = graph.concatenate([apply_view(seen, view) for view in views], axis=0)
    features = graph.name(encoder.features(graph, seen), FEATURES)
    n_features, n_models, n_hidden = heads.kernel.shape
    n_tiles = int(np.prod(grid_of(mode)))
    if n_tiles > 1:
        features = graph.mean(graph.reshape(features, (-1, n_tiles, n_features)), axis=1)
    hidden = graph.matmul(features, heads.kernel.reshape(n_features, -1)) + heads.bias.reshape(-1)
    if not heads.linear:
        hidden = graph.relu(hidden)
    # Products with matrices, since OpenVINO 2026.4 adds wrong biases to sums over an axis that disappears.
    top = np.zeros((n_models, n_hidden, n_models), np.float32)
    top[np.arange(n_models), :, np.arange(n_models)] = heads.output_weights
    by_fold = graph.sigmoid(graph.matmul(hidden, top.reshape(-1, n_models)) + heads.output_bias)
    probability = graph.matmul(by_fold, np.full((n_models, 1), 1 / n_models, np.float32))
    if len(views) > 1:
        by_view = graph.reshape(probability, (len(views), -1, 1))
        probability = graph.mean(by_view, axis=0)
    graph.finish(graph.name(probability, PROBABILITY))
    return graph


def calibrate(graph: AnyGraph, slope: float, offset: float) -> None:
    """Append a linear calibration of the logit to a graph, as `models.calibrated.calibrated` does for Keras networks.

    Args:
        graph: Graph from `deployed_graph`; its result is renamed to `uncalibrated`.
        slope: Factor on the logit, above 0.
        offset: Constant added to the scaled logit.

    Raises:
        ValueError: If the slope is not positive, or slope or offset are not finite.
    """
    if not (slope > 0 and math.isfinite(slope) and math.isfinite(offset)):
        raise ValueError(f"`0 < slope` and a finite offset must hold, but got {slope=}, {offset=}.")
    before = graph.name(graph.result(), UNCALIBRATED)
    inside = graph.clip(before, _EPS, 1.0 - _EPS)
    logit = graph.log(inside) - graph.log(1.0 - inside)
    graph.finish(graph.name(graph.sigmoid(logit * slope + offset), PROBABILITY))


def resize(graph: AnyGraph, images: GraphTensor, mode: str, size: int) -> GraphTensor:
    """Resize a batch of images as `resize.resize_images` does, by matrix products whose weights depend on their size.

    Args:
        graph: The graph.
        images: uint8 RGB. Shape (batch, height, width, 3).
        mode: Resize mode.
        size: Side of the resized images or tiles in pixels.

    Returns:
        Integers in 0..255 as float32. Shape (batch * n_tiles, size, size, 3).
    """
    grid = grid_of(mode)
    n_rows, n_columns = grid[0] * size, grid[1] * size
    height, width = graph.side(images, 1), graph.side(images, 2)
    down, across = height, width
    if mode != "squash":
        down = graph.maximum(graph.minimum(height, graph.floor(width * n_rows / n_columns)), 1.0)
        across = graph.maximum(graph.minimum(width, graph.floor(height * n_columns / n_rows)), 1.0)
    by_row = _resize_weights(graph, height, down, n_rows)
    by_column = _resize_weights(graph, width, across, n_columns)
    planes = graph.transpose(graph.cast(images, np.float32), (0, 3, 1, 2))
    resized = graph.matmul(graph.matmul(by_row, planes), graph.transpose(by_column, (1, 0)))
    whole = graph.clip(graph.round(resized), 0.0, 255.0)
    if grid == (1, 1):
        return GraphTensor(graph, graph.transpose(whole, (0, 2, 3, 1)).value, (None, size, size, 3))
    cut = graph.reshape(whole, (-1, 3, grid[0], size, grid[1], size))
    tiles = graph.transpose(cut, (0, 2, 4, 3, 5, 1))
    return graph.reshape(tiles, (-1, size, size, 3))


def _resize_weights(graph: AnyGraph, length: GraphTensor, kept: GraphTensor, n_out: int) -> Any:
    """Return the weights of the input pixels for each output pixel of one axis, with cropped margins.

    Args:
        graph: The graph.
        length: Number of input pixels. Shape ().
        kept: Number of input pixels between the cropped margins. Shape ().
        n_out: Number of output pixels.

    Returns:
        Weights; each row sums to 1. Shape (n_out, length).
    """
    start = graph.floor((length - kept) / 2.0)
    ratio = 1.0 / (n_out / kept)  # rounded as in TensorFlow; otherwise some pixels differ by one grey level
    position = graph.positions(length)
    centre = (np.arange(n_out, dtype=np.float32)[:, None] + 0.5) * ratio - 0.5 + start
    away = graph.abs(position - centre)
    triangle = graph.maximum(1.0 - away / graph.maximum(ratio, 1.0), 0.0)
    # Positions are integers: 1 from `start` to before `start + kept`, and 0 outside.
    seen = graph.clip(position - start + 1.0, 0.0, 1.0) * graph.clip(start + kept - position, 0.0, 1.0)
    weight = triangle * seen
    return weight / graph.sum(weight, axis=1, keepdims=True)
