"""What a MobileNet is, as plain data: rows (`Block`), and the frame around them (`Network`).

The four papers describe one block with different settings. V1's depthwise-separable block is an inverted residual
with no expansion, no shortcut and a non-linear projection; V2 adds the expansion, the shortcut and the linear
projection; V3 adds squeeze-and-excite (SE), h-swish and a rearranged head; V4 adds a second depthwise convolution,
before the expansion, and lets each row have both, either or none. `tables` holds the rows, `toggles` changes them,
`resolved` puts each in the context of those before it, `network` builds them and `cost` counts them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Literal, cast

from mnet.errors import ConfigError
from mnet.settings import changed

Activation = Literal["relu", "relu6", "hswish", "swish"]
Gate = Literal["hsigmoid", "sigmoid"]
Shortcut = Literal["bottleneck", "expansion", "none"]
WidthRule = Literal["paper", "torchvision"]
HeadKind = Literal["ssdlite", "lr_aspp", "r_aspp"]
Form = Literal["ib", "extra_dw", "convnext", "ffn", "fused"]
Part = Literal["start", "expand", "depthwise", "project"]

ADDED = ("start_kernel", "fused", "norm")
"""Fields added after the first run ids and stored networks; both leave them out when they are off."""


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution without bias, batch normalisation, then an activation: the stem and the last 1x1."""

    kernel: int
    out_channels: int
    activation: Activation
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class Block:
    """One row of a paper's table: start depthwise, 1x1 expansion, depthwise, SE, 1x1 projection.

    Source: V1 §3.1; V2 §3.3 and figure 3; V3 figure 4; V4 §4 and figure 4, the universal inverted bottleneck (UIB).
    """

    kernel: int | None
    """Size of the depthwise kernel; odd. None = no depthwise convolution after the expansion (`start_kernel`)."""
    expansion: int | None
    """Channels after the 1x1 expansion (V3's "exp size"); None = no expansion layer."""
    out_channels: int
    """Channels after the 1x1 projection: the bottleneck."""
    activation: Activation
    """Non-linearity after the expansion and after the depthwise convolution."""
    stride: int = 1
    se: bool = False
    projection: Activation | None = None
    """Non-linearity after the projection; None = linear bottleneck."""
    start_kernel: int | None = None
    """Size of a depthwise kernel on the block's input, before the expansion and without non-linearity; odd. It has the
    stride if there is no other depthwise convolution."""
    fused: bool = False
    """Whether the expansion is a full convolution of size `kernel`, with the stride, in place of the depthwise one."""

    @property
    def form(self) -> Form:
        """The row's spatial convolutions, in V4's names (figure 4); V1's to V3's rows are all `ib`."""
        if self.fused:
            return "fused"
        if self.start_kernel is None:
            return "ffn" if self.kernel is None else "ib"
        return "convnext" if self.kernel is None else "extra_dw"

    @property
    def sizes(self) -> str:
        """Its spatial kernels in the order of execution, for readers: `5x5`, `5x5+3x3`; empty if there are none."""
        return "+".join(f"{size}x{size}" for size in (self.start_kernel, self.kernel) if size is not None)

    def with_kernel(self, size: int) -> Block:
        """The row with this size for all its depthwise kernels; a fused row has none."""
        if self.fused:
            return self
        return replace(self, kernel=self.kernel and size, start_kernel=self.start_kernel and size)

    def kernels(self, separable: bool) -> dict[Part, int]:
        """Convolution -> size of its kernel, in the order of execution.

        Args:
            separable: If False, a depthwise convolution and the 1x1 after it are one full convolution.
        """
        expand = 0 if self.expansion is None else 1
        start, middle = self.start_kernel or 0, self.kernel or 0
        sizes: dict[Part, int]
        if self.fused:
            sizes = {"expand": middle, "project": 1}
        elif separable:
            sizes = {"start": start, "expand": expand, "depthwise": middle, "project": 1}
        else:
            sizes = {"expand": start or expand, "project": middle or 1}
        return {part: size for part, size in sizes.items() if size}

    def strided(self, separable: bool) -> Part:
        """The convolution that has the stride: the depthwise one, or the one in its place."""
        if self.fused or (self.kernel is None and not separable):
            return "expand"
        if self.kernel is None:
            return "start"
        return "depthwise" if separable else "project"


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A fully connected layer with activation between pooling and classifier. Source: V3 §5.1."""

    out_features: int
    activation: Activation
    norm: bool = False
    """Batch norm instead of a bias. Source: V4's code."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head that replaces pooling and classifier, for detection or segmentation."""

    kind: HeadKind
    filters: tuple[int, ...]
    """ssdlite: channels of the extra feature maps after C5, each half as large as the one before. lr_aspp, r_aspp:
    channels of their branches."""
    bn_eps: float
    boxes: tuple[int, ...] = ()
    """ssdlite: default boxes per position of each map."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A whole network: stem -> blocks -> 1x1 tail -> global pooling -> hidden -> dropout -> classifier.

    A `head` replaces everything from the pooling on, and reads feature maps of the stem, the blocks and the tail.
    """

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
    """What a stride-1 block with as many output as input channels adds: its input to its output (bottleneck), its
    expansion to the output of its depthwise convolution (expansion), or nothing."""
    separable: bool = True
    """False: one full convolution replaces a depthwise convolution and the 1x1 that follows it."""
    se_ratio: float = 0.25
    """Channels inside SE, as a fraction of the expansion."""
    se_gate: Gate = "hsigmoid"
    output_stride: int = 32
    """The largest total stride; later strides become dilations."""
    width: float = 1.0
    """The width multiplier that the rows already include."""
    width_rule: WidthRule = "paper"
    torchvision_rounds: bool = False
    """Whether torchvision scales this table by a different rule than the authors (V3)."""
    reduced_tail: bool = False
    """Whether the channels after C4 are already halved."""
    in_channels: int = 3
    num_classes: int = 1000
    """Detection adds the background as one more class; in segmentation it is one of them."""
    head: Head | None = None
    """None = the classifier."""

    def __post_init__(self) -> None:
        rows: list[Conv | Block] = [self.stem, *self.blocks]
        for row in rows:
            for size in (row.kernel, getattr(row, "start_kernel", None)):
                if size is not None and (size < 1 or size % 2 == 0):
                    raise ConfigError(f"{self.name}: kernel {size} must be odd and positive")
            if row.stride < 1 or row.out_channels < 1:
                raise ConfigError(f"{self.name}: stride and channels must be positive in {row}")
        for block in self.blocks:
            if block.expansion is None and block.form != "ib":
                raise ConfigError(f"{self.name}: a row without expansion has one depthwise convolution, unlike {block}")
            if block.fused and (block.kernel is None or block.start_kernel is not None):
                raise ConfigError(f"{self.name}: a fused row has a kernel and no start_kernel, unlike {block}")
            if block.form == "ffn" and block.stride > 1:
                raise ConfigError(f"{self.name}: a stride needs a depthwise convolution, which {block} lacks")
        for name in ("in_channels", "num_classes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")

    @cached_property
    def canonical(self) -> str:
        """The fields that differ from the defaults, as JSON. Cached: claims ask for it thousands of times, but for few
        networks."""
        return json.dumps(changed(self, _stored), sort_keys=True)

    def to_dict(self) -> dict[str, object]:
        """Plain data for YAML or JSON; `from_dict` turns it back into an equal Network."""
        blocks = [asdict(row, dict_factory=_stored) for row in self.blocks]
        return {**asdict(self, dict_factory=_stored), "blocks": blocks}

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


def _stored(values: Iterable[tuple[str, object]]) -> dict[str, object]:
    """Fields of a dataclass as they are stored and hashed."""
    return {name: value for name, value in values if value or name not in ADDED}


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least `divisor` and at least 90% of `channels`.

    Source: the V2 authors' code; timm and torchvision do the same.
    """
    rounded = max(divisor, math.floor(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
