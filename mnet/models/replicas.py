"""K networks of one table as one: their channels side by side, and every layer called once for all of them.

A step of a small network is calls as much as arithmetic, and an ablation trains nearly the same network many times.
Replicas share nothing: weights, batch statistics, gradients and dropout are each one's own. A replica is what it would
be alone, up to the order of summation, and one that diverges does not reach the others.

Every parameter and buffer of the stacked network is those of its replicas, one after another along the first
dimension, under the name that one has: `join` and `split` go between the two, also for the state of an optimiser.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from mnet.models.heads import Head
from mnet.models.layers import Conv2d, use_cpu_kernels
from mnet.models.network import MobileNet
from mnet.provenance import seed_all


def stack(nets: Sequence[MobileNet]) -> MobileNet:
    """One network of several of the same `Network`, with copies of their weights.

    Shape:
        (N, K * in_channels, H, W), the replicas' images side by side, to what one gives with K times the channels.
        `take_apart` has each one's.
    """
    stacked = copy.deepcopy(nets[0])
    weight = next(stacked.parameters())
    for parent in list(stacked.modules()):
        for name, layer in list(parent.named_children()):
            if (wide := widened(layer, len(nets))) is not None:
                parent.register_module(name, wide.train(layer.training))
        if isinstance(parent, Head):
            parent.replicas = len(nets)
    stacked.to(weight.device, weight.dtype)
    stacked.load_state_dict(join([net.state_dict() for net in nets]))
    return stacked


def widened(layer: nn.Module, count: int) -> nn.Module | None:
    """The layer for so many replicas, its weights not filled in; None where it treats channels alike."""
    if isinstance(layer, nn.Conv2d):
        return ReplicatedConv2d(layer, count)
    if isinstance(layer, nn.Linear):
        return ReplicatedLinear(layer, count)
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(count * layer.num_features, layer.eps, layer.momentum)
    return ReplicatedDropout(layer.p, count) if isinstance(layer, nn.Dropout) else None


def take_apart(answers: Tensor, count: int) -> tuple[Tensor, ...]:
    """What each replica says: channels are the second dimension of maps (N, C, H, W), and the last of all else."""
    return answers.chunk(count, 1 if answers.dim() == 4 else -1)


def join(states: Sequence[Any]) -> Any:
    """States of single networks, or of their optimisers, as the state of the stacked one: tensors one after another
    along the first dimension; all else, single numbers too, is the first one's."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(list(states)) if first.dim() else first
    if isinstance(first, Mapping):
        return {name: join([state[name] for state in states]) for name in first}
    if isinstance(first, list | tuple):
        return [join(parts) for parts in zip(*states, strict=True)]
    return first


def split(state: Any, count: int) -> list[Any]:
    """The inverse of `join`: a state a replica, which shares no memory with the others'."""
    return [part(state, count, index) for index in range(count)]


def part(state: Any, count: int, index: int) -> Any:
    if isinstance(state, Tensor):
        return state.chunk(count)[index].clone() if state.dim() else state
    if isinstance(state, Mapping):
        return {name: part(value, count, index) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [part(value, count, index) for value in state]
    return state


class ReplicatedConv2d(Conv2d):
    """K convolutions side by side: grouped; those with a kernel of one pixel as K products of matrices."""

    def __init__(self, layer: nn.Conv2d, count: int) -> None:
        super().__init__(
            count * layer.in_channels,
            count * layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            count * layer.groups,
            layer.bias is not None,
        )
        self.replicas = count

    def forward(self, x: Tensor) -> Tensor:
        if self.groups > self.replicas or self.kernel_size != (1, 1) or self.stride != (1, 1):
            return super().forward(x)
        n, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
        out = products(rows, self.weight, self.bias, self.replicas)
        return out.view(n, height, width, -1).permute(0, 3, 1, 2)


class ReplicatedLinear(nn.Module):
    """K linear layers side by side: (N, K * in) -> (N, K * out)."""

    def __init__(self, layer: nn.Linear, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count * layer.out_features, layer.in_features))
        self.bias = nn.Parameter(torch.empty(count * layer.out_features))
        self.replicas = count

    def forward(self, x: Tensor) -> Tensor:
        return products(x, self.weight, self.bias, self.replicas)


class ReplicatedDropout(nn.Module):
    """K dropouts side by side, each of which draws by a seed of its own where `seeds` are given."""

    def __init__(self, p: float, count: int) -> None:
        super().__init__()
        self.p = p
        self.replicas = count
        self.seeds: Sequence[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        return functional.dropout(x, self.p) if self.seeds is None else self.drop(x)

    @torch.compiler.disable  # it would compile each step's seeds in
    def drop(self, x: Tensor) -> Tensor:
        assert self.seeds is not None
        parts = []
        for own, seed in zip(x.chunk(self.replicas, 1), self.seeds, strict=True):
            seed_all(seed)
            parts.append(functional.dropout(own, self.p))
        return torch.cat(parts, 1)


def products(rows: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
    """Each replica's rows times its own weights: (M, K * in), (K * out, in) -> (M, K * out)."""
    weights = weight.view(count, -1, rows.shape[1] // count)
    if use_cpu_kernels(rows):
        out = InPlace.apply(rows, weights)
    else:
        apart = rows.view(len(rows), count, -1).transpose(0, 1)
        out = torch.bmm(apart, weights.transpose(1, 2)).transpose(0, 1).reshape(len(rows), -1)
    return out if bias is None else out + bias.to(out.dtype)


NARROW = 8
"""Channels of a result for which a product of matrices wants its second factor in another order."""


class Kept(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]


class InPlace(torch.autograd.Function):
    """`products` without the two transpositions that a batched product asks for: every replica reads its columns where
    they are and writes beside the others. On a CPU these take what a batched call saves.

    What a replica gets does not depend on how many there are, to the last bit.
    """

    @staticmethod
    def forward(ctx: Kept, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        count, wide, _ = weights.shape
        out = rows.new_empty(len(rows), count * wide)
        for own, weight, result in zip(rows.chunk(count, 1), weights, out.chunk(count, 1), strict=True):
            torch.mm(own, weight.t(), out=result)
        return out

    @staticmethod
    def backward(ctx: Kept, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, weights = ctx.saved_tensors
        count, out, into = weights.shape
        if into <= NARROW:
            weights = weights.transpose(1, 2).contiguous().transpose(1, 2)
        grad_rows, grad_weights = (
            torch.empty_like(rows),
            torch.empty_like(weights, memory_format=torch.contiguous_format),
        )
        if out > into:
            grad_weights = grad_weights.view(count, into, out).transpose(1, 2)
        parts = (rows.chunk(count, 1), grad.chunk(count, 1), weights, grad_rows.chunk(count, 1), grad_weights)
        for own, wanted, weight, grad_own, grad_weight in zip(*parts, strict=True):
            torch.mm(wanted, weight, out=grad_own)
            if out > into:  # a product takes ten times as long to a narrow result as to its transpose
                torch.mm(own.t(), wanted, out=grad_weight.t())
            else:
                torch.mm(wanted.t(), own, out=grad_weight)
        return grad_rows, grad_weights
