"""CUDA graphs without a GPU: a call is traced into its operators, which are then rerun as a graph is replayed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from mnet.cuda_graphs import WARM_UP, Replay


def record(call: Callable[[], Any]) -> Replay[Any]:
    """Stands in for `mnet.cuda_graphs.record`: the Python code of `call` is not run again, and what it returned is
    overwritten by every replay."""
    for _ in range(WARM_UP):
        call()
    structure: list[Any] = []

    def flat() -> list[Tensor | None]:
        leaves, spec = tree_flatten(call())
        structure[:] = [spec]
        return leaves

    graph = torch.no_grad()(make_fx(flat)())
    results = [None if value is None else value.clone() for value in graph()]

    def replay() -> None:
        for place, value in zip(results, graph(), strict=True):
            if place is not None:
                place.copy_(value)

    return Replay(SimpleNamespace(replay=replay), tree_unflatten(results, structure[0]), call)


def record_network(net: nn.Module, inputs: tuple[Tensor], warm_up: int, allow_unused: bool) -> Callable[..., Any]:
    """Stands in for torch.cuda.make_graphed_callables, for a network with one output: an autograd function replays it.
    New images are copied to where the first ones were."""
    (images,) = inputs
    params = [param for param in net.parameters() if param.requires_grad]
    recorded = record(lambda: (net(images).detach(),))
    buffers = list(net.buffers())

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: Tensor, *_: Tensor) -> Tensor:
            images.copy_(given)
            ctx.before = [buffer.clone() for buffer in buffers]
            return recorded()[0].detach()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            after = [buffer.clone() for buffer in buffers]
            torch._foreach_copy_(buffers, ctx.before)
            with torch.enable_grad():
                grads = torch.autograd.grad(net(images), params, grad, allow_unused=allow_unused)
            torch._foreach_copy_(buffers, after)
            return None, *grads

    return lambda given: Function.apply(given, *params)
