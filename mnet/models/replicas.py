"""K networks of one table as one network: their channels side by side, every layer called once for all of them.

Small networks spend as much of a step on calls as on arithmetic, and ablations train nearly the same network often.
Replicas share nothing: each has its own weights, batch statistics, gradients and dropout. A replica computes what it
would compute alone, up to the order of summation, and one that diverges does not affect the others.

Every parameter and buffer of the stacked network has the replicas' values concatenated along the first dimension, under
the same name. `join` and `split` convert between the two, also for the state of an optimiser.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnet.models.heads import Head
from mnet.models.kernels import Conv2d, grouped_product
from mnet.models.network import MobileNet
from mnet.seeding import seed_all


def stack(nets: Sequence[MobileNet]) -> MobileNet:
    """One network made of several of the same `Network`, with copies of their weights.

    Shape:
        (N, K * in_channels, H, W), the replicas' images side by side, to one network's output with K times the
        channels; `take_apart` splits it.
    """
    stacked = copy.deepcopy(nets[0])
    weight = next(stacked.parameters())
    for parent in list(stacked.modules()):
        for name, layer in list(parent.named_children()):
            if (replicated := _replicate(layer, len(nets))) is not None:
                parent.register_module(name, replicated.train(layer.training))
        if isinstance(parent, Head):
            parent.replicas = len(nets)
    stacked.to(weight.device, weight.dtype)
    stacked.load_state_dict(join([net.state_dict() for net in nets]))
    return stacked


def _replicate(layer: nn.Module, count: int) -> nn.Module | None:
    """The layer for `count` replicas, its weights not filled in; None if the layer works for any number of them."""
    if isinstance(layer, nn.Conv2d):
        return ReplicatedConv2d(layer, count)
    if isinstance(layer, nn.Linear):
        return ReplicatedLinear(layer, count)
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(count * layer.num_features, layer.eps, layer.momentum)
    return ReplicatedDropout(layer.p, count) if isinstance(layer, nn.Dropout) else None


def take_apart(outputs: Tensor, count: int) -> tuple[Tensor, ...]:
    """Each replica's output: channels are the second dimension of maps (N, C, H, W), and the last of other outputs."""
    return outputs.chunk(count, 1 if outputs.dim() == 4 else -1)


def join(states: Sequence[Any]) -> Any:
    """The states of single networks, or of their optimisers, as the state of the stacked one.

    Tensors are concatenated along the first dimension; scalars and everything else are taken from the first state.
    """
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(list(states)) if first.dim() else first
    if isinstance(first, Mapping):
        return {name: join([state[name] for state in states]) for name in first}
    if isinstance(first, list | tuple):
        return [join(parts) for parts in zip(*states, strict=True)]
    return first


def split(state: Any, count: int) -> list[Any]:
    """The inverse of `join`: one state per replica; they share no memory."""
    return [_part(state, count, index) for index in range(count)]


def _part(state: Any, count: int, index: int) -> Any:
    if isinstance(state, Tensor):
        return state.chunk(count)[index].clone() if state.dim() else state
    if isinstance(state, Mapping):
        return {name: _part(value, count, index) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [_part(value, count, index) for value in state]
    return state


FEW_CHANNELS = 4
"""Most input channels of a replica at which a GPU convolves by matrix products; a stem has 1 or 3."""


class ReplicatedConv2d(Conv2d):
    """K convolutions side by side: as one grouped convolution, or, if pointwise, as K matrix products."""

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
            few = self.groups == self.replicas and self.in_channels <= FEW_CHANNELS * self.replicas
            return self.by_windows(x) if x.is_cuda and few else super().forward(x)
        n, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
        out = grouped_product(rows, self.weight, self.bias, self.replicas)
        return out.view(n, height, width, -1).permute(0, 3, 1, 2)

    def by_windows(self, x: Tensor) -> Tensor:
        """The convolution as matrix products with all windows of the image: for few channels, a GPU's grouped
        convolutions (a seventh of a step of sixteen V3-Small) take several times as long."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        pixels = functional.pad(x, [int(padding)] * 4).permute(0, 2, 3, 1)
        windows = pixels.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (N, H, W, K * in, kernel, kernel)
        n, height, width = windows.shape[:3]
        out = grouped_product(windows.reshape(n * height * width, -1), self.weight.flatten(1), self.bias, self.replicas)
        return out.view(n, height, width, -1).permute(0, 3, 1, 2)


class ReplicatedLinear(nn.Module):
    """K linear layers side by side: (N, K * in) -> (N, K * out)."""

    def __init__(self, layer: nn.Linear, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count * layer.out_features, layer.in_features))
        self.bias = nn.Parameter(torch.empty(count * layer.out_features))
        self.replicas = count

    def forward(self, x: Tensor) -> Tensor:
        return grouped_product(x, self.weight, self.bias, self.replicas)


class ReplicatedDropout(nn.Module):
    """K dropouts side by side; once seeded, each draws from its own seed."""

    def __init__(self, p: float, count: int) -> None:
        super().__init__()
        self.p = p
        self.replicas = count
        self._seeds: Sequence[int] | None = None
        self._holds_mask = False
        self._mask: Tensor | None = None

    def seed(self, seeds: Sequence[int]) -> None:
        """Draw the next mask from these seeds, one per replica."""
        self._seeds = seeds
        if self._mask is not None:
            self._mask.copy_(self._draw(self._mask))

    def hold_mask(self) -> None:
        """From now on, draw the mask in `seed`, into a tensor that keeps its address: recorded calls
        (`mnet.training.recorded`) cannot take seeds."""
        self._holds_mask = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        if self._seeds is None:
            return functional.dropout(x, self.p)
        if self._mask is not None and self._mask.shape == x.shape:
            return x * self._mask
        mask = self._draw(x)
        if self._holds_mask:
            self._mask = mask
        return x * mask

    @torch.compiler.disable  # otherwise each step's seeds are compiled in
    @torch.no_grad()
    def _draw(self, like: Tensor) -> Tensor:
        """A mask: 1 / (1 - p) for the values to keep, 0 for the others."""
        assert self._seeds is not None
        parts = []
        for part, seed in zip(torch.ones_like(like).chunk(self.replicas, 1), self._seeds, strict=True):
            seed_all(seed)
            parts.append(functional.dropout(part, self.p))
        return torch.cat(parts, 1)
