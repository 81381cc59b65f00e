"""A small encoder in each file format, with its features computed by NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper

SIZE, PATCH, WIDTH = 32, 8, 6
MEAN, DEVIATION = (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)
STATED: dict[str, Any] = {"mean": list(MEAN), "std": list(DEVIATION)}
_random = np.random.default_rng(11)
KERNEL = _random.normal(0, 0.2, (WIDTH, 3, PATCH, PATCH)).astype(np.float32)
BIAS = _random.normal(0, 0.2, WIDTH).astype(np.float32)


def features_of(images: np.ndarray) -> np.ndarray:
    """Features of RGB in 0..255, shape (n, size, size, 3): mean over patches of a rectified product."""
    scaled = (images.astype(np.float64) / 255 - MEAN) / DEVIATION
    n, size = len(scaled), scaled.shape[1]
    patches = scaled.reshape(n, size // PATCH, PATCH, size // PATCH, PATCH, 3)
    products = np.einsum("nrycxk,fkyx->nrcf", patches, KERNEL.astype(np.float64)) + BIAS
    return np.maximum(products, 0).mean(axis=(1, 2))


def images_of(n: int = 5, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def state(place: Path, **changes: Any) -> Path:
    """Write the preprocessing beside a file or into a folder; a value of None removes the key."""
    content = {key: value for key, value in {**STATED, **changes}.items() if value is not None}
    file = (place if place.is_dir() else place.parent) / "preprocessing.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return place


def onnx_model(
    shape: tuple[Any, ...] = ("batch", 3, SIZE, SIZE), opset: int = 17, pooled: bool = True
) -> onnx.ModelProto:
    """The encoder, whose layout is that of its input's shape."""
    images = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
    nodes = []
    entry = "pixels"
    if shape[-1] == 3:
        nodes.append(helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]))
        entry = "planes"
    nodes += [
        helper.make_node("Conv", [entry, "kernel", "bias"], ["products"], strides=[PATCH, PATCH]),
        helper.make_node("Relu", ["products"], ["image"]),  # also the name of the input of deployed models
    ]
    if pooled:
        nodes += [
            helper.make_node("GlobalAveragePool", ["image"], ["probability"]),
            helper.make_node("Flatten", ["probability"], ["features"]),  # names of deployed models, too
        ]
    result = helper.make_tensor_value_info("features" if pooled else "image", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(KERNEL, "kernel"), numpy_helper.from_array(BIAS, "bias")]
    graph = helper.make_graph(nodes, "small", [images], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def write_onnx(
    folder: Path, change: Callable[[onnx.ModelProto], object] = lambda _: None, name: str = "small", **options: Any
) -> Path:
    """Write the encoder with its preprocessing.

    Args:
        folder: Folder of the files.
        change: Changes the model before it is written.
        name: Name of the file, without suffix.
        options: Of `onnx_model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx_model(**options)
    change(model)
    onnx.save_model(model, folder / f"{name}.onnx")
    return state(folder / f"{name}.onnx")


def write_openvino(folder: Path, name: str = "small") -> Path:
    """Write the encoder as an OpenVINO model."""
    file = write_onnx(folder, name=name)
    openvino.serialize(openvino.Core().read_model(file), file.with_suffix(".xml"))
    file.unlink()
    return file.with_suffix(".xml")


def write_saved_model(folder: Path) -> Path:
    """Write the encoder as a SavedModel with the channels last."""
    import tensorflow as tf

    class Small(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(KERNEL.transpose(2, 3, 1, 0))

        @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)])
        def __call__(self, images):
            products = tf.nn.conv2d(images, self.kernel, PATCH, "VALID") + BIAS
            return {"features": tf.reduce_mean(tf.nn.relu(products), axis=(1, 2))}

    module = Small()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return state(folder)
