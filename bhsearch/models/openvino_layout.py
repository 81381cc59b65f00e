"""Removal of layout conversions from OpenVINO models of Keras networks.

Keras keeps images with their channels last, while the convolutions of OpenVINO expect channels first, so that an export
converts the layout before and after every convolution, pooling and normalisation. OpenVINO executes these conversions,
which take half of the time of a MobileNet. Here each conversion is moved behind the operations that follow it, until it
meets its inverse and both disappear. The values do not change, except by rounding where OpenVINO then fuses operations.

Source:
    OpenVINO does the same for models of TensorFlow ("transpose sinking"), but offers it for no other model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
_LAYOUTS = (TO_CHANNELS_FIRST, TO_CHANNELS_LAST)
_EXCHANGED = (0, 3, 2, 1)
_RANK = 4
_SMALL = 1 / 8  # share of an operation's output below which another input may be transposed instead
# Operations on one value at a time. The first one or all of their inputs may be images.
# fmt: off
_OF_ONE = frozenset((
    "Abs", "Ceiling", "Clamp", "Convert", "Elu", "Erf", "Exp", "Floor", "Gelu", "HSigmoid", "HSwish", "Log",
    "LogicalNot", "Mish", "Negative", "Relu", "Round", "Sigmoid", "Sign", "SoftPlus", "Sqrt", "Swish", "Tanh",
))
_OF_SEVERAL = frozenset((
    "Add", "Divide", "Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "Maximum", "Minimum", "Mod", "Multiply",
    "NotEqual", "Power", "Select", "SquaredDifference", "Subtract",
))
_REDUCTIONS = frozenset(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"))
# fmt: on


def sink_transposes(model: Any) -> None:
    """Move the layout conversions of a model behind the operations that follow them, in place.

    Args:
        model: OpenVINO model, as exported by Keras.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "BatchNormInference":
            _use_usual_layout(node)
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Transpose":
            _join(node)
        elif kind in _OF_ONE:
            _move(node, 1)
        elif kind in _OF_SEVERAL:
            _move_of_several(node)
        elif kind == "Pad":
            _move_pad(node)
        elif kind in _REDUCTIONS:
            _move_reduction(node)
        elif kind == "Slice":
            _move_slice(node)
        elif kind == "Concat":
            _move_concat(node)
    model.validate_nodes_and_infer_types()


def _use_usual_layout(node: Any) -> None:
    """Replace the conversions around a batch normalisation, which exchange the channels with the rows.

    A normalisation depends only on which axis has the channels, which is the second one in both cases.
    """
    users = [user.get_node() for user in node.output(0).get_target_inputs()]
    around = [node.input_value(0).get_node(), *users]
    if all(each.get_type_name() == "Transpose" for each in around):
        orders = [_constant(each.input_value(1)) for each in around]
        if all(order is not None and tuple(order.ravel()) == _EXCHANGED for order in orders):
            node.input(0).replace_source_output(_transposed(_source(node.input_value(0)), TO_CHANNELS_FIRST))
            for user in users:
                user.input(1).replace_source_output(_integers(TO_CHANNELS_LAST))


def _order(output: Any) -> tuple[int, ...] | None:
    """Return the order of a layout conversion that computes an output; None if another operation does."""
    node = output.get_node()
    if node.get_type_name() != "Transpose":
        return None
    order = _constant(node.input_value(1))
    found = None if order is None else tuple(int(axis) for axis in order.ravel())
    return found if found in _LAYOUTS else None


def _constant(output: Any) -> Any:
    node = output.get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _source(output: Any) -> Any:
    """Return what a layout conversion converts."""
    return output.get_node().input_value(0)


def _transposed(output: Any, order: Sequence[int]) -> Any:
    from openvino import opset13 as ops

    return ops.transpose(output, np.array(order, np.int64)).output(0)


def _integers(values: Sequence[int]) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.array(values, np.int64)).output(0)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.argsort(order))


def _append(node: Any, order: Sequence[int]) -> None:
    """Convert the layout of a node's output for all of its users."""
    node.validate_and_infer_types()
    users = list(node.output(0).get_target_inputs())
    result = _transposed(node.output(0), order)
    for user in users:
        user.replace_source_output(result)


