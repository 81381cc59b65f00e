"""Graphs of OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.graphs.tensor import Graph, GraphTensor, Shape

_BINARY = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Max": "maximum",
    "Min": "minimum",
}
_UNARY = {"Abs": "abs", "Exp": "exp", "Floor": "floor", "Log": "log", "Relu": "relu", "Sigmoid": "sigmoid"}


class OpenvinoGraph(Graph):
    """A graph of OpenVINO, for which files of all formats that OpenVINO reads can be opened.

    Args:
        model: OpenVINO model of an encoder or of a whole model.
        source: Name of the tensor that is the result of the model; empty for its only result.
    """

    suffix = ".xml"

    def __init__(self, model: Any, source: str = "") -> None:
        super().__init__()
        self._model = model
        self._inputs: list[Any] = []
        self._output = model.output(source) if source else model.output(0)

    @classmethod
    def read(cls, file: Path) -> OpenvinoGraph:
        """Read a model from its file."""
        import openvino

        return cls(openvino.Core().read_model(file))

    def copy(self) -> OpenvinoGraph:
        """Return a copy, which can be changed without changing this graph."""
        return OpenvinoGraph(self._model.clone())

    def start(self, name: str, dtype: npt.DTypeLike, shape: Shape) -> GraphTensor:
        """Add an input of the graph; see `Graph.start`."""
        import openvino

        sides = [openvino.Dimension() if side is None else openvino.Dimension(side) for side in shape]
        node = _ops().parameter(openvino.PartialShape(sides), openvino.Type(np.dtype(dtype)), name)
        node.output(0).get_tensor().set_names({name})
        self._inputs.append(node)
        return GraphTensor(self, node.output(0), shape)

    def encode(self, images: GraphTensor) -> GraphTensor:
        """Connect images to the input of the encoder, and return its features. Shape (batch, n_features)."""
        parameter = self._model.get_parameters()[0]
        kind = parameter.get_element_type()
        value = (
            images.value if kind == images.value.get_element_type() else _ops().convert(images.value, kind).output(0)
        )
        source = self._output.get_node().input_value(0)
        for user in list(parameter.output(0).get_target_inputs()):
            user.replace_source_output(value)
        if source.get_node() == parameter:
            source = value
        return GraphTensor(self, _ops().convert(source, "f32").output(0))

    def result(self) -> GraphTensor:
        """Return the tensor that is the result of the model."""
        return GraphTensor(self, self._output.get_node().input_value(0))

    def finish(self, tensor: GraphTensor) -> None:
        """Make a tensor the only result of the model."""
        import openvino

        inputs = self._inputs or self._model.get_parameters()
        self._model = openvino.Model([tensor.value], inputs, "bhsearch")
        self._model.validate_nodes_and_infer_types()
        self._output = self._model.output(0)

    def write(self, file: Path) -> None:
        """Write the model to a file of OpenVINO, with its weights in a `.bin` file beside it."""
        import openvino

        openvino.serialize(self._model, file)

    def openvino(self) -> Any:
        """Return the OpenVINO model."""
        return self._model

    def constant(self, array: Any, dtype: npt.DTypeLike = np.float32) -> Any:
        """Return an array as a constant; see `Graph.constant`."""
        return _ops().constant(np.array(array, dtype, order="C")).output(0)

    def _value(self, operand: Any) -> Any:
        return operand.value if isinstance(operand, GraphTensor) else self.constant(operand)

    def binary(self, kind: str, one: Any, other: Any) -> Any:
        """Return the value of an operation of two operands; see `Graph.binary`."""
        left, right = self._value(one), self._value(other)
        if kind == "MatMul":
            return _ops().matmul(left, right, False, False).output(0)
        return getattr(_ops(), _BINARY[kind])(left, right).output(0)

    def unary(self, kind: str, one: Any) -> Any:
        """Return the value of an operation of one operand; see `Graph.unary`."""
        if kind == "Round":
            return _ops().round(self._value(one), "half_to_even").output(0)
        return getattr(_ops(), _UNARY[kind])(self._value(one)).output(0)

    def cast(self, images: GraphTensor, dtype: npt.DTypeLike) -> GraphTensor:
        """Convert a tensor to another type; see `Graph.cast`."""
        import openvino

        return images.like(_ops().convert(images.value, openvino.Type(np.dtype(dtype)).get_type_name()).output(0))

    def transpose(self, images: GraphTensor, axes: Sequence[int]) -> GraphTensor:
        """Exchange the axes; see `Graph.transpose`."""
        return images.like(_ops().transpose(images.value, self.constant(axes, np.int64)).output(0))

    def reshape(self, images: GraphTensor, shape: Sequence[int]) -> GraphTensor:
        """Change the shape; see `Graph.reshape`."""
        value = _ops().reshape(images.value, self.constant(shape, np.int64), False).output(0)
        return GraphTensor(self, value, tuple(None if side == -1 else side for side in shape))

    def concatenate(self, parts: Sequence[GraphTensor], axis: int) -> GraphTensor:
        """Join tensors along an axis; see `Graph.concatenate`."""
        return parts[0].like(_ops().concat([part.value for part in parts], axis).output(0))

    def sum(self, images: GraphTensor, axis: int, keepdims: bool = False) -> GraphTensor:
        """Sum over an axis; see `Graph.sum`."""
        return images.like(_ops().reduce_sum(images.value, self.constant([axis], np.int64), keepdims).output(0))

    def slice(self, images: GraphTensor, axis: int, start: int, stop: int, step: int = 1) -> GraphTensor:
        """Return some positions of an axis; see `Graph.slice`."""
        parts = [self.constant([number], np.int64) for number in (start, stop, step, axis)]
        return images.like(_ops().slice(images.value, *parts).output(0))

    def side(self, images: GraphTensor, axis: int) -> GraphTensor:
        """Return the length of an axis; see `Graph.side`."""
        shape = _ops().shape_of(images.value, "i64")
        one = _ops().gather(shape, self.constant(axis, np.int64), self.constant(0, np.int64))
        return GraphTensor(self, _ops().convert(one, "f32").output(0))

    def positions(self, length: GraphTensor) -> GraphTensor:
        """Return 0, 1, 2, ...; see `Graph.positions`."""
        return GraphTensor(self, _ops().range(self.constant(0), length.value, self.constant(1), "f32").output(0))

    def name(self, tensor: GraphTensor, name: str) -> GraphTensor:
        """Rename a tensor; see `Graph.name`."""
        tensor.value.get_tensor().set_names({name})
        return tensor


def _ops() -> Any:
    from openvino import opset13

    return opset13
