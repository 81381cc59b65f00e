"""An encoder in a file of another framework: what it takes and returns, and the graph that computes its features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.files.preprocessing import Preprocessing, read_preprocessing
from bhsearch.models.graphs.onnx_graph import LEAST_OPSET, OnnxGraph, require_onnx
from bhsearch.models.graphs.openvino_graph import OpenvinoGraph
from bhsearch.models.graphs.tensor import GraphTensor

ONNX, OPENVINO, SAVED_MODEL = ".onnx", ".xml", "saved_model.pb"
_VERSION = "file-v1"  # increase it when features of the same files change
_FLOATS = ("f32", "f16")
_INPUT = "images"
# Beginnings of lines of OpenVINO's errors that do not state the reason.
_USELESS = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully converted", "Summary:")


@dataclass(frozen=True)
class FileEncoder:
    """An encoder whose files have been read, except for the values of its weights.

    Attributes:
        file: File of the encoder, or folder of a SavedModel.
        preprocessing: What is done to images first.
        size: Side of the images in pixels.
        layout: `NCHW` or `NHWC`.
        output: Name of the output with the features.
        n_parameters: Number of weights.
    """

    file: Path
    preprocessing: Preprocessing
    size: int
    layout: str
    output: str
    n_parameters: int

    @classmethod
    def of(cls, file: Path) -> FileEncoder:
        """Read the files of an encoder.

        Raises:
            BackboneError: If the files are incomplete or damaged, or are not an encoder of one batch of images to one
                vector per image.
        """
        if file.suffix == ONNX:
            require_onnx(file)
            _check_opset(file)
        preprocessing = read_preprocessing(file)
        model = _read(file)
        size, layout = _input_of(model, file, preprocessing)
        output = _output_of(model, file, preprocessing)
        _check_output(model, output, size, layout, file)
        weights = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
        n_parameters = sum(
            int(np.prod(list(node.output(0).get_shape()), dtype=np.int64))
            for node in weights
            if node.output(0).get_element_type().is_real()
        )
        return cls(file, preprocessing, size, layout, output, n_parameters)

    def digest(self) -> str:
        """Return a digest of the files and the preprocessing, which determine the features. 24 hex digits."""
        found = self.preprocessing
        facts = [found.mean, found.deviation, found.scale, self.size, self.layout, self.output]
        digest = hashlib.sha256(json.dumps([_VERSION, *facts]).encode())
        for file in files_of(self.file):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:24]

    def graph(self) -> OnnxGraph | OpenvinoGraph:
        """Return the encoder as a graph to which a deployed model can be added: ONNX stays ONNX."""
        if self.file.suffix == ONNX:
            return OnnxGraph.read_encoder(self.file, self.output)
        return OpenvinoGraph(_read(self.file), self.output)

    def program(self) -> OpenvinoGraph:
        """Return the OpenVINO graph from float32 RGB in 0..255, shape (batch, size, size, 3), to features."""
        graph = OpenvinoGraph(_read(self.file), self.output)
        images = graph.start(_INPUT, np.float32, (None, self.size, self.size, 3))
        graph.finish(self.features(graph, images))
        return graph

    def features(self, graph: OnnxGraph | OpenvinoGraph, images: GraphTensor) -> GraphTensor:
        """Preprocess and encode images.

        Args:
            graph: Graph from `graph`.
            images: float32 RGB in 0..255. Shape (batch, size, size, 3).

        Returns:
            float32. Shape (batch, n_features).
        """
        found = self.preprocessing
        seen = images * found.scale - np.array(found.mean, np.float32)
        seen = seen / np.array(found.deviation, np.float32)
        return graph.encode(graph.transpose(seen, (0, 3, 1, 2)) if self.layout == "NCHW" else seen)


def files_of(file: Path) -> list[Path]:
    """Return the files that contain an encoder, including files of weights beside it.

    Raises:
        BackboneError: If one is missing.
    """
    if file.is_dir():
        return [file / SAVED_MODEL, *sorted(each for each in (file / "variables").rglob("*") if each.is_file())]
    if file.suffix == ONNX:
        found = [file, *(file.with_name(name) for name in _external_files(file))]
    else:
        found = [file, file.with_suffix(".bin")]
    missing = [each for each in found if not each.is_file()]
    if missing:
        raise BackboneError(f"The weights of {file} are incomplete: there is no file {missing[0]}. Copy it, too.")
    return found


def _onnx(file: Path) -> Any:
    import onnx

    try:
        return onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf raises several types
        raise BackboneError(
            f"{file} is no ONNX file, or is damaged: {line_of(error)}. Export or copy it again."
        ) from error


def _check_opset(file: Path) -> None:
    opset = next((each.version for each in _onnx(file).opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise BackboneError(
            f"{file} has ONNX opset {opset}, but {LEAST_OPSET} or newer is required. Export it again, or convert it "
            "with onnx.version_converter."
        )


def _external_files(file: Path) -> Iterable[str]:
    names = {
        entry.value
        for tensor in _onnx(file).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(names)


def _read(file: Path) -> Any:
    import openvino

    files_of(file)
    try:
        return openvino.Core().read_model(file)
    except Exception as error:  # OpenVINO raises RuntimeError of many causes
        raise BackboneError(
            f"OpenVINO cannot read {file}: {line_of(error)}. Export it again, with operations that OpenVINO supports."
        ) from error


def line_of(error: Exception) -> str:
    """Return the line of an error of OpenVINO that states the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_USELESS)]
    return (told or lines or [repr(error)])[0].rstrip(".")[:300]


