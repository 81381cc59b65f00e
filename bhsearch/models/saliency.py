"""Saliency maps of deployed models.

Grad-CAM is used for networks whose output depends on a single last convolutional map. Input gradients are used for
fixed filters and for ensembles of fine-tuned networks, whose outputs depend on several maps. Models that are ONNX
graphs or OpenVINO models have no gradients; parts of their images are covered instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels
from bhsearch.models import backend
from bhsearch.models.calibrated import predict_images
from bhsearch.models.deployed_parts import RecordedCalls, is_network, uncalibrated_layer
from bhsearch.models.graphs.network import GraphNetwork
from bhsearch.models.graphs.occlusion import occlusion_map
from bhsearch.models.resize import grid_of

Heat = npt.NDArray[np.float32]

GRAD_CAM, INPUT_GRADIENT, OCCLUSION = "Grad-CAM", "input gradient", "occlusion"
_EPS = 1e-7  # bound of clipped probabilities, since the logits of 0 and 1 are infinite
_SMOOTHING_DIVISOR = 48  # standard deviation of the blur of input gradients: the side divided by this number
_FULL_SCALE_PERCENTILE = 99.5  # percentile scaled to 1, so that single pixels with high values do not dim the map


@dataclass(frozen=True, eq=False)
class Saliency:
    """Saliency map of one image.

    Attributes:
        seen: Resized RGB input of the backbone, with tiles joined; the image itself for occlusion. Shape (height,
            width, 3).
        heat: Contribution to the predicted class, 0 to 1. The shape is (height, width) for input gradients, and smaller
            otherwise: that of the convolutional map for Grad-CAM, and that of the covered cells for occlusion.
        probability: P(malignant) of the image, before calibration.
        method: `GRAD_CAM`, `INPUT_GRADIENT` or `OCCLUSION`.
    """

    seen: Pixels
    heat: Heat
    probability: float
    method: str


def explain(network: Any, images: Iterable[Pixels], mode: str, threshold: float = 0.5) -> list[Saliency]:
    """Compute the saliency map of each image.

    Args:
        network: Deployed model from `ModelPool.get` or a `.keras` file, with or without calibration, or a graph.
        images: RGB images of any sizes. Shape (height, width, 3) each.
        mode: Resize mode of the model, see `resize_images`.
        threshold: Uncalibrated probability from which an image is classified as malignant. The map shows the evidence
            for the predicted class.

    Raises:
        ValueError: If the network is not a deployed model.

    Source:
        Selvaraju et al. 2017 (Grad-CAM), Simonyan et al. 2014 (input gradient). Ours: maps of the first view only, with
        the sign of the predicted class.
    """
    if isinstance(network, GraphNetwork):
        return [_occluded(network, image, threshold) for image in images]
    parts = _split_model(network)
    return [_explain(parts, image, grid_of(mode), threshold) for image in images]


@dataclass(frozen=True)
class _ModelParts:
    """Deployed model, split into three functions at the array for which gradients are computed.

    Attributes:
        resize: Function from uint8 images to the backbone's input, which contains all tiles of all views.
        forward: Function from the backbone's input to the differentiated array, which is the last convolutional map
            for Grad-CAM and the input itself for input gradients.
        backward: Function from the differentiated array to probabilities, shape (batch, 1).
        method: `GRAD_CAM` or `INPUT_GRADIENT`.
    """

    resize: Callable[[Any], Any]
    forward: Callable[[Any], Any]
    backward: Callable[[Any], Any]
    method: str


def _explain(parts: _ModelParts, image: Pixels, grid: tuple[int, int], threshold: float) -> Saliency:
    from keras import ops

    n_tiles = int(np.prod(grid))
    tiles = parts.resize(image[None])
    maps = ops.convert_to_tensor(parts.forward(tiles))
    probability = float(np.asarray(parts.backward(maps)).ravel()[0])
    sign = 1.0 if probability >= threshold else -1.0

    def answer(values: list[Any]) -> Any:
        inside = ops.clip(parts.backward(values[0]), _EPS, 1.0 - _EPS)
        return sign * ops.sum(ops.log(inside) - ops.log1p(-inside))

    _, (gradient,) = backend.value_and_grad(answer)([maps])
    # The first view is the image itself.
    values, slopes = (np.asarray(ops.convert_to_numpy(array))[:n_tiles] for array in (maps, gradient))
    heat = _grad_cam(values, slopes) if parts.method == GRAD_CAM else _input_gradient(slopes)
    seen = np.asarray(ops.convert_to_numpy(tiles))[:n_tiles].astype(np.uint8)
    return Saliency(_join_tiles(seen, grid), _to_unit(_join_tiles(heat, grid)), probability, parts.method)


def _occluded(network: GraphNetwork, image: Pixels, threshold: float) -> Saliency:
    heat, probability = occlusion_map(lambda images: predict_images(network, images), image, threshold)
    top = heat.max()
    return Saliency(image, heat / top if top > 0 else heat, probability, OCCLUSION)


def _grad_cam(maps: npt.NDArray[Any], slopes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the positive part of the channels' sum weighted by mean gradients. Shape (n_tiles, rows, columns)."""
    weight = slopes.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.maximum((maps * weight).sum(axis=-1), 0.0))


