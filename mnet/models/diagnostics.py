"""Looking inside a network: kernels that have died, channels that are silent, what a non-linearity takes away.

Everything here reads a network and some images, and changes nothing. Layers are named as in
`mnet.models.cost`, without `.conv`.
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
"""Of the norm that a kernel of its layer starts with: below it a depthwise kernel is called dead."""


LOGGED = "kernels/dead"
"""Where the share of dead kernels is logged while a network trains; that of a layer as `kernels/dead/<layer>`."""


@dataclass(frozen=True)
class Kernels:
    """The depthwise kernels of a layer."""

    layer: str
    norms: Tensor
    """(C,) L2 norm of each, as a share of what a new kernel of the layer has on average."""

    @property
    def dead(self) -> float:
        """Shard of the kernels below `DEAD`."""
        return float((self.norms < DEAD).float().mean())


def depthwise_kernels(net: nn.Module, replicas: int = 1) -> list[Kernels]:
    """The depthwise kernels of every layer that has some, in the order of execution; of several networks side by side
    (`mnet.models.replicas`) those of the first one before those of the second.

    Source: V1 §3.2 leaves them out of weight decay, for there are so few weights in them.
    """
    found = []
    for name, conv in net.named_modules():
        if is_depthwise(conv):
            assert isinstance(conv, nn.Conv2d)
            # see mnet.models.network.initialise: a variance of 2 / (channels * size)
            new = math.sqrt(2 * replicas / len(conv.weight))
            norms = conv.weight.detach().flatten(1).norm(dim=1) / new
            found.append(Kernels(name.removesuffix(".conv"), norms))
    return found


@dataclass(frozen=True)
class Dead:
    """What has died of a network's depthwise kernels."""

    share: float
    """Of all kernels."""
    least: float
    """The smallest norm, as a share of a new kernel's."""
    layers: Mapping[str, float]
    """Layer -> share of its kernels."""


def dead_kernels(net: nn.Module, replicas: int = 1) -> list[Dead]:
    """Of each replica; of a network without depthwise convolutions nothing."""
    layers = {one.layer: one.norms.view(replicas, -1) for one in depthwise_kernels(net, replicas)}
    found = []
    for i in range(replicas if layers else 0):
        own = {name: norms[i] for name, norms in layers.items()}
        shares = {name: float((norms < DEAD).float().mean()) for name, norms in own.items()}
        every = torch.cat(list(own.values()))
        found.append(Dead(float((every < DEAD).float().mean()), float(every.min()), shares))
    return found


@dataclass(frozen=True)
class Seen:
    """What a non-linearity does to the images that went through it."""

    layer: str
    activation: str
    channels: int
    silent: float
    """Shard of the channels that are zero at every place of every image."""
    rank_before: float
    rank_after: float
    """Effective ranks of the channels over places and images; from 1 to `channels`."""
    low: float
    high: float
    """The least and the largest value after it: what an int8 range has to hold."""
    largest: float
    """Between a thousandth of the values above it and the others."""


def activations(net: MobileNet, images: Tensor) -> list[Seen]:
    """What each non-linearity of a network does to images (N, C, H, W), in the order of execution, at inference."""
    found: list[Seen] = []

    def look(name: str, layer: Activate, before: Tensor, after: Tensor) -> None:
        values = after.detach().float()
        silent = float((values.abs().amax((0, *range(2, values.ndim))) == 0).float().mean())
        spread = values.flatten()
        found.append(
            Seen(
                layer=name,
                activation=layer.name,
                channels=values.shape[1],
                silent=silent,
                rank_before=effective_rank(rows_of(before)),
                rank_after=effective_rank(rows_of(values)),
                low=float(spread.min()),
                high=float(spread.max()),
                largest=float(spread.kthvalue(max(1, math.ceil(0.999 * len(spread)))).values),
            )
        )

    with listening(net, look), torch.no_grad():
        training = net.training
        net.eval()(images)
        net.train(training)
    return found


@contextmanager
def listening(net: MobileNet, look: Callable[[str, Activate, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `look` with name, layer, input and output of every non-linearity that follows a batch norm."""
    handles = []
    for name, block in net.named_modules():
        if not isinstance(block, ConvNormAct) or not hasattr(block, "act"):
            continue
        before: dict[str, Tensor] = {}

        def keep(module: nn.Module, inputs: object, output: Tensor, before: dict[str, Tensor] = before) -> None:
            before["norm"] = output.detach().float().clone()  # what follows may write in place

        def tell(
            module: Activate,
            inputs: object,
            output: Tensor,
            name: str = name,
            before: dict[str, Tensor] = before,
        ) -> None:
            look(name, module, before.pop("norm"), output)

        handles += [block.norm.register_forward_hook(keep), block.act.register_forward_hook(tell)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rows_of(maps: Tensor, most: int = 8192) -> Tensor:
    """(N, C, ...) -> (places of all images, C), evenly thinned to `most` places."""
    rows = maps.flatten(2).transpose(1, 2).flatten(0, 1) if maps.ndim > 2 else maps
    return rows[:: max(1, len(rows) // most)]


def effective_rank(rows: Tensor) -> float:
    """The exponential of the entropy of the singular values' shares: (M, C) -> 1 to min(M, C); 0 of nothing.

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
    """A curve in the plane, sent through so many dimensions, a non-linearity, and back."""

    dimensions: int
    curve: Tensor
    back: Tensor
    """(N, 2) as `curve`."""

    @property
    def lost(self) -> float:
        """Of the curve's variance, what does not come back."""
        return float((self.back - self.curve).square().sum() / self.curve.square().sum())


def spiral(count: int = 500, turns: float = 2.5) -> Tensor:
    """Points (count, 2) of a spiral about zero, within the unit circle."""
    angle = torch.linspace(0, 2 * math.pi * turns, count, dtype=torch.float64)
    curve = torch.stack([angle.cos(), angle.sin()], 1) * (angle / angle[-1])[:, None]
    return curve - curve.mean(0)


def through_relu(dimensions: Sequence[int], seed: int = 0, curve: Tensor | None = None) -> list[Embedding]:
    """A curve embedded by a random matrix, ReLU, and the inverse of that matrix.

    The more dimensions, the less of it collapses: why a bottleneck should be linear. Source: V2 §3.2, figure 1.
    """
    curve = spiral() if curve is None else curve
    found = []
    for count in dimensions:
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(2, count, generator=generator, dtype=torch.float64)
        back = (curve @ matrix).relu() @ torch.linalg.pinv(matrix)
        scale = (back * curve).sum() / back.square().sum().clamp_min(1e-12)  # ReLU halves what it lets through
        found.append(Embedding(count, curve, back * scale))
    return found


def hard_swish_gap(low: float = -8.0, high: float = 8.0, count: int = 4001) -> Mapping[str, float]:
    """How far h-swish is from swish, and from where: the largest difference, its place, and the mean over the range.

    Source: V3 §5.2, figure 6.
    """
    x = torch.linspace(low, high, count, dtype=torch.float64)
    gap = nn.functional.hardswish(x) - nn.functional.silu(x)
    worst = int(gap.abs().argmax())
    return {"largest": float(gap[worst]), "at": float(x[worst]), "mean": float(gap.abs().mean())}
