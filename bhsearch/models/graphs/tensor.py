"""Tensors of graphs, with the operations that deployed models need under the names of `keras.ops`.

Resize, views, heads and calibration are written once with these operations. Each format of graphs implements them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.resize import resize_weights

Shape = tuple[int | None, ...]


class GraphTensor:
    """A tensor of a graph.

    Args:
        graph: Graph that computes the tensor.
        value: The tensor as the graph represents it.
        shape: Shape, None for a side that is known only when the graph runs; None if nothing is known.
    """

    __array_ufunc__ = None  # so that NumPy leaves operations with arrays to this class

    def __init__(self, graph: Graph, value: Any, shape: Shape | None = None) -> None:
        self.graph, self.value, self._shape = graph, value, shape

    @property
    def shape(self) -> Shape:
        """Shape of the tensor; None for a side that is known only when the graph runs.

        Raises:
            ValueError: If nothing is known.
        """
        if self._shape is None:
            raise ValueError("The shape of this tensor is not known before the graph runs.")
        return self._shape

    def like(self, value: Any) -> GraphTensor:
        """Return another tensor of the same graph and shape."""
        return GraphTensor(self.graph, value, self._shape)

    def __add__(self, other: Any) -> GraphTensor:
        return self._with("Add", self, other)

    def __radd__(self, other: Any) -> GraphTensor:
        return self._with("Add", other, self)

    def __sub__(self, other: Any) -> GraphTensor:
        return self._with("Sub", self, other)

    def __rsub__(self, other: Any) -> GraphTensor:
        return self._with("Sub", other, self)

    def __mul__(self, other: Any) -> GraphTensor:
        return self._with("Mul", self, other)

    def __rmul__(self, other: Any) -> GraphTensor:
        return self._with("Mul", other, self)

    def __truediv__(self, other: Any) -> GraphTensor:
        return self._with("Div", self, other)

    def __rtruediv__(self, other: Any) -> GraphTensor:
        return self._with("Div", other, self)

    def __neg__(self) -> GraphTensor:
        return self._with("Mul", self, -1.0)

    def __getitem__(self, key: tuple[slice, ...]) -> GraphTensor:
        """Return a part of the tensor. Only slices with known starts and ends are supported."""
        found, shape = self, list(self.shape)
        for axis, part in enumerate(key):
            if part != slice(None):
                found = self.graph.slice(found, axis, part.start, part.stop)
                shape[axis] = part.stop - part.start
        return GraphTensor(self.graph, found.value, tuple(shape))

    def _with(self, kind: str, one: Any, other: Any) -> GraphTensor:
        """Apply an operation to two operands, the one with fewer axes being broadcast to the shape of the other."""
        shapes = [each._shape if isinstance(each, GraphTensor) else np.shape(each) for each in (one, other)]
        longest = max((shape for shape in shapes if shape is not None), key=len, default=None)
        return GraphTensor(self.graph, self.graph.binary(kind, one, other), longest)


class Graph(ABC):
    """A graph to which operations can be added: an encoder, or a whole model.

    Each method returns a new tensor. Names are those of `keras.ops`, so that `operations_of` may return a graph.
    """

    suffix: str  # of the file of a graph
    image = SimpleNamespace()  # replaced by the operations on images

    def __init__(self) -> None:
        self.image = SimpleNamespace(resize=self._enlarge)

    # -- implemented by each format ---------------------------------------------------------------------------------

    @abstractmethod
    def start(self, name: str, dtype: npt.DTypeLike, shape: Shape) -> GraphTensor:
        """Add an input of the graph."""

    @abstractmethod
    def constant(self, array: Any, dtype: npt.DTypeLike = np.float32) -> Any:
        """Return an array as the graph represents it."""

    @abstractmethod
    def binary(self, kind: str, one: Any, other: Any) -> Any:
        """Return the value of an operation of two operands: `Add`, `Sub`, `Mul`, `Div`, `Max`, `Min` or `MatMul`."""

    @abstractmethod
    def unary(self, kind: str, one: Any) -> Any:
        """Return the value of `Abs`, `Exp`, `Floor`, `Log`, `Relu`, `Round` (half to even) or `Sigmoid`."""

    @abstractmethod
    def cast(self, images: GraphTensor, dtype: npt.DTypeLike) -> GraphTensor:
        """Convert a tensor to another type."""

    @abstractmethod
    def transpose(self, images: GraphTensor, axes: Sequence[int]) -> GraphTensor:
        """Exchange the axes."""

    @abstractmethod
    def reshape(self, images: GraphTensor, shape: Sequence[int]) -> GraphTensor:
        """Change the shape; one side may be -1."""

    @abstractmethod
    def concatenate(self, parts: Sequence[GraphTensor], axis: int) -> GraphTensor:
        """Join tensors along an axis."""

    @abstractmethod
    def sum(self, images: GraphTensor, axis: int, keepdims: bool = False) -> GraphTensor:
        """Sum over an axis."""

    @abstractmethod
    def slice(self, images: GraphTensor, axis: int, start: int, stop: int, step: int = 1) -> GraphTensor:
        """Return the positions of an axis from `start` to before `stop`."""

    @abstractmethod
    def side(self, images: GraphTensor, axis: int) -> GraphTensor:
        """Return the length of an axis as float32, which is known when the graph runs. Shape ()."""

    @abstractmethod
    def positions(self, length: GraphTensor) -> GraphTensor:
        """Return 0, 1, 2, ... as float32. Shape (length,)."""

    @abstractmethod
    def name(self, tensor: GraphTensor, name: str) -> GraphTensor:
        """Rename a tensor, so that it can be found in the file of the graph."""

    # -- in terms of these ------------------------------------------------------------------------------------------

    def clip(self, images: GraphTensor, low: float, high: float) -> GraphTensor:
        """Limit values to a range."""
        above = images.like(self.binary("Max", images, low))
        return images.like(self.binary("Min", above, high))

    def matmul(self, one: Any, other: Any) -> GraphTensor:
        """Multiply matrices. The shape is that of the first operand, where the second is a square matrix."""
        value = self.binary("MatMul", one, other)
        return one.like(value) if isinstance(one, GraphTensor) else GraphTensor(self, value)

    def mean(self, images: GraphTensor, axis: int, keepdims: bool = False) -> GraphTensor:
        """Average over an axis whose length is known."""
        length = images.shape[axis]
        assert length is not None
        return self.sum(images, axis, keepdims) / float(length)

    def flip(self, images: GraphTensor, axis: int) -> GraphTensor:
        """Reverse an axis."""
        return self.slice(images, axis, -1, -(1 << 31), -1)

    def round(self, images: GraphTensor) -> GraphTensor:
        """Round to integers, half to even."""
        return images.like(self.unary("Round", images))

    def floor(self, images: GraphTensor) -> GraphTensor:
        """Round down."""
        return images.like(self.unary("Floor", images))

    def abs(self, images: GraphTensor) -> GraphTensor:
        """Return absolute values."""
        return images.like(self.unary("Abs", images))

    def exp(self, images: GraphTensor) -> GraphTensor:
        """Return the exponential."""
        return images.like(self.unary("Exp", images))

    def log(self, images: GraphTensor) -> GraphTensor:
        """Return the natural logarithm."""
        return images.like(self.unary("Log", images))

    def relu(self, images: GraphTensor) -> GraphTensor:
        """Replace negative values by 0."""
        return images.like(self.unary("Relu", images))

    def sigmoid(self, images: GraphTensor) -> GraphTensor:
        """Return the logistic function."""
        return images.like(self.unary("Sigmoid", images))

    def maximum(self, one: GraphTensor, other: Any) -> GraphTensor:
        """Return the larger of two values."""
        return one.like(self.binary("Max", one, other))

    def minimum(self, one: GraphTensor, other: Any) -> GraphTensor:
        """Return the smaller of two values."""
        return one.like(self.binary("Min", one, other))

    def _enlarge(self, images: GraphTensor, size: tuple[int, int], interpolation: str) -> GraphTensor:
        """Enlarge square images by bilinear interpolation."""
        side = images.shape[1]
        if interpolation != "bilinear" or side is None or size[0] != size[1] or size[0] < side:
            raise ValueError(f"Only bilinear enlargement of squares is supported, but got {images.shape} to {size}.")
        weights = resize_weights(side, size[0])
        planes = self.transpose(images, (0, 3, 1, 2))
        enlarged = self.matmul(self.matmul(weights, planes), weights.T)
        return GraphTensor(self, self.transpose(enlarged, (0, 2, 3, 1)).value, (None, *size, 3))