def _input_gradient(slopes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the smoothed absolute gradient of each pixel, summed over channels. Shape (n_tiles, rows, columns)."""
    from scipy.ndimage import gaussian_filter

    size = np.abs(slopes).sum(axis=-1)
    return np.stack([gaussian_filter(tile, max(tile.shape) / _SMOOTHING_DIVISOR) for tile in size])


def _join_tiles(tiles: npt.NDArray[Any], grid: tuple[int, int]) -> npt.NDArray[Any]:
    """Join tiles of shape (n_tiles, height, width, ...) to one image of shape (rows * height, columns * width, ...)."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in tiles.reshape(*grid, *tiles.shape[1:])])


def _to_unit(heat: npt.NDArray[Any]) -> Heat:
    top = np.percentile(heat, _FULL_SCALE_PERCENTILE)
    return np.clip(heat / top, 0.0, 1.0).astype(np.float32) if top > 0 else np.zeros(heat.shape, np.float32)


def _split_model(network: Any) -> _ModelParts:
    deployed = network
    while (inside := uncalibrated_layer(deployed)) is not None:
        deployed = inside
    calls = RecordedCalls(deployed)
    backbones = [layer for layer in deployed.layers if is_network(layer)]
    if not backbones:
        raise ValueError(f"The model {network.name!r} contains no backbone, so no heat map can be computed.")
    tiles, features = calls.of(backbones[0])
    resize = _submodel(calls.inputs[0], tiles)
    if len(backbones) > 1:  # fine-tuned: one backbone per fold, all with the same input
        return _ModelParts(resize, lambda seen: seen, _submodel(tiles, calls.outputs[0]), INPUT_GRADIENT)
    tail, cut = _submodel(features, calls.outputs[0]), _split_at_last_map(backbones[0])
    if cut is None:
        return _ModelParts(resize, lambda seen: seen, lambda seen: tail(backbones[0](seen)), INPUT_GRADIENT)
    before, behind = cut
    return _ModelParts(resize, before, lambda maps: tail(behind(maps)), GRAD_CAM)


def _submodel(start: Any, end: Any) -> Callable[[Any], Any]:
    """Return the function that computes the symbolic array `end` from the symbolic array `start`.

    Raises:
        ValueError: If `end` does not depend on `start` alone.
    """
    import keras

    if start is end:
        return lambda values: values
    between: Callable[[Any], Any] = keras.Model(start, end)
    return between


def _compose(second: Callable[[Any], Any], first: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: second(first(values))


def _split_at_last_map(backbone: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """Split a backbone at its last convolutional map.

    Returns:
        Functions from the input to the map and from the map to the output; None if the output depends on several maps.
    """
    calls = RecordedCalls(backbone)
    for layer, output in reversed(calls.order):
        if is_network(layer):
            inner = _split_at_last_map(layer)
            if inner is None:
                return None
            goes_in, comes_out = calls.of(layer)
            before, behind = _submodel(calls.inputs[0], goes_in), _submodel(comes_out, calls.outputs[0])
            return _compose(inner[0], before), _compose(behind, inner[1])
        if getattr(output, "ndim", 0) == 4 and output.shape[1] > 1 and output.shape[2] > 1:
            try:
                return _submodel(calls.inputs[0], output), _submodel(output, calls.outputs[0])
            except ValueError:  # the output depends on other maps, too
                return None
    return None
