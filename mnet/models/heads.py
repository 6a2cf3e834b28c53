"""What stands on the feature maps of a network instead of its classifier: SSDLite, LR-ASPP and R-ASPP.

A head is built from its row in `mnet.models.tables.HEADS`; its activations are its own, whatever the toggle
`activation` says.
Every tensor is (N, C, H, W).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnet.models import spec
from mnet.models.layer_cost import LayerCost, convolution, linear
from mnet.models.layers import ConvNormAct
from mnet.models.spec import FeatureMap, HeadKind, Network, feature_map, last_map

BOX = 4
"""Numbers that a box's place is told by."""


class Head(nn.Module, ABC):
    """A head, and the maps that it stands on."""

    replicas = 1
    """Networks side by side in its maps' channels, see `mnet.models.replicas`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.maps = self.stands_on(network)
        self.build(network, settings_of(network))

    @staticmethod
    @abstractmethod
    def stands_on(network: Network) -> tuple[FeatureMap, ...]:
        """The maps of a network that `forward` takes."""

    @abstractmethod
    def build(self, network: Network, head: spec.Head) -> None:
        """Make the layers."""

    @staticmethod
    @abstractmethod
    def count(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        """The layers' cost, on maps of `sizes` pixels a side."""

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """From the maps, in the order of `self.maps`, of images of height and width `size`."""


