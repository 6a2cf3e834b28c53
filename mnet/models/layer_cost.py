"""What one layer costs: the rows that `mnet.models.cost` adds up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One convolution or linear layer, with the batch norm behind it."""

    layer: str
    """Its name in the built module."""
    kind: str
    """stem, expand, depthwise, se, project, full (non-separable), tail, hidden or classifier; of a head
    extra, branch, scores or places."""
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    resolution: int
    """Height and width of the output, in pixels."""
    params: int
    """Weights and biases, and the batch norm's weight and bias."""
    madds: int
    """Multiply-adds of the convolution or linear layer for one image; biases are not counted."""
    activation_bytes: int
    """What is alive in float32 while it runs, for one image: input, output, and what a shortcut still needs."""


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
    """A convolution with its batch norm, or its bias, on a map of `size` pixels a side; `kept` elements live beside."""
    into, out = channels
    after = (size - 1) // stride + 1
    weights = into // groups * out * kernel**2
    return LayerCost(
        layer=layer,
        kind=kind,
        in_channels=into,
        out_channels=out,
        kernel=kernel,
        stride=stride,
        resolution=after,
        params=weights + (out if bias else 2 * out),
        madds=weights * after**2,
        activation_bytes=4 * (into * size**2 + out * after**2 + kept),
    )


def linear(layer: str, kind: str, into: int, out: int, kept: int = 0, bias: bool = True) -> LayerCost:
    """A fully connected layer, or a 1x1 convolution on means."""
    return LayerCost(
        layer=layer,
        kind=kind,
        in_channels=into,
        out_channels=out,
        kernel=1,
        stride=1,
        resolution=1,
        params=into * out + (out if bias else 0),
        madds=into * out,
        activation_bytes=4 * (into + out + kept),
    )
