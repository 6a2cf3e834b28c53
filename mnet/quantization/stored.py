"""An int8 graph stored as tensors and a list of calls, and rebuilt from them: no code in a file is run.

    {"format": FORMAT, "tensors": {name: Tensor}, "calls": [[operator, [argument, ...]], ...], "output": number}

An argument is a number, a boolean, None, a dtype, a list of these, {"tensor": name}, or {"call": number}: the result of
an earlier call, or the images for number 0.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

FORMAT = "mnet int8 graph 1"

OPERATORS = (
    *("aten.conv2d.default", "aten.linear.default", "aten.add.Tensor", "aten.mul.Tensor"),
    *("aten.relu.default", "aten.relu6.default", "aten.hardswish.default", "aten.silu.default"),
    *("aten.hardsigmoid.default", "aten.sigmoid.default", "aten.mean.dim", "aten.flatten.using_ints"),
    *("quantized_decomposed.quantize_per_tensor.default", "quantized_decomposed.dequantize_per_tensor.default"),
    "quantized_decomposed.dequantize_per_channel.default",
)
"""All operators that the int8 graph of a MobileNet calls. They only compute; some of torch's others open files."""


def describe_graph(graph: GraphModule) -> dict[str, object]:
    """An int8 graph as the content of a file.

    Raises:
        ValueError: The graph calls something that is not in `OPERATORS`.
    """
    state = graph.state_dict()
    tensors: dict[str, Tensor] = {}
    calls: list[object] = []
    references: dict[Node, dict[str, object]] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            references[node] = {"call": 0}
        elif node.op == "get_attr":
            name = str(node.target).replace(".", "_")
            tensors[name] = state[str(node.target)].clone()  # if it is a view, without the rest
            references[node] = {"tensor": name}
        elif node.op == "call_function":
            if str(node.target) not in OPERATORS or node.kwargs:
                raise ValueError(f"an int8 graph cannot be written with {node.target}")
            calls.append([str(node.target), [_written(argument, references) for argument in node.args]])
            references[node] = {"call": len(calls)}
    output: Any = graph.graph.output_node().args[0]
    (last,) = output if isinstance(output, tuple | list) else (output,)
    return {"format": FORMAT, "tensors": tensors, "calls": calls, "output": references[last]["call"]}


def build_graph(content: Any) -> GraphModule:
    """The graph that `describe_graph` described.

    Raises:
        ValueError, KeyError, IndexError, TypeError: The content is not such a description.
    """
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    root, graph = nn.Module(), Graph()
    results, tensors = [graph.placeholder("x")], {}
    for name, tensor in content["tensors"].items():
        if not (name.isidentifier() and not keyword.iskeyword(name) and isinstance(tensor, Tensor)):
            raise ValueError(f"{name!r} is not the name of a tensor")  # torch writes names into the code that it runs
        root.register_buffer(name, tensor)
        tensors[name] = graph.get_attr(name)
    for operator, arguments in content["calls"]:
        if operator not in OPERATORS:
            raise ValueError(f"{operator!r} is not an operator of an int8 network")
        namespace, name, overload = operator.split(".")
        target = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        results.append(graph.call_function(target, tuple(_read(argument, results, tensors) for argument in arguments)))
    graph.output(results[content["output"]])
    return GraphModule(root, graph)


def _written(argument: object, references: Mapping[Node, dict[str, object]]) -> object:
    if isinstance(argument, Node):
        return references[argument]
    if isinstance(argument, list | tuple):
        return [_written(item, references) for item in argument]
    return argument


def _read(argument: Any, results: Sequence[Node], tensors: Mapping[str, Node]) -> Any:
    if isinstance(argument, dict):
        return tensors[argument["tensor"]] if "tensor" in argument else results[argument["call"]]
    if isinstance(argument, list):
        return [_read(item, results, tensors) for item in argument]
    if argument is None or type(argument) in (bool, int, float, torch.dtype):
        return argument
    raise TypeError(f"{argument!r} is not an argument of an operator")
