"""What a network costs, counted from its table alone: parameters, multiply-adds, activation memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mnet.errors import ConfigError
from mnet.models.heads import HEADS, uses_tail
from mnet.models.layer_cost import LayerCost, convolution, linear
from mnet.models.spec import Network, resolve_blocks

if TYPE_CHECKING:
    import pandas as pd

    from mnet.models.network import MobileNet


@dataclass(frozen=True)
class Cost:
    """The cost of a network at a resolution, for one image."""

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
        """The largest `activation_bytes` of any layer: what inference in float32 needs at least, weights aside."""
        return max(row.activation_bytes for row in self.rows)

    @property
    def layers(self) -> pd.DataFrame:
        """One row a layer, with the fields of `LayerCost` as columns."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def __repr__(self) -> str:
        return (
            f"Cost(params={self.params:,}, madds={self.madds:,}, peak_activation_bytes={self.peak_activation_bytes:,})"
        )


def cost(network: Network | MobileNet, resolution: int = 224) -> Cost:
    """Parameters, multiply-adds and peak activation memory, in total and by layer.

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
    return Cost(tuple(count(spec, resolution)))


def count(net: Network, size: int) -> Iterator[LayerCost]:
    """The layers in the order of execution."""
    images = size
    head = HEADS[net.head.kind] if net.head is not None else None
    maps = head.stands_on(net) if head is not None else ()
    taken = {(one.block, one.inside) for one in maps}
    yield convolution(
        "stem.conv", "stem", (net.in_channels, net.stem.out_channels), size, net.stem.kernel, net.stem.stride
    )
    size = (size - 1) // net.stem.stride + 1
    waiting = 0  # elements of maps that the head still needs
    for i, at in enumerate(resolve_blocks(net)):
        name, wide = f"blocks.{i}", at.expanded
        shortcut = at.in_channels * size**2 if at.shortcut and net.shortcut == "bottleneck" else 0
        kept = shortcut + waiting
        beside = waiting if at.row.expansion is None else kept  # without an expansion, the input is what is kept
        if at.row.expansion is not None:
            yield convolution(f"{name}.expand.conv", "expand", (at.in_channels, wide), size, kept=waiting)
        inside = wide * size**2 if (i, True) in taken else 0
        if net.separable:
            inner, kernel, stride = (wide, wide), at.row.kernel, at.stride
            yield convolution(
                f"{name}.depthwise.conv", "depthwise", inner, size, kernel, stride, groups=wide, kept=beside
            )
            size = (size - 1) // at.stride + 1
        kept, waiting = kept + inside, waiting + inside
        if at.squeeze:
            alive = wide * size**2 + kept
            yield linear(f"{name}.se.fc1", "se", wide, at.squeeze, alive)
            yield linear(f"{name}.se.fc2", "se", at.squeeze, wide, alive)
        if net.separable:
            yield convolution(f"{name}.project.conv", "project", (wide, at.row.out_channels), size, kept=kept)
        else:
            full = (wide, at.row.out_channels)
            yield convolution(f"{name}.project.conv", "full", full, size, at.row.kernel, at.stride, kept=beside)
            size = (size - 1) // at.stride + 1
        waiting += at.row.out_channels * size**2 if (i, False) in taken and i + 1 < len(net.blocks) else 0
    channels = net.blocks[-1].out_channels
    if net.tail is not None and uses_tail(net):
        yield convolution("tail.conv", "tail", (channels, net.tail.out_channels), size, net.tail.kernel, kept=waiting)
        channels = net.tail.out_channels
    if head is not None:
        yield from head.count(net, [one.size(images) for one in maps])
        return
    if net.hidden is not None:
        yield linear("hidden.0", "hidden", channels, net.hidden.out_features)
        channels = net.hidden.out_features
    yield linear("classifier", "classifier", channels, net.num_classes)
