"""What a MobileNet is, as plain data: rows (`Block`), their frame (`Network`), and where a row stands (`place`).

The three papers describe one block with different settings. V1's depthwise-separable block is an inverted
residual with no expansion, no shortcut and a non-linear projection; V2 adds the expansion, the shortcut and the
linear projection; V3 adds squeeze-and-excite (SE), h-swish and another head. `tables` holds the rows,
`toggles` changes them, `network` builds them and `cost` counts them.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, cast

from mnet.errors import ConfigError, unknown

Activation = Literal["relu", "relu6", "hswish", "swish"]
Gate = Literal["hsigmoid", "sigmoid"]
Shortcut = Literal["bottleneck", "expansion", "none"]
WidthRule = Literal["paper", "torchvision"]
HeadKind = Literal["ssdlite", "lr_aspp", "r_aspp"]


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution without bias, batch normalisation, then an activation: the stem and the last 1x1."""

    kernel: int
    out_channels: int
    activation: Activation
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class Block:
    """One row of a paper's table: 1x1 expansion, depthwise, SE, 1x1 projection.

    Source: V1 §3.1; V2 §3.3 and figure 3; V3 figure 4.
    """

    kernel: int
    """Of the depthwise convolution; odd."""
    expansion: int | None
    """Channels after the 1x1 expansion ("exp size"); None = no expansion layer."""
    out_channels: int
    """Channels after the projection: the bottleneck."""
    activation: Activation
    """After the expansion and after the depthwise convolution."""
    stride: int = 1
    se: bool = False
    projection: Activation | None = None
    """Non-linearity after the projection; None = linear bottleneck."""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A fully connected layer with bias and activation between pooling and classifier. Source: V3 §5.1."""

    out_features: int
    activation: Activation


@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands on the feature maps instead of pooling and classifier, for detection or segmentation."""

    kind: HeadKind
    filters: tuple[int, ...]
    """ssdlite: of the extra feature maps after C5, each half as wide. The others: of the branches on C5."""
    bn_eps: float
    boxes: tuple[int, ...] = ()
    """ssdlite: default boxes a place, of every map."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A whole network: stem -> blocks -> 1x1 tail -> global pooling -> hidden -> dropout -> classifier; or, with a
    `head`, that one on feature maps of the first three."""

    name: str
    stem: Conv
    blocks: tuple[Block, ...]
    tail: Conv | None
    hidden: Hidden | None
    dropout: float
    bn_eps: float
    bn_momentum: float
    """PyTorch's convention: the weight of the new batch (1 - TensorFlow's decay)."""
    shortcut: Shortcut = "bottleneck"
    """What stride-1 blocks with as many channels out as in add: their ends, their insides, or nothing."""
    separable: bool = True
    """False: depthwise and projection are one full convolution, expansion -> out_channels."""
    se_ratio: float = 0.25
    """Channels inside SE as a fraction of the expansion."""
    se_gate: Gate = "hsigmoid"
    output_stride: int = 32
    """Strides beyond it become dilations."""
    width: float = 1.0
    """The width multiplier that these rows already carry."""
    width_rule: WidthRule = "paper"
    torchvision_rounds: bool = False
    """Whether torchvision scales this table by a rule of its own (V3 does)."""
    reduced_tail: bool = False
    """Whether the channels after C4 are already halved."""
    in_channels: int = 3
    num_classes: int = 1000
    """What the images show. A detector adds the background to them; to segmentation it is a class like others."""
    head: Head | None = None
    """None = the classifier."""

    def __post_init__(self) -> None:
        rows: list[Conv | Block] = [self.stem, *self.blocks]
        for row in rows:
            if row.kernel < 1 or row.kernel % 2 == 0:
                raise ConfigError(f"{self.name}: kernel {row.kernel} must be odd and positive")
            if row.stride < 1 or row.out_channels < 1:
                raise ConfigError(f"{self.name}: stride and channels must be positive in {row}")
        for name in ("in_channels", "num_classes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")

    def to_dict(self) -> dict[str, object]:
        """Plain data for YAML or JSON; `from_dict` reads it back to an equal Network."""
        return {**asdict(self), "blocks": [asdict(row) for row in self.blocks]}

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> Network:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: A key is missing or unknown.
        """
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown keys in a network: {', '.join(unknown)}")
        nested: dict[str, type] = {"stem": Conv, "tail": Conv, "hidden": Hidden, "head": Head}
        try:
            parts = {
                key: nested[key](**cast(dict, value)) if key in nested and value is not None else value
                for key, value in data.items()
            }
            parts["blocks"] = tuple(Block(**row) for row in cast(list, data["blocks"]))
            if isinstance(head := parts.get("head"), Head):
                parts["head"] = replace(head, filters=tuple(head.filters), boxes=tuple(head.boxes))  # YAML has lists
            return cls(**parts)  # type: ignore[arg-type]
        except (TypeError, KeyError) as error:
            raise ConfigError(f"not a network: {error}") from None


@dataclass(frozen=True, kw_only=True)
class ResolvedBlock:
    """A row in its place: what it means after all rows before it."""

    row: Block
    in_channels: int
    expanded: int
    """Channels of the depthwise convolution."""
    squeeze: int
    """Channels inside SE; 0 = no SE."""
    stride: int
    dilation: int
    shortcut: bool


def resolve_blocks(network: Network) -> list[ResolvedBlock]:
    """Every block with its input channels, its effective stride and dilation, and whether it has a shortcut.

    A block strided in the table has no shortcut, also when `output_stride` turns the stride into dilation; it
    is itself dilated, as in torchvision's dilated V3.
    """
    placed = []
    channels, total_stride, dilation = network.stem.out_channels, network.stem.stride, 1
    for row in network.blocks:
        stride = row.stride
        if total_stride * stride > network.output_stride:
            dilation, stride = dilation * stride, 1
        total_stride *= stride
        expanded = channels if row.expansion is None else row.expansion
        placed.append(
            ResolvedBlock(
                row=row,
                in_channels=channels,
                expanded=expanded,
                squeeze=round_channels(expanded * network.se_ratio) if row.se else 0,
                stride=stride,
                dilation=dilation,
                shortcut=network.shortcut != "none" and row.stride == 1 and channels == row.out_channels,
            )
        )
        channels = row.out_channels
    return placed


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """A map that a head may stand on: (N, channels, ceil(H / stride), ceil(W / stride))."""

    name: str
    block: int
    """Index of the block that it comes from; one more than the last = from the 1x1 tail."""
    inside: bool
    """Whether it is the block's expansion, before the depthwise convolution, or its output."""
    channels: int
    stride: int

    def size(self, images: int) -> int:
        """Its side, of images of so many pixels a side."""
        return -(-images // self.stride)


def feature_maps(network: Network) -> dict[str, FeatureMap]:
    """The maps of a network by name, from fine to coarse.

    Stages begin at the strided rows of the table and are counted from the last, so they are the same ones where
    `output_stride` dilates (their strides say so) and where `total_stride` drops the early strides.

    Returns:
        C2, C3: the output of the stage's first block (as LR-ASPP takes C3 in torchvision). C4: the expansion of the
        last stage's first block; of one without expansion, its input (V3 §6.3). last: the output of the last block.
        C5: what is pooled for the classifier, of the 1x1 tail where there is one.
    """
    placed, tail = resolve_blocks(network), network.tail
    strides = list(itertools.accumulate((at.stride for at in placed), operator.mul, initial=network.stem.stride))
    first = [i for i, at in enumerate(placed) if at.row.stride > 1]
    found: dict[str, FeatureMap] = {}

    def add(name: str, block: int, channels: int, stride: int, inside: bool = False) -> None:
        found[name] = FeatureMap(name=name, block=block, inside=inside, channels=channels, stride=stride)

    for name, nth in (("C2", 4), ("C3", 3)):
        if len(first) >= nth:
            block = first[-nth]
            add(name, block, placed[block].row.out_channels, strides[block + 1])
    if first:
        add("C4", first[-1], placed[first[-1]].expanded, strides[first[-1]], inside=True)
    end = len(placed) - 1
    add("last", end, placed[end].row.out_channels, strides[-1])
    add("C5", *((end + 1, tail.out_channels) if tail else (end, placed[end].row.out_channels)), strides[-1])
    return found


def feature_map(network: Network, name: str) -> FeatureMap:
    """
    Raises:
        ConfigError: The network has no map of that name; the message has those that it has.
    """
    maps = feature_maps(network)
    if name not in maps:
        raise unknown(f"feature map of {network.name}", name, maps)
    return maps[name]


def last_map(network: Network) -> FeatureMap:
    """What segmentation stands on: C5; without a wide 1x1 tail that only classification needs (V2's 1280).

    Source: the parameters in V3, table 7.
    """
    return feature_map(network, "C5" if network.hidden is not None else "last")


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least `divisor`, and never less than 90% of `channels`.

    Source: the V2 authors' code; timm and torchvision share it.
    """
    rounded = max(divisor, math.floor(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