def _shape(port: Any) -> list[int | None]:
    """Return the shape of an input or output, None for sides that are not fixed.

    Raises:
        ValueError: If even the number of axes is unknown.
    """
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise ValueError
    return [None if side.is_dynamic else side.get_length() for side in shape]


def _text(shape: Iterable[int | None]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _name(port: Any) -> str:
    return min(port.get_names(), default="") or str(port.get_node().get_friendly_name())


def _input_of(model: Any, file: Path, preprocessing: Preprocessing) -> tuple[int, str]:
    """Return the side of the images in pixels and the layout of an encoder's only input."""
    if len(model.inputs) != 1:
        names = ", ".join(map(_name, model.inputs)) or "none"
        raise BackboneError(
            f"An encoder must have one input, a batch of images, but {file} has {len(model.inputs)}: {names}. Export "
            "the image encoder alone."
        )
    (port,) = model.inputs
    kind = port.get_element_type().get_type_name()
    if kind not in _FLOATS:
        raise BackboneError(
            f"The input of {file} must be float32 or float16, but is {kind}. Export it without conversion."
        )
    try:
        shape = _shape(port)
    except ValueError:
        shape = []
    if len(shape) != 4:
        text = _text(shape) if shape else "an unknown number of axes"
        raise BackboneError(
            f"The input of {file} must be a batch of images, shape (batch, 3, height, width) or (batch, height, width, "
            f"3), but has {text}. Export it with these axes."
        )
    layout = _layout(shape, file, preprocessing)
    height, width = shape[2:] if layout == "NCHW" else shape[1:3]
    fixed = {side for side in (height, width) if side is not None}
    if len(fixed) > 1:
        raise BackboneError(f"{file} must take square images, but its input has the shape {_text(shape)}.")
    stated = preprocessing.size
    if not fixed and stated is None:
        raise BackboneError(
            f"{file} takes images of any size, shape {_text(shape)}, so {preprocessing.file} must state the side of "
            'the images of its training, such as "size": 224.'
        )
    if fixed and stated is not None and stated not in fixed:
        raise BackboneError(
            f"{preprocessing.file} states images of {stated} pixels, but the input of {file} has the shape "
            f"{_text(shape)}. Correct one of them."
        )
    return next(iter(fixed)) if fixed else int(stated or 0), layout


def _layout(shape: list[int | None], file: Path, preprocessing: Preprocessing) -> str:
    possible = [name for name, axis in (("NCHW", 1), ("NHWC", 3)) if shape[axis] in (3, None)]
    if len(possible) == 2 and 3 in shape:  # the fixed one
        possible = ["NCHW" if shape[1] == 3 else "NHWC"] if (shape[1] == 3) != (shape[3] == 3) else possible
    if not possible:
        raise BackboneError(f"{file} must take RGB images, but its input has the shape {_text(shape)}.")
    stated = preprocessing.layout
    if stated is not None and stated not in possible:
        raise BackboneError(
            f"{preprocessing.file} states the layout {stated}, but the input of {file} has the shape {_text(shape)}, "
            f'which is {possible[0]}. Write "layout": "{possible[0]}", or remove the key.'
        )
    if stated is None and len(possible) > 1:
        raise BackboneError(
            f"The layout of {file} cannot be told from the shape of its input, {_text(shape)}. Add "
            f'"layout": "NCHW" or "NHWC" to {preprocessing.file}.'
        )
    return stated or possible[0]


def _output_of(model: Any, file: Path, preprocessing: Preprocessing) -> str:
    """Return the name of the output with the features."""
    names = [_name(port) for port in model.outputs]
    wanted = preprocessing.output
    if wanted:
        for port, name in zip(model.outputs, names, strict=True):
            if wanted in port.get_names() or wanted == name:
                return wanted if wanted in port.get_names() else name
        raise BackboneError(
            f"{preprocessing.file} states the output {wanted!r}, but {file} has the outputs {', '.join(names)}."
        )
    if len(names) != 1:
        raise BackboneError(
            f"{file} has {len(names)} outputs: {', '.join(names)}. Name the one with a vector per image in "
            f'{preprocessing.file}, such as "output": "{names[-1]}".'
        )
    return names[0]


def _check_output(model: Any, output: str, size: int, layout: str, file: Path) -> None:
    """Check what is known of the output for any number of images of a size, before any image is encoded."""
    import openvino

    sides = [3, size, size] if layout == "NCHW" else [size, size, 3]
    try:
        model.reshape(openvino.PartialShape([openvino.Dimension(), *map(openvino.Dimension, sides)]))
    except Exception as error:  # OpenVINO raises RuntimeError of many causes
        raise BackboneError(
            f"{file} cannot take any number of images of {size} pixels: {line_of(error)}. Export it with a dynamic "
            "batch axis."
        ) from error
    try:
        shape = _shape(model.output(output))
    except ValueError:
        return  # the number of axes is known only when the encoder runs
    if len(shape) != 2:
        raise BackboneError(
            f"The output {output!r} of {file} must be one vector per image, shape (batch, n_features), but has "
            f"{_text(shape)}. Export the encoder with its pooling."
        )
    if shape[0] is not None:
        raise BackboneError(
            f"{file} encodes exactly {shape[0]} {'images' if shape[0] > 1 else 'image'} at a time. Export it with a "
            "dynamic batch axis."
        )