def _join(node: Any) -> None:
    """Bypass a layout conversion that follows its inverse."""
    own, before = _order(node.output(0)), _order(node.input_value(0))
    if own is not None and before is not None and own == _inverse(before):
        source = _source(node.input_value(0))
        for user in list(node.output(0).get_target_inputs()):
            user.replace_source_output(source)


def _move(node: Any, n_inputs: int) -> None:
    """Move the layout conversions of the first inputs behind a node, if these have the same order."""
    orders = {_order(node.input_value(k)) for k in range(n_inputs)}
    order = orders.pop()
    if orders or order is None:
        return
    for k in range(n_inputs):
        node.input(k).replace_source_output(_source(node.input_value(k)))
    _append(node, order)


def _move_of_several(node: Any) -> None:
    """Move the layout conversion of at least one input behind a node; other inputs must be small, such as constants."""
    inputs = range(node.get_input_size())
    orders = {_order(node.input_value(k)) for k in inputs} - {None}
    if len(orders) != 1:
        return
    order = orders.pop()
    assert order is not None
    others = [k for k in inputs if _order(node.input_value(k)) is None]
    if not all(_is_small(node.input_value(k), node.output(0)) for k in others):
        return
    for k in inputs:
        value = node.input_value(k)
        node.input(k).replace_source_output(_in_layout(value, order) if k in others else _source(value))
    _append(node, order)


def _is_small(output: Any, whole: Any) -> bool:
    """Return whether an array has few values for each image, compared with another one."""
    if _constant(output) is not None:
        return True
    shape, size = output.get_partial_shape(), whole.get_partial_shape()
    if shape.rank.is_dynamic or any(dimension.is_dynamic for dimension in [*list(shape)[1:], *list(size)[1:]]):
        return False
    one, all_values = (np.prod([dimension.get_length() for dimension in list(each)[1:]]) for each in (shape, size))
    return bool(len(list(shape)) in (0, _RANK) and one <= _SMALL * all_values)


def _in_layout(output: Any, order: Sequence[int]) -> Any:
    """Convert an array that is broadcast to an image into the layout before the conversion."""
    from openvino import opset13 as ops

    rank = output.get_partial_shape().rank.get_length()
    if rank == 0:
        return output
    value = _constant(output)
    if value is not None:
        whole = value.reshape((1,) * (_RANK - rank) + value.shape)
        return ops.constant(np.ascontiguousarray(whole.transpose(_inverse(order)))).output(0)
    return _transposed(output, _inverse(order))


def _move_pad(node: Any) -> None:
    order = _order(node.input_value(0))
    pads = [_constant(node.input_value(k)) for k in (1, 2)]
    if order is None or any(pad is None for pad in pads):
        return
    for k, pad in enumerate(pads, start=1):
        node.input(k).replace_source_output(_integers([int(pad[axis]) for axis in _inverse(order)]))
    _move(node, 1)


def _move_reduction(node: Any) -> None:
    order, axes = _order(node.input_value(0)), _constant(node.input_value(1))
    if order is None or axes is None:
        return
    reduced = {int(axis) % _RANK for axis in np.ravel(axes)}
    node.input(0).replace_source_output(_source(node.input_value(0)))
    node.input(1).replace_source_output(_integers(sorted(order[axis] for axis in reduced)))
    if node.get_attributes()["keep_dims"]:
        _append(node, order)
        return
    kept = [order[axis] for axis in range(_RANK) if axis not in reduced]
    remaining = _inverse(_inverse(kept))  # positions of the remaining axes among themselves
    if list(remaining) == sorted(remaining):
        node.validate_and_infer_types()
    else:
        _append(node, remaining)


def _move_slice(node: Any) -> None:
    order = _order(node.input_value(0))
    axes = _constant(node.input_value(4)) if node.get_input_size() == 5 else None
    if order is None or axes is None:
        return
    node.input(4).replace_source_output(_integers([order[int(axis) % _RANK] for axis in np.ravel(axes)]))
    _move(node, 1)


def _move_concat(node: Any) -> None:
    orders = {_order(node.input_value(k)) for k in range(node.get_input_size())}
    order = orders.pop()
    if orders or order is None:
        return
    node.set_attribute("axis", order[int(node.get_attributes()["axis"]) % _RANK])
    _move(node, node.get_input_size())
