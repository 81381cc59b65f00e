"""Names in graphs of TensorFlow that depend only on the content of the graph.

TensorFlow finds a compiled program on disk by the name of its function and by the names in its graph. These contain
numbers that count everything that the process has made before, so that only a process with the same history would find
a program again. The functions here take and return `GraphDef` messages and need no TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

# Attributes of nodes that contain names, and that only Python, gradients or placement by name need.
_NAMING = ("_class", "_gradient_op_type", "_output_shapes", "_user_specified_name")
_CONTEXT = "_construction_context"


def use_stable_names(graph: Any, salt: str) -> str:
    """Rename all functions of a graph, and everything in them, in place.

    Args:
        graph: A `GraphDef` with a single call of a function, `PartitionedCall` or `StatefulPartitionedCall`.
        salt: What the compiled function depends on beside its graph.

    Returns:
        The new name of the function that is called, which contains a digest of its content.

    Raises:
        ValueError: If not exactly one node calls a function.
    """
    (call,) = [node for node in graph.node if "f" in node.attr]
    functions = {function.signature.name: function for function in graph.library.function}
    numbers: dict[str, str] = {}
    _number(call.attr["f"].func.name, functions, numbers)
    used = [functions[name] for name in numbers]
    digest = hashlib.sha256(salt.encode())
    for function in used:
        _rename_within(function)
        for reference in _references(function):
            reference.name = numbers[reference.name]
        function.signature.name = numbers[function.signature.name]
        digest.update(function.SerializeToString(deterministic=True))
    # A name must not be used for two contents within a process, so that the digest is part of it.
    prefix = f"bhsearch_{digest.hexdigest()[:32]}_"
    for function in used:
        function.signature.name = prefix + function.signature.name
        for reference in _references(function):
            reference.name = prefix + reference.name
    call.attr["f"].func.name = used[0].signature.name
    library = graph.library
    library.Clear()
    library.function.extend(used)
    return str(call.attr["f"].func.name)


def _number(name: str, functions: dict[str, Any], numbers: dict[str, str]) -> None:
    """Number a function and those that it refers to, in the order of the references."""
    if name not in numbers:
        numbers[name] = f"f{len(numbers)}"
        for reference in _references(functions[name]):
            _number(reference.name, functions, numbers)


def _references(function: Any) -> Iterator[Any]:
    """Yield the references of a function's nodes to other functions, such as the body of a loop."""
    for node in function.node_def:
        for key in sorted(node.attr):
            value = node.attr[key]
            if value.HasField("func"):
                yield value.func
            elif value.HasField("list"):
                yield from value.list.func


def _rename_within(function: Any) -> None:
    """Number the arguments, nodes and outputs of a function."""
    signature = function.signature
    inner = {argument.name: f"a{k}" for k, argument in enumerate(signature.input_arg)}
    inner |= {node.name: f"n{k}" for k, node in enumerate(function.node_def)}
    outputs = {argument.name: f"o{k}" for k, argument in enumerate(signature.output_arg)}

    def renamed(tensor: str) -> str:  # such as `node:output:0`, `argument`, or `^node` for a control input
        name, colon, rest = tensor.removeprefix("^").partition(":")
        return f"{'^' if tensor.startswith('^') else ''}{inner[name]}{colon}{rest}"

    returned = {outputs[name]: renamed(tensor) for name, tensor in function.ret.items()}
    controls = {f"c{k}": inner[function.control_ret[name]] for k, name in enumerate(signature.control_output)}
    for arguments, names in ((signature.input_arg, inner), (signature.output_arg, outputs)):
        for argument in arguments:
            argument.name = names[argument.name]
    function.ret.clear()
    function.ret.update(returned)
    function.control_ret.clear()
    function.control_ret.update(controls)
    signature.control_output[:] = list(controls)
    function.arg_attr.clear()
    function.attr.pop(_CONTEXT, None)
    for node in function.node_def:
        node.name = inner[node.name]
        node.input[:] = [renamed(tensor) for tensor in node.input]
        node.ClearField("experimental_debug_info")
        for key in _NAMING:
            node.attr.pop(key, None)
