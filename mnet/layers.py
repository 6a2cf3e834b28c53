"""The operations a row is made of. Every tensor is (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mnet.spec import Activation, Gate, Network, Placed

# In place is safe here: what precedes is a batch norm (which keeps its input, not its output) or a linear layer,
# and nothing that follows writes into the result. Dropout and the shortcut's sum are therefore not in place.
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hswish": lambda: nn.Hardswish(inplace=True),
    "swish": lambda: nn.SiLU(inplace=True),
}
GATES: dict[Gate, Callable[[], nn.Module]] = {"hsigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


class ConvNormAct(nn.Sequential):
    """Convolution without bias, padded to keep H and W at stride 1; batch norm; activation (None = linear)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        activation: Activation | None,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        network: Network,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2 * dilation
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=network.bn_eps, momentum=network.bn_momentum)
        if activation is not None:
            self.act = ACTIVATIONS[activation]()


class SqueezeExcite(nn.Module):
    """x * gate(fc2(relu(fc1(mean of x)))), one factor a channel. Source: V3 §5.3 and figure 4."""

    def __init__(self, channels: int, squeeze: int, gate: Gate) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.gate = GATES[gate]()

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.fc1(scale))))


class InvertedResidual(nn.Module):
    """The block of all three papers, built from a row in its place. Source: V2 §3.3, V3 figure 4.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, placed: Placed, network: Network) -> None:
        super().__init__()
        row, wide = placed.row, placed.expanded
        self.shortcut = network.shortcut if placed.shortcut else "none"
        self.expand = self.depthwise = self.se = None
        spatial = {"stride": placed.stride, "dilation": placed.dilation}
        if row.expansion is not None:
            self.expand = ConvNormAct(placed.in_channels, wide, 1, row.activation, network=network)
        if network.separable:
            self.depthwise = ConvNormAct(
                wide, wide, row.kernel, row.activation, groups=wide, network=network, **spatial
            )
        if placed.squeeze:
            self.se = SqueezeExcite(wide, placed.squeeze, network.se_gate)
        if network.separable:
            self.project = ConvNormAct(wide, row.out_channels, 1, row.projection, network=network)
        else:
            self.project = ConvNormAct(
                wide, row.out_channels, row.kernel, row.projection, network=network, **spatial
            )

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand is None else self.expand(x)
        if self.depthwise is not None:
            inner = self.depthwise(out)
            out = out + inner if self.shortcut == "expansion" else inner
        if self.se is not None:
            out = self.se(out)
        out = self.project(out)
        return torch.add(x, out) if self.shortcut == "bottleneck" else out
