"""The cost of one layer: the rows that `mnet.models.cost` adds up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One convolution or linear layer, with the batch norm that follows it."""

    layer: str
    """Its name in the built module."""
    kind: str
    """stem, start, expand, depthwise, se, project, full (in a block, neither depthwise nor 1x1), tail, hidden or
    classifier; in a head: extra, branch, scores or places."""
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    resolution: int
    """Height and width of the output, in pixels."""
    params: int
    """Weights and biases, of the batch norm too."""
    madds: int
    """Multiply-adds for one image; biases and batch norms are not counted."""
    activation_bytes: int
    """float32 activations in memory while it runs, for one image: input, output, and maps that a shortcut or a head
    still needs."""


def convolution(
    layer: str,
    kind: str,
    channels: tuple[int, int],
    size: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    kept: int = 0,
) -> LayerCost:
    """A convolution with its batch norm, or its bias.

    Args:
        layer, kind: As in `LayerCost`.
        channels: Input and output channels.
        size: Height and width of the input, in pixels.
        kernel, stride, groups: The convolution's settings.
        bias: Whether it has a bias instead of a batch norm.
        kept: Elements of other maps that are in memory.
    """
    in_channels, out_channels = channels
    out_size = (size - 1) // stride + 1
    weights = in_channels // groups * out_channels * kernel**2
    return LayerCost(
        layer=layer,
        kind=kind,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=kernel,
        stride=stride,
        resolution=out_size,
        params=weights + (out_channels if bias else 2 * out_channels),
        madds=weights * out_size**2,
        activation_bytes=4 * (in_channels * size**2 + out_channels * out_size**2 + kept),
    )


def linear(
    layer: str, kind: str, in_features: int, out_features: int, *, kept: int = 0, bias: bool = True
) -> LayerCost:
    """A fully connected layer, or a 1x1 convolution on channel means; arguments as in `convolution`."""
    return LayerCost(
        layer=layer,
        kind=kind,
        in_channels=in_features,
        out_channels=out_features,
        kernel=1,
        stride=1,
        resolution=1,
        params=in_features * out_features + (out_features if bias else 0),
        madds=in_features * out_features,
        activation_bytes=4 * (in_features + out_features + kept),
    )
