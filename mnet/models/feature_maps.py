"""The feature maps of a network that heads read, found by their meaning: C2 to C5."""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass

from mnet.errors import unknown
from mnet.models.resolved import resolve_blocks
from mnet.models.spec import Network


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """A map that a head can read: (N, channels, ceil(H / stride), ceil(W / stride))."""

    name: str
    block: int
    """Index of the block that computes it; -1 = the stem, one past the last block = the 1x1 tail."""
    inside: bool
    """True: the block's expansion. False: the block's output."""
    channels: int
    stride: int

    def size(self, resolution: int) -> int:
        """Height and width for images of this height and width."""
        return -(-resolution // self.stride)


def feature_maps(network: Network) -> dict[str, FeatureMap]:
    """The feature maps of a network by name, from fine to coarse.

    A stage begins at a row with a stride, and stages are counted from the last. They stay the same when
    `output_stride` turns strides into dilations and when `total_stride` drops the early strides.

    Returns:
        C2, C3: the output of the stage's first block (torchvision's LR-ASPP takes this C3). C4: the expansion of the
        last stage's first block, or its input if it has none (V3 §6.3) or the stride comes before it. last: the output
        of the last block. C5: the map that is pooled for the classifier: the output of the 1x1 tail, or of the last
        block if there is no tail.
    """
    blocks, tail = resolve_blocks(network), network.tail
    strides = list(itertools.accumulate((block.stride for block in blocks), operator.mul, initial=network.stem.stride))
    stages = [i for i, block in enumerate(blocks) if block.row.stride > 1]
    maps: dict[str, FeatureMap] = {}

    def add(name: str, block: int, channels: int, stride: int, inside: bool = False) -> None:
        maps[name] = FeatureMap(name=name, block=block, inside=inside, channels=channels, stride=stride)

    for name, nth in (("C2", 4), ("C3", 3)):
        if len(stages) >= nth:
            first = stages[-nth]
            add(name, first, blocks[first].row.out_channels, strides[first + 1])
    if stages:
        first = stages[-1]
        if blocks[first].strided in ("start", "expand"):
            add("C4", first - 1, blocks[first].in_channels, strides[first])
        else:
            add("C4", first, blocks[first].expanded, strides[first], inside=True)
    end = len(blocks) - 1
    add("last", end, blocks[end].row.out_channels, strides[-1])
    add("C5", *((end + 1, tail.out_channels) if tail else (end, blocks[end].row.out_channels)), strides[-1])
    return maps


def feature_map(network: Network, name: str) -> FeatureMap:
    """One of `feature_maps`.

    Raises:
        ConfigError: The network has no such map; the message lists those it has.
    """
    maps = feature_maps(network)
    if name not in maps:
        raise unknown(f"feature map of {network.name}", name, maps)
    return maps[name]


def last_map(network: Network) -> FeatureMap:
    """The map that segmentation uses: C5, or `last` if the 1x1 tail only serves classification (V2's 1280).

    Source: the parameters in V3, table 7.
    """
    return feature_map(network, "C5" if network.hidden is not None else "last")
