"""Inside a trained network: dead kernels, silent channels, and the information that non-linearities lose.

Nothing here modifies the network. Layers are named as in `mnet.models.cost`, without `.conv`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnet.models.layers import Activate, ConvNormAct, is_depthwise
from mnet.models.network import MobileNet

DEAD = 0.01
"""Fraction of the initial norm below which a depthwise kernel counts as dead."""

DEAD_LOG = "kernels/dead"
"""Name under which training logs the percentage of dead kernels; per layer `kernels/dead/<layer>`."""


@dataclass(frozen=True)
class KernelNorms:
    """The depthwise kernels of a layer."""

    layer: str
    norms: Tensor
    """(C,) L2 norms, as fractions of the mean norm at initialisation."""

    @property
    def dead(self) -> float:
        """The fraction of dead kernels."""
        return float((self.norms < DEAD).float().mean())


def depthwise_kernels(net: nn.Module, replicas: int = 1) -> list[KernelNorms]:
    """The norms of all depthwise kernels, layer by layer in the order of execution.

    In a stacked network (`mnet.models.replicas`), each layer has the kernels of all replicas, one after another.

    Source: V1 §3.2 excludes these kernels from weight decay, because they have so few weights.
    """
    layers = []
    for name, conv in net.named_modules():
        if is_depthwise(conv):
            assert isinstance(conv, nn.Conv2d)
            # mnet.models.network.initialise draws with a variance of 2 / (channels * kernel size)
            initial = math.sqrt(2 * replicas / len(conv.weight))
            norms = conv.weight.detach().flatten(1).norm(dim=1) / initial
            layers.append(KernelNorms(name.removesuffix(".conv"), norms))
    return layers


@dataclass(frozen=True)
class DeadKernelStats:
    """The dead depthwise kernels of a network."""

    share: float
    """Fraction of all kernels that are dead."""
    least: float
    """The smallest norm, as a fraction of the mean norm at initialisation."""
    layers: Mapping[str, float]
    """Layer -> fraction of its kernels that are dead."""


def dead_kernels(net: nn.Module, replicas: int = 1) -> list[DeadKernelStats]:
    """The dead kernels of each replica; empty for a network without depthwise convolutions."""
    layers = {layer.layer: layer.norms.view(replicas, -1) for layer in depthwise_kernels(net, replicas)}
    stats = []
    for i in range(replicas if layers else 0):
        shares = {name: float((norms[i] < DEAD).float().mean()) for name, norms in layers.items()}
        all_norms = torch.cat([norms[i] for norms in layers.values()])
        stats.append(DeadKernelStats(float((all_norms < DEAD).float().mean()), float(all_norms.min()), shares))
    return stats


@dataclass(frozen=True)
class ActivationStats:
    """What a non-linearity does to a batch of images."""

    layer: str
    activation: str
    channels: int
    silent: float
    """Fraction of the channels that are zero at every position of every image."""
    rank_before: float
    rank_after: float
    """Effective ranks of the channels over positions and images; from 1 to `channels`."""
    low: float
    high: float
    """The smallest and largest output: the range that int8 must cover."""
    largest: float
    """The 99.9% quantile of the outputs."""


def activation_stats(net: MobileNet, images: Tensor) -> list[ActivationStats]:
    """What each non-linearity of a network does to images (N, C, H, W) at inference, in the order of execution."""
    stats: list[ActivationStats] = []

    def measure(name: str, layer: Activate, before: Tensor, after: Tensor) -> None:
        values = after.detach().float()
        silent = float((values.abs().amax((0, *range(2, values.ndim))) == 0).float().mean())
        flat = values.flatten()
        stats.append(
            ActivationStats(
                layer=name,
                activation=layer.name,
                channels=values.shape[1],
                silent=silent,
                rank_before=effective_rank(_rows(before)),
                rank_after=effective_rank(_rows(values)),
                low=float(flat.min()),
                high=float(flat.max()),
                largest=float(flat.kthvalue(max(1, math.ceil(0.999 * len(flat)))).values),
            )
        )

    with _hooked(net, measure), torch.no_grad():
        training = net.training
        net.eval()(images)
        net.train(training)
    return stats


@contextmanager
def _hooked(net: MobileNet, measure: Callable[[str, Activate, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `measure` with name, layer, input and output of every non-linearity after a batch norm."""
    handles = []
    for name, block in net.named_modules():
        if not isinstance(block, ConvNormAct) or not hasattr(block, "act"):
            continue
        before: dict[str, Tensor] = {}

        def after_norm(module: nn.Module, inputs: object, output: Tensor, before: dict[str, Tensor] = before) -> None:
            before["norm"] = output.detach().float().clone()  # the activation may write in place

        def after_activation(
            module: Activate,
            inputs: object,
            output: Tensor,
            name: str = name,
            before: dict[str, Tensor] = before,
        ) -> None:
            measure(name, module, before.pop("norm"), output)

        handles += [
            block.norm.register_forward_hook(after_norm),
            block.act.register_forward_hook(after_activation),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(maps: Tensor, most: int = 8192) -> Tensor:
    """(N, C, ...) -> (positions of all images, C), evenly subsampled to about `most` positions."""
    rows = maps.flatten(2).transpose(1, 2).flatten(0, 1) if maps.ndim > 2 else maps
    return rows[:: max(1, len(rows) // most)]


def effective_rank(rows: Tensor) -> float:
    """The exponential of the entropy of the normalised singular values: (M, C) -> 1 to min(M, C); 0 for zeros.

    Source: Roy and Vetterli 2007, "The effective rank".
    """
    values = torch.linalg.svdvals(rows.float().double())
    total = values.sum()
    if not total:
        return 0.0
    shares = values[values > 0] / total
    return float((-(shares * shares.log()).sum()).exp())


@dataclass(frozen=True)
class Embedding:
    """A plane curve, embedded in `dimensions` dimensions, through ReLU, and projected back."""

    dimensions: int
    curve: Tensor
    back: Tensor
    """(N, 2), like `curve`."""

    @property
    def lost(self) -> float:
        """The fraction of the curve's variance that is lost."""
        return float((self.back - self.curve).square().sum() / self.curve.square().sum())


def spiral(count: int = 500, turns: float = 2.5) -> Tensor:
    """Points (count, 2) of a spiral within the unit circle, with mean zero."""
    angle = torch.linspace(0, 2 * math.pi * turns, count, dtype=torch.float64)
    curve = torch.stack([angle.cos(), angle.sin()], 1) * (angle / angle[-1])[:, None]
    return curve - curve.mean(0)


def through_relu(dimensions: Sequence[int], seed: int = 0, curve: Tensor | None = None) -> list[Embedding]:
    """A curve through a random matrix, ReLU, and the inverse of the matrix, for each number of dimensions.

    The fewer dimensions, the more collapses, which is why a bottleneck should be linear. Source: V2 §3.2, figure 1.
    """
    curve = spiral() if curve is None else curve
    embeddings = []
    for count in dimensions:
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(2, count, generator=generator, dtype=torch.float64)
        back = (curve @ matrix).relu() @ torch.linalg.pinv(matrix)
        scale = (back * curve).sum() / back.square().sum().clamp_min(1e-12)  # ReLU shrinks the curve
        embeddings.append(Embedding(count, curve, back * scale))
    return embeddings


def hard_swish_gap(low: float = -8.0, high: float = 8.0, count: int = 4001) -> Mapping[str, float]:
    """h-swish minus swish: the `largest` difference, the x it occurs `at`, and the `mean` absolute one over the range.

    Source: V3 §5.2, figure 6.
    """
    x = torch.linspace(low, high, count, dtype=torch.float64)
    gap = nn.functional.hardswish(x) - nn.functional.silu(x)
    worst = int(gap.abs().argmax())
    return {"largest": float(gap[worst]), "at": float(x[worst]), "mean": float(gap.abs().mean())}
