"""The rows of a network in context: input channels, strides, dilations and shortcuts, as `network` builds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mnet.models.spec import Block, Network, Part, round_channels


@dataclass(frozen=True, kw_only=True)
class ResolvedBlock:
    """A row in the context of the rows before it."""

    row: Block
    kernels: Mapping[Part, int]
    strided: Part
    """As in `Block`, for the network's `separable`."""
    in_channels: int
    expanded: int
    """Channels of the depthwise convolution after the expansion."""
    squeeze: int
    """Channels inside SE; 0 = no SE."""
    stride: int
    dilation: int
    shortcut: bool

    def stride_of(self, part: Part) -> int:
        """The stride of one of its convolutions."""
        return self.stride if part == self.strided else 1


def resolve_blocks(network: Network) -> list[ResolvedBlock]:
    """Every block with its input channels, its effective stride and dilation, and whether it has a shortcut.

    A block with a stride in the table has no shortcut, even if `output_stride` turns the stride into a dilation; the
    block itself is then dilated, as in torchvision's dilated V3.
    """
    resolved = []
    channels, total_stride, dilation = network.stem.out_channels, network.stem.stride, 1
    for row in network.blocks:
        stride = row.stride
        if total_stride * stride > network.output_stride:
            dilation, stride = dilation * stride, 1
        total_stride *= stride
        expanded = channels if row.expansion is None else row.expansion
        resolved.append(
            ResolvedBlock(
                row=row,
                kernels=row.kernels(network.separable),
                strided=row.strided(network.separable),
                in_channels=channels,
                expanded=expanded,
                squeeze=round_channels(expanded * network.se_ratio) if row.se else 0,
                stride=stride,
                dilation=dilation,
                shortcut=network.shortcut != "none" and row.stride == 1 and channels == row.out_channels,
            )
        )
        channels = row.out_channels
    return resolved
