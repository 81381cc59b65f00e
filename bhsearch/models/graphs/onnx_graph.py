"""Graphs of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.errors import BackboneError
from bhsearch.models.graphs.tensor import Graph, GraphTensor, Shape

LEAST_OPSET = 13  # from which sums and slices have the same inputs in all versions
_PREFIX = "bhsearch/"  # of the names of all tensors that are added
_ENCODER = "encoder/"  # prefix of the names of an encoder's tensors
_MOST_BYTES = 1_800_000_000  # from which weights are written to a file of their own, since a message has at most 2 GB
_WEIGHTS = ".data"


def require_onnx(file: Path) -> None:
    """Check that the packages that build and describe deployed ONNX models are installed.

    Raises:
        BackboneError: If one is missing.
    """
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise BackboneError(
            f"The backbone {file} needs the package {' and '.join(missing)}, with which models of ONNX encoders are "
            "built and loaded. Install the extra: pip install 'bhsearch[onnx]'."
        )


class OnnxGraph(Graph):
    """A graph of ONNX.

    Args:
        model: ONNX model of an encoder or of a whole model. It is changed by operations.
        source: Name of the tensor that is the result of the model; empty for its only result.
    """

    suffix = ".onnx"

    def __init__(self, model: Any, source: str = "") -> None:
        super().__init__()
        self._model, self._source = model, source or model.graph.output[0].name
        self._before: list[Any] = []  # nodes that compute the input of the encoder
        self._after: list[Any] = []
        self._nodes = self._after
        names = [node.name for node in model.graph.node] + [each.name for each in model.graph.initializer]
        self._count = sum(name.startswith(_PREFIX) for name in names)

    @classmethod
    def read(cls, file: Path, source: str = "") -> OnnxGraph:
        """Read a model from its file, with weights in files beside it."""
        import onnx

        return cls(onnx.load(file), source)

    @classmethod
    def read_encoder(cls, file: Path, source: str) -> OnnxGraph:
        """Read an encoder, whose tensors receive other names than those that are added to it.

        Args:
            file: File of the encoder.
            source: Name of the output with the features.
        """
        import onnx
        from onnx import compose

        model = compose.add_prefix(onnx.load(file), _ENCODER)
        return cls(model, f"{_ENCODER}{source}")

    def copy(self) -> OnnxGraph:
        """Return a copy, which can be changed without changing this graph."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        return OnnxGraph(model, self._source)

    def start(self, name: str, dtype: npt.DTypeLike, shape: Shape) -> GraphTensor:
        """Add an input of the graph, whose operations come before those of the encoder; see `Graph.start`."""
        kind = _helper().np_dtype_to_tensor_dtype(np.dtype(dtype))
        sides = [f"{name}_{axis}" if side is None else side for axis, side in enumerate(shape)]
        self._input = _helper().make_tensor_value_info(name, kind, sides)
        self._nodes = self._before
        return GraphTensor(self, name, shape)

    def encode(self, images: GraphTensor) -> GraphTensor:
        """Connect images to the input of the encoder, and return its features. Shape (batch, n_features)."""
        graph = self._model.graph
        weights = {each.name for each in graph.initializer}
        (entry,) = (each for each in graph.input if each.name not in weights)
        self._add("Cast", [images.value], entry.name, to=entry.type.tensor_type.elem_type)
        self._nodes = self._after
        del graph.value_info[:]  # which may state a fixed number of images
        del graph.input[:]
        graph.input.append(self._input)
        return self.cast(GraphTensor(self, self._source), np.float32)

    def result(self) -> GraphTensor:
        """Return the tensor that is the result of the model."""
        return GraphTensor(self, self._source)

    def finish(self, tensor: GraphTensor) -> None:
        """Make a tensor the only result of the model."""
        import onnx

        graph = self._model.graph
        nodes = [*self._before, *graph.node, *self._after]
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.output[:]
        sides = ["image_0", 1]
        graph.output.append(_helper().make_tensor_value_info(tensor.value, onnx.TensorProto.FLOAT, sides))
        graph.name = "bhsearch"
        self._source, self._before, self._after = tensor.value, [], []
        self._nodes = self._after

    def write(self, file: Path) -> None:
        """Write the model to a file, with the weights of a large model in a file beside it."""
        import onnx

        large = self._model.ByteSize() > _MOST_BYTES
        onnx.save_model(
            self._model, file, save_as_external_data=large, location=file.name + _WEIGHTS if large else None
        )

    def constant(self, array: Any, dtype: npt.DTypeLike = np.float32) -> Any:
        """Return an array as a weight of the graph; see `Graph.constant`."""
        from onnx import numpy_helper

        name = self._new("constant")
        array = np.array(array, dtype, order="C")
        self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _value(self, operand: Any) -> Any:
        return operand.value if isinstance(operand, GraphTensor) else self.constant(operand)

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{_PREFIX}{kind}_{self._count}"

    def _add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        name = self._new(kind)
        output = output or name
        self._nodes.append(_helper().make_node(kind, list(inputs), [output], name, **attributes))
        return output

    def binary(self, kind: str, one: Any, other: Any) -> Any:
        """Return the value of an operation of two operands; see `Graph.binary`."""
        return self._add(kind, [self._value(one), self._value(other)])

    def unary(self, kind: str, one: Any) -> Any:
        """Return the value of an operation of one operand; see `Graph.unary`."""
        return self._add(kind, [self._value(one)])

    def cast(self, images: GraphTensor, dtype: npt.DTypeLike) -> GraphTensor:
        """Convert a tensor to another type; see `Graph.cast`."""
        kind = _helper().np_dtype_to_tensor_dtype(np.dtype(dtype))
        return images.like(self._add("Cast", [images.value], to=kind))

    def transpose(self, images: GraphTensor, axes: Sequence[int]) -> GraphTensor:
        """Exchange the axes; see `Graph.transpose`."""
        return images.like(self._add("Transpose", [images.value], perm=list(axes)))

    def reshape(self, images: GraphTensor, shape: Sequence[int]) -> GraphTensor:
        """Change the shape; see `Graph.reshape`."""
        value = self._add("Reshape", [images.value, self.constant(shape, np.int64)])
        return GraphTensor(self, value, tuple(None if side == -1 else side for side in shape))

    def concatenate(self, parts: Sequence[GraphTensor], axis: int) -> GraphTensor:
        """Join tensors along an axis; see `Graph.concatenate`."""
        return parts[0].like(self._add("Concat", [part.value for part in parts], axis=axis))

    def sum(self, images: GraphTensor, axis: int, keepdims: bool = False) -> GraphTensor:
        """Sum over an axis; see `Graph.sum`."""
        axes = self.constant([axis], np.int64)
        return images.like(self._add("ReduceSum", [images.value, axes], keepdims=int(keepdims)))

    def slice(self, images: GraphTensor, axis: int, start: int, stop: int, step: int = 1) -> GraphTensor:
        """Return some positions of an axis; see `Graph.slice`."""
        parts = [self.constant([number], np.int64) for number in (start, stop, axis, step)]
        return images.like(self._add("Slice", [images.value, *parts]))

    def side(self, images: GraphTensor, axis: int) -> GraphTensor:
        """Return the length of an axis; see `Graph.side`."""
        shape = self._add("Shape", [images.value])
        return self.cast(GraphTensor(self, self._add("Gather", [shape, self.constant(axis, np.int64)])), np.float32)

    def positions(self, length: GraphTensor) -> GraphTensor:
        """Return 0, 1, 2, ...; see `Graph.positions`."""
        return GraphTensor(self, self._add("Range", [self.constant(0), length.value, self.constant(1)]))

    def name(self, tensor: GraphTensor, name: str) -> GraphTensor:
        """Rename a tensor; see `Graph.name`."""
        for node in [*self._before, *self._model.graph.node, *self._after]:
            for names in (node.input, node.output):
                for position, each in enumerate(names):
                    if each == tensor.value:
                        names[position] = name
        return tensor.like(name)

    def openvino(self) -> Any:
        """Return the OpenVINO model of the graph."""
        import tempfile

        import openvino

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model{self.suffix}"
            self.write(file)
            return openvino.Core().read_model(file)


def _helper() -> Any:
    from onnx import helper

    return helper
