"""What a network costs, counted from its table alone: parameters, multiply-adds, activation memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mnet.errors import ConfigError
from mnet.spec import Network, place

if TYPE_CHECKING:
    import pandas as pd

    from mnet.network import MobileNet


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One convolution or linear layer, with the batch norm behind it."""

    layer: str
    """Its name in the built module."""
    kind: str
    """stem, expand, depthwise, se, project, full (non-separable), tail, hidden or classifier."""
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    resolution: int
    """Height and width of the output, in pixels."""
    params: int
    """Weights and biases, and the batch norm's weight and bias."""
    madds: int
    """Multiply-adds of the convolution or linear layer for one picture; biases are not counted."""
    activation_bytes: int
    """What is alive in float32 while it runs, for one picture: input, output, and what a shortcut still needs."""


@dataclass(frozen=True)
class Cost:
    """The cost of a network at a resolution, for one picture."""

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

    def convolution(
        layer: str, kind: str, channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1, kept: int = 0
    ) -> LayerCost:
        into, out = channels
        after = (size - 1) // stride + 1
        weights = into // groups * out * kernel**2
        return LayerCost(
            layer=f"{layer}.conv",
            kind=kind,
            in_channels=into,
            out_channels=out,
            kernel=kernel,
            stride=stride,
            resolution=after,
            params=weights + 2 * out,
            madds=weights * after**2,
            activation_bytes=4 * (into * size**2 + out * after**2 + kept),
        )

    def linear(layer: str, kind: str, into: int, out: int, kept: int = 0) -> LayerCost:
        return LayerCost(
            layer=layer,
            kind=kind,
            in_channels=into,
            out_channels=out,
            kernel=1,
            stride=1,
            resolution=1,
            params=into * out + out,
            madds=into * out,
            activation_bytes=4 * (into + out + kept),
        )

    yield convolution("stem", "stem", (net.in_channels, net.stem.out_channels), net.stem.kernel, net.stem.stride)
    size = (size - 1) // net.stem.stride + 1
    for i, at in enumerate(place(net)):
        name, wide = f"blocks.{i}", at.expanded
        kept = at.in_channels * size**2 if at.shortcut and net.shortcut == "bottleneck" else 0
        beside = 0 if at.row.expansion is None else kept  # without an expansion, the input is what is kept
        if at.row.expansion is not None:
            yield convolution(f"{name}.expand", "expand", (at.in_channels, wide), 1)
        if net.separable:
            yield convolution(f"{name}.depthwise", "depthwise", (wide, wide), at.row.kernel, at.stride, wide, beside)
            size = (size - 1) // at.stride + 1
        if at.squeeze:
            alive = wide * size**2 + kept
            yield linear(f"{name}.se.fc1", "se", wide, at.squeeze, alive)
            yield linear(f"{name}.se.fc2", "se", at.squeeze, wide, alive)
        if net.separable:
            yield convolution(f"{name}.project", "project", (wide, at.row.out_channels), 1, kept=kept)
        else:
            full = (wide, at.row.out_channels)
            yield convolution(f"{name}.project", "full", full, at.row.kernel, at.stride, kept=beside)
            size = (size - 1) // at.stride + 1
    channels = net.blocks[-1].out_channels
    if net.tail is not None:
        yield convolution("tail", "tail", (channels, net.tail.out_channels), net.tail.kernel)
        channels = net.tail.out_channels
    if net.hidden is not None:
        yield linear("hidden.0", "hidden", channels, net.hidden.out_features)
        channels = net.hidden.out_features
    yield linear("classifier", "classifier", channels, net.num_classes)
