"""What a network costs, counted from its table: parameters, multiply-adds, activation memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mnet.errors import ConfigError
from mnet.models.feature_maps import FeatureMap
from mnet.models.heads import HEADS, uses_tail
from mnet.models.layer_cost import LayerCost, convolution, linear
from mnet.models.resolved import ResolvedBlock, resolve_blocks
from mnet.models.spec import Network

if TYPE_CHECKING:
    import pandas as pd

    from mnet.models.network import MobileNet


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one image of a given resolution."""

    rows: tuple[LayerCost, ...]

    @cached_property
    def params(self) -> int:
        """Trainable parameters."""
        return sum(row.params for row in self.rows)

    @cached_property
    def madds(self) -> int:
        """Multiply-adds of convolutions and linear layers."""
        return sum(row.madds for row in self.rows)

    @cached_property
    def peak_activation_bytes(self) -> int:
        """The largest `activation_bytes` of any layer: a lower bound for float32 inference, without weights."""
        return max(row.activation_bytes for row in self.rows)

    @property
    def layers(self) -> pd.DataFrame:
        """One row per layer; the columns are the fields of `LayerCost`."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def __repr__(self) -> str:
        return (
            f"Cost(params={self.params:,}, madds={self.madds:,}, peak_activation_bytes={self.peak_activation_bytes:,})"
        )


def cost(network: Network | MobileNet, resolution: int = 224) -> Cost:
    """Parameters, multiply-adds and peak activation memory, in total and per layer.

    Args:
        network: A `Network` or a module that `create_model` built.
        resolution: Height and width of the input, in pixels.

    Raises:
        ConfigError: `resolution` is not positive, or `network` is neither.
    """
    spec = network if isinstance(network, Network) else getattr(network, "network", None)
    if not isinstance(spec, Network):
        raise ConfigError(f"cost takes a Network or a module that create_model built, not {type(network).__name__}")
    if resolution < 1:
        raise ConfigError(f"resolution must be at least 1, not {resolution}")
    return Cost(tuple(_layers(spec, resolution)))


def _layers(net: Network, resolution: int) -> Iterator[LayerCost]:
    """Every layer, in the order of execution."""
    head = HEADS[net.head.kind] if net.head is not None else None
    head_maps = head.input_maps(net) if head is not None else ()
    stem, size = net.stem, resolution
    yield convolution("stem.conv", "stem", (net.in_channels, stem.out_channels), size, stem.kernel, stem.stride)
    size = (size - 1) // stem.stride + 1
    # elements of the maps so far that the head reads
    kept = stem.out_channels * size**2 if _takes(head_maps, -1, inside=False) else 0
    for i, block in enumerate(resolve_blocks(net)):
        rows = list(_block_layers(net, i, block, size, kept, inside_kept=_takes(head_maps, i, inside=True)))
        yield from rows
        if _takes(head_maps, i, inside=True):
            kept += block.expanded * size**2
        size = rows[-1].resolution
        if _takes(head_maps, i, inside=False) and i + 1 < len(net.blocks):
            kept += block.row.out_channels * size**2
    channels = net.blocks[-1].out_channels
    if net.tail is not None and uses_tail(net):
        yield convolution("tail.conv", "tail", (channels, net.tail.out_channels), size, net.tail.kernel, kept=kept)
        channels = net.tail.out_channels
    if head is not None:
        yield from head.layer_costs(net, [head_map.size(resolution) for head_map in head_maps])
        return
    if (hidden := net.hidden) is not None:
        sizes = channels, hidden.out_features
        yield convolution("hidden.conv", "hidden", sizes, 1) if hidden.norm else linear("hidden.0", "hidden", *sizes)
        channels = hidden.out_features
    yield linear("classifier", "classifier", channels, net.num_classes)


def _takes(maps: Sequence[FeatureMap], block: int, *, inside: bool) -> bool:
    return any((item.block, item.inside) == (block, inside) for item in maps)


def _block_layers(
    net: Network, i: int, block: ResolvedBlock, size: int, kept: int, *, inside_kept: bool
) -> Iterator[LayerCost]:
    """The layers of a block on a map of `size` pixels a side, while `kept` elements of earlier maps stay in memory
    for the head; `inside_kept`: the block's expansion stays too."""
    name, thin, wide, out = f"blocks.{i}", block.in_channels, block.expanded, block.row.out_channels
    shortcut = thin * size**2 if block.shortcut and net.shortcut == "bottleneck" else 0
    channels = {"start": (thin, thin), "expand": (thin, wide), "depthwise": (wide, wide), "project": (wide, out)}
    for part, kernel in block.kernels.items():
        if part == "project" and block.squeeze:
            alive = wide * size**2 + kept
            yield linear(f"{name}.se.fc1", "se", wide, block.squeeze, kept=alive)
            yield linear(f"{name}.se.fc2", "se", block.squeeze, wide, kept=alive)
        by_channel = part in ("start", "depthwise")
        kind = part if by_channel or kernel == 1 else "full"
        stride, groups = block.stride_of(part), channels[part][0] if by_channel else 1
        yield convolution(f"{name}.{part}.conv", kind, channels[part], size, kernel, stride, groups=groups, kept=kept)
        if part == "depthwise" and inside_kept:
            kept += wide * size**2
        kept, shortcut = kept + shortcut, 0  # the first layer's input is the shortcut
        size = (size - 1) // stride + 1
