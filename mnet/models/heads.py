"""Heads on feature maps, instead of a classifier: SSDLite, LR-ASPP and R-ASPP. Tensors are (N, C, H, W).

A head is built from its entry in `mnet.models.tables.HEADS`. The toggle `activation` does not change its activations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnet.models import spec
from mnet.models.feature_maps import FeatureMap, feature_map, last_map
from mnet.models.layer_cost import LayerCost, convolution, linear
from mnet.models.layers import ConvNormAct
from mnet.models.spec import HeadKind, Network

BOX = 4
"""Numbers that encode a box."""


class Head(nn.Module, ABC):
    """A head and its input maps."""

    replicas = 1
    """Number of networks whose channels are side by side in the maps, see `mnet.models.replicas`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.maps = self.input_maps(network)
        self.build(network, head_spec(network))

    @staticmethod
    @abstractmethod
    def input_maps(network: Network) -> tuple[FeatureMap, ...]:
        """The maps of a network that `forward` takes, in order."""

    @abstractmethod
    def build(self, network: Network, head: spec.Head) -> None:
        """Create the layers."""

    @staticmethod
    @abstractmethod
    def layer_costs(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        """The cost of the layers, on input maps of `sizes` pixels a side."""

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """The output for `maps`, in the order of `self.maps`, of images whose height and width are `size`."""


class SSDLiteHead(Head):
    """Class scores and an encoded box for every default box, on C4, C5 and extra maps, each half as large.

    Source: V2 §6.2; V3 §6.3. The layout is torchvision's, after the authors' code.

    Shape:
        C4, C5 -> (N, boxes, num_classes + 1 + 4): scores before softmax, the background first, then the encoded box.
        Boxes are ordered by map, row, column, and default box at that position.
    """

    @staticmethod
    def input_maps(network: Network) -> tuple[FeatureMap, ...]:
        return feature_map(network, "C4"), feature_map(network, "C5")

    def build(self, network: Network, head: spec.Head) -> None:
        normed = replace(network, bn_eps=head.bn_eps)
        widths = [*(item.channels for item in self.maps), *head.filters]
        self.extra = nn.ModuleList(
            _extra_map(channels, out, normed) for channels, out in zip(widths[1:], head.filters, strict=False)
        )
        maps = list(zip(widths, head.boxes, strict=True))
        self.scores = nn.ModuleList(_prediction(width, n * (network.num_classes + 1), normed) for width, n in maps)
        self.places = nn.ModuleList(_prediction(width, n * BOX, normed) for width, n in maps)
        self.boxes = head.boxes

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """C4 and C5, each (N, replicas * channels, h, w) -> (N, boxes, replicas * (num_classes + 1 + 4)).

        The extra maps follow from C5; `size` is not needed.
        """
        all_maps = list(maps)
        for layer in self.extra:
            all_maps.append(layer(all_maps[-1]))
        outputs = [
            _concatenate([_by_box(scores(x), n, self.replicas), _by_box(places(x), n, self.replicas)], 2, self.replicas)
            for x, n, scores, places in zip(all_maps, self.boxes, self.scores, self.places, strict=True)
        ]
        return torch.cat(outputs, 1)

    @staticmethod
    def map_sizes(sizes: Sequence[int], extra: int) -> list[int]:
        """The sizes of C4 and C5, then those of `extra` further maps, each half as large, rounded up."""
        all_sizes = list(sizes)
        for _ in range(extra):
            all_sizes.append(-(-all_sizes[-1] // 2))
        return all_sizes

    @staticmethod
    def layer_costs(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        head = head_spec(network)
        sizes = SSDLiteHead.map_sizes(sizes, len(head.filters))
        widths = [*(item.channels for item in SSDLiteHead.input_maps(network)), *head.filters]
        for i, out in enumerate(head.filters):
            half, size = out // 2, sizes[i + 1]
            yield convolution(f"head.extra.{i}.0.conv", "extra", (widths[i + 1], half), size)
            yield convolution(f"head.extra.{i}.1.conv", "extra", (half, half), size, 3, 2, groups=half)
            yield convolution(f"head.extra.{i}.2.conv", "extra", (half, out), sizes[i + 2])
        for i, (width, boxes, size) in enumerate(zip(widths, head.boxes, sizes, strict=True)):
            for kind, outputs in (("scores", network.num_classes + 1), ("places", BOX)):
                yield convolution(f"head.{kind}.{i}.0.conv", kind, (width, width), size, 3, groups=width)
                yield convolution(f"head.{kind}.{i}.1", kind, (width, boxes * outputs), size, bias=True)


def _by_box(x: Tensor, boxes: int, replicas: int) -> Tensor:
    """(N, replicas * boxes * K, H, W) -> (N, H * W * boxes, replicas * K)."""
    boxes_last = x.permute(0, 2, 3, 1).unflatten(3, (replicas, boxes, -1)).transpose(3, 4)
    return boxes_last.flatten(4).flatten(1, 3)


def _concatenate(parts: Sequence[Tensor], dim: int, replicas: int) -> Tensor:
    """Concatenate along `dim`, replica by replica."""
    if replicas == 1:
        return torch.cat(list(parts), dim)
    return torch.cat([part.unflatten(dim, (replicas, -1)) for part in parts], dim + 1).flatten(dim, dim + 1)


def _extra_map(channels: int, out: int, network: Network) -> nn.Sequential:
    """A map of half the size: 1x1 to half the filters, 3x3 depthwise of stride 2, 1x1."""
    half = out // 2
    return nn.Sequential(
        ConvNormAct(channels, half, 1, "relu6", network=network),
        ConvNormAct(half, half, 3, "relu6", stride=2, groups=half, network=network),
        ConvNormAct(half, out, 1, "relu6", network=network),
    )


def _prediction(channels: int, out: int, network: Network) -> nn.Sequential:
    """3x3 depthwise and 1x1, the "Lite" of SSDLite."""
    depthwise = ConvNormAct(channels, channels, 3, "relu6", groups=channels, network=network)
    return nn.Sequential(depthwise, nn.Conv2d(channels, out, 1))


class LRASPPHead(Head):
    """A 1x1 branch on the last map, gated by the map's mean and enlarged; its scores are added to those of C3.

    Source: V3 §6.4, figure 10. The gate's pooling is global, as in torchvision.

    Shape:
        C3, last map -> (N, num_classes, H, W): scores before softmax, at the size of the images.
    """

    @staticmethod
    def input_maps(network: Network) -> tuple[FeatureMap, ...]:
        return feature_map(network, "C3"), last_map(network)

    def build(self, network: Network, head: spec.Head) -> None:
        low, high = self.maps
        (inner,) = head.filters
        self.branch = ConvNormAct(high.channels, inner, 1, "relu", network=replace(network, bn_eps=head.bn_eps))
        self.gate = nn.Conv2d(high.channels, inner, 1, bias=False)
        self.low = nn.Conv2d(low.channels, network.num_classes, 1)
        self.high = nn.Conv2d(inner, network.num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """C3 and the last map, each (N, replicas * channels, h, w) -> (N, replicas * num_classes, *size)."""
        low, high = maps
        x = self.branch(high) * self.gate(high.mean((2, 3), keepdim=True)).sigmoid()
        x = self.high(_resize(x, low.shape[2:]))
        return _resize(self.low(low) + x, size)

    @staticmethod
    def layer_costs(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        low, high = LRASPPHead.input_maps(network)
        (inner,), (fine, coarse) = head_spec(network).filters, sizes
        c3 = low.channels * fine**2
        yield convolution("head.branch.conv", "branch", (high.channels, inner), coarse, kept=c3)
        alive = (high.channels + inner) * coarse**2 + c3
        yield linear("head.gate", "branch", high.channels, inner, bias=False, kept=alive)
        yield convolution("head.high", "scores", (inner, network.num_classes), fine, bias=True, kept=c3)
        scores = network.num_classes * fine**2
        yield convolution("head.low", "scores", (low.channels, network.num_classes), fine, bias=True, kept=scores)


class RASPPHead(Head):
    """A 1x1 branch on the last map and one on its mean, joined by a 1x1.

    Source: V2 §6.3 and V3 §6.4: the two branches of atrous spatial pyramid pooling that are not atrous.

    Shape:
        last map -> (N, num_classes, H, W): scores before softmax, at the size of the images.
    """

    @staticmethod
    def input_maps(network: Network) -> tuple[FeatureMap, ...]:
        return (last_map(network),)

    def build(self, network: Network, head: spec.Head) -> None:
        (high,), (inner,) = self.maps, head.filters
        normed = replace(network, bn_eps=head.bn_eps)
        self.branch = ConvNormAct(high.channels, inner, 1, "relu", network=normed)
        self.pooled = ConvNormAct(high.channels, inner, 1, "relu", network=normed)
        self.join = ConvNormAct(2 * inner, inner, 1, "relu", network=normed)
        self.scores = nn.Conv2d(inner, network.num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """The last map (N, replicas * channels, h, w) -> (N, replicas * num_classes, *size)."""
        (high,) = maps
        pooled = _resize(self.pooled(high.mean((2, 3), keepdim=True)), high.shape[2:])  # LiteRT has no expand
        return _resize(self.scores(self.join(_concatenate([self.branch(high), pooled], 1, self.replicas))), size)

    @staticmethod
    def layer_costs(network: Network, sizes: Sequence[int]) -> Iterator[LayerCost]:
        (high,), (inner,), (size,) = RASPPHead.input_maps(network), head_spec(network).filters, sizes
        yield convolution("head.pooled.conv", "branch", (high.channels, inner), 1, kept=high.channels * size**2)
        yield convolution("head.branch.conv", "branch", (high.channels, inner), size, kept=inner)
        yield convolution("head.join.conv", "branch", (2 * inner, inner), size)
        yield convolution("head.scores", "scores", (inner, network.num_classes), size, bias=True)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear: (N, C, h, w) -> (N, C, *size)."""
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


HEADS: Mapping[HeadKind, type[Head]] = {"ssdlite": SSDLiteHead, "lr_aspp": LRASPPHead, "r_aspp": RASPPHead}


def head_spec(network: Network) -> spec.Head:
    """The settings of the head of a network that has one."""
    assert network.head is not None
    return network.head


def uses_tail(network: Network) -> bool:
    """Whether the 1x1 tail is used: always by the classifier, by a head only if it takes C5."""
    if network.head is None:
        return True
    return any(item.block == len(network.blocks) for item in HEADS[network.head.kind].input_maps(network))


def make_head(network: Network) -> Head:
    """The initialised head of a network that has one.

    Layers before a batch norm are initialised as in the network; those that predict scores and boxes are N(0, 0.01),
    so that a new head predicts nothing. torchvision's SSDLite is N(0, 0.03) throughout; before a batch norm, weights
    that small raise the effective learning rate.
    """
    head = HEADS[head_spec(network).kind](network)
    for layer in head.modules():
        if isinstance(layer, ConvNormAct):
            nn.init.kaiming_normal_(layer.conv.weight, mode="fan_out")
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return head