class SSDLiteHead(Head):
    """Class scores and box places for every default box, on C4, C5 and further maps, each half as large.

    Source: V2 §6.2; V3 §6.3. The layout is torchvision's, after the authors' code.

    Shape:
        C4, C5 -> (N, boxes, num_classes + 1 + 4): scores before softmax, the background first; then the place.
        Boxes map by map, row by row, place by place, as many each as `Head.boxes` says.
    """

    @staticmethod
    def stands_on(network: Network) -> tuple[FeatureMap, ...]:
        return feature_map(network, "C4"), feature_map(network, "C5")

    def build(self, network: Network, head: spec.Head) -> None:
        normed = replace(network, bn_eps=head.bn_eps)
        widths = [*(one.channels for one in self.maps), *head.filters]
        self.extra = nn.ModuleList(
            extra_map(into, out, normed) for into, out in zip(widths[1:], head.filters, strict=False)
        )
        maps = list(zip(widths, head.boxes, strict=True))
        self.scores = nn.ModuleList(prediction(width, n * (network.num_classes + 1), normed) for width, n in maps)
        self.places = nn.ModuleList(prediction(width, n * BOX, normed) for width, n in maps)
        self.boxes = head.boxes

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        every = list(maps)
        for layer in self.extra:
            every.append(layer(every[-1]))
        told = [
            beside([by_box(scores(x), n, self.replicas), by_box(places(x), n, self.replicas)], 2, self.replicas)
            for x, n, scores, places in zip(every, self.boxes, self.scores, self.places, strict=True)
        ]
        return torch.cat(told, 1)

    @staticmethod
    def with_extra(sizes: Sequence[int], extra: int) -> list[int]:
        """The sides of C4 and C5, then those of so many further maps, each half as large, rounded up."""
        sides = list(sizes)
        for _ in range(extra):
            sides.append(-(-sides[-1] // 2))
        return sides

    @staticmethod
    def count(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        head = settings_of(network)
        sizes = SSDLiteHead.with_extra(sizes, len(head.filters))
        widths = [*(one.channels for one in SSDLiteHead.stands_on(network)), *head.filters]
        for i, out in enumerate(head.filters):
            into, half, size = widths[i + 1], out // 2, sizes[i + 1]
            yield convolution(f"head.extra.{i}.0.conv", "extra", (into, half), size)
            yield convolution(f"head.extra.{i}.1.conv", "extra", (half, half), size, 3, 2, groups=half)
            yield convolution(f"head.extra.{i}.2.conv", "extra", (half, out), sizes[i + 2])
        for i, (width, boxes, size) in enumerate(zip(widths, head.boxes, sizes, strict=True)):
            for kind, told in (("scores", network.num_classes + 1), ("places", BOX)):
                yield convolution(f"head.{kind}.{i}.0.conv", kind, (width, width), size, 3, groups=width)
                yield convolution(f"head.{kind}.{i}.1", kind, (width, boxes * told), size, bias=True)


def by_box(x: Tensor, boxes: int, replicas: int) -> Tensor:
    """(N, replicas * boxes * K, H, W) -> (N, H * W * boxes, replicas * K)."""
    told = x.permute(0, 2, 3, 1).unflatten(3, (replicas, boxes, -1)).transpose(3, 4)
    return told.flatten(4).flatten(1, 3)


def beside(parts: Sequence[Tensor], dim: int, replicas: int) -> Tensor:
    """Concatenated along `dim`, each replica's with its own."""
    if replicas == 1:
        return torch.cat(list(parts), dim)
    return torch.cat([part.unflatten(dim, (replicas, -1)) for part in parts], dim + 1).flatten(dim, dim + 1)


def extra_map(into: int, out: int, network: Network) -> nn.Sequential:
    """A map of half the size: 1x1 to half the filters, 3x3 depthwise of stride 2, 1x1."""
    half = out // 2
    return nn.Sequential(
        ConvNormAct(into, half, 1, "relu6", network=network),
        ConvNormAct(half, half, 3, "relu6", stride=2, groups=half, network=network),
        ConvNormAct(half, out, 1, "relu6", network=network),
    )


def prediction(into: int, out: int, network: Network) -> nn.Sequential:
    """3x3 depthwise and 1x1, the "Lite" of SSDLite."""
    return nn.Sequential(ConvNormAct(into, into, 3, "relu6", groups=into, network=network), nn.Conv2d(into, out, 1))


class LRASPPHead(Head):
    """A 1x1 branch on the last map, gated by its mean, enlarged; its scores and those of C3 are added.

    Source: V3 §6.4, figure 10. The gate's pooling is global, as in torchvision.

    Shape:
        C3, the last map -> (N, num_classes, H, W), scores before softmax at the images' size.
    """

    @staticmethod
    def stands_on(network: Network) -> tuple[FeatureMap, ...]:
        return feature_map(network, "C3"), last_map(network)

    def build(self, network: Network, head: spec.Head) -> None:
        low, high = self.maps
        (inner,) = head.filters
        self.branch = ConvNormAct(high.channels, inner, 1, "relu", network=replace(network, bn_eps=head.bn_eps))
        self.gate = nn.Conv2d(high.channels, inner, 1, bias=False)
        self.low = nn.Conv2d(low.channels, network.num_classes, 1)
        self.high = nn.Conv2d(inner, network.num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        low, high = maps
        x = self.branch(high) * self.gate(high.mean((2, 3), keepdim=True)).sigmoid()
        x = self.high(enlarged(x, low.shape[2:]))
        return enlarged(self.low(low) + x, size)

    @staticmethod
    def count(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        low, high = LRASPPHead.stands_on(network)
        (inner,), (fine, coarse) = settings_of(network).filters, sizes
        waiting = low.channels * fine**2
        yield convolution("head.branch.conv", "branch", (high.channels, inner), coarse, kept=waiting)
        alive = (high.channels + inner) * coarse**2 + waiting
        yield linear("head.gate", "branch", high.channels, inner, alive, bias=False)
        yield convolution("head.high", "scores", (inner, network.num_classes), fine, bias=True, kept=waiting)
        kept = network.num_classes * fine**2
        yield convolution("head.low", "scores", (low.channels, network.num_classes), fine, bias=True, kept=kept)


class RASPPHead(Head):
    """A 1x1 branch on the last map beside one on its mean, joined by a 1x1.

    Source: V2 §6.3 and V3 §6.4: of atrous spatial pyramid pooling the two branches that are not atrous.

    Shape:
        the last map -> (N, num_classes, H, W), scores before softmax at the images' size.
    """

    @staticmethod
    def stands_on(network: Network) -> tuple[FeatureMap, ...]:
        return (last_map(network),)

    def build(self, network: Network, head: spec.Head) -> None:
        (high,), (inner,) = self.maps, head.filters
        normed = replace(network, bn_eps=head.bn_eps)
        self.branch = ConvNormAct(high.channels, inner, 1, "relu", network=normed)
        self.pooled = ConvNormAct(high.channels, inner, 1, "relu", network=normed)
        self.join = ConvNormAct(2 * inner, inner, 1, "relu", network=normed)
        self.scores = nn.Conv2d(inner, network.num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        (high,) = maps
        pooled = enlarged(self.pooled(high.mean((2, 3), keepdim=True)), high.shape[2:])  # LiteRT cannot expand a map
        return enlarged(self.scores(self.join(beside([self.branch(high), pooled], 1, self.replicas))), size)

    @staticmethod
    def count(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        (high,), (inner,), (size,) = RASPPHead.stands_on(network), settings_of(network).filters, sizes
        yield convolution("head.pooled.conv", "branch", (high.channels, inner), 1, kept=high.channels * size**2)
        yield convolution("head.branch.conv", "branch", (high.channels, inner), size, kept=inner)
        yield convolution("head.join.conv", "branch", (2 * inner, inner), size)
        yield convolution("head.scores", "scores", (inner, network.num_classes), size, bias=True)


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


HEADS: Mapping[HeadKind, type[Head]] = {"ssdlite": SSDLiteHead, "lr_aspp": LRASPPHead, "r_aspp": RASPPHead}


def settings_of(network: Network) -> spec.Head:
    assert network.head is not None
    return network.head


def uses_tail(network: Network) -> bool:
    """Whether anything stands on the 1x1 tail: no head of segmentation where only the classifier needs it."""
    if network.head is None:
        return True
    return any(one.block == len(network.blocks) for one in HEADS[network.head.kind].stands_on(network))


def make_head(network: Network) -> Head:
    """The head of a network that has one. Layers that a batch norm follows start as the network's own; those that tell
    scores and places start at N(0, 0.01), so that nothing is told yet.

    torchvision starts SSDLite's at N(0, 0.03) throughout; before a batch norm, so small a weight means a higher rate.
    """
    head = HEADS[settings_of(network).kind](network)
    for layer in head.modules():
        if isinstance(layer, ConvNormAct):
            nn.init.kaiming_normal_(layer.conv.weight, mode="fan_out")
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return head
