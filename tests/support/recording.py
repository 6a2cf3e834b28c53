"""CUDA graphs without a GPU: a step is traced into its operators, which are run again from then on, as a graph is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


def record(call: nn.Module, inputs: tuple[Any, ...], warm_up: int, allow_unused: bool) -> Callable[..., Any]:
    """Stands in for torch.cuda.make_graphed_callables: the Python code of `call` is not run again, inputs are copied
    to where the first ones were, and what is returned is overwritten by the next call."""
    static, spec = tree_flatten(inputs)
    params = [param for param in call.parameters() if param.requires_grad]
    found: list[Any] = []

    def joint(*gradients: Tensor) -> list[Tensor | None]:
        outputs, structure = tree_flatten(call(*tree_unflatten(static, spec)))
        heads = [output for output in outputs if output.requires_grad]
        found[:] = [structure, [output.requires_grad for output in outputs], [torch.ones_like(head) for head in heads]]
        grads = torch.autograd.grad(heads, params, gradients or found[2], allow_unused=allow_unused)
        return [*(output.detach() for output in outputs), *grads]

    for _ in range(warm_up):
        joint()
    graph = torch.no_grad()(make_fx(joint)(*found[2]))
    structure, differentiable, ones = found
    results = [None if value is None else value.clone() for value in graph(*ones)]
    buffers = list(call.buffers())

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            for place, value in zip(static, tensors, strict=False):
                place.copy_(value)
            ctx.before = [buffer.clone() for buffer in buffers], torch.get_rng_state()
            for place, value in zip(results, graph(*ones), strict=True):
                if place is not None:
                    place.copy_(value)
            return tuple(result.detach() for result in results[: len(differentiable)])

        @staticmethod
        def backward(ctx, *gradients):
            after = [buffer.clone() for buffer in buffers], torch.get_rng_state()
            torch._foreach_copy_(buffers, ctx.before[0])
            torch.set_rng_state(ctx.before[1])
            heads = [grad for grad, wanted in zip(gradients, differentiable, strict=True) if wanted]
            grads = graph(*heads)[len(differentiable) :]
            torch._foreach_copy_(buffers, after[0])
            torch.set_rng_state(after[1])
            return (*(None for _ in static), *grads)

    return lambda *user: tree_unflatten(list(Replay.apply(*tree_leaves(user), *params)), structure)
