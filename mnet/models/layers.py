"""The operations a row is made of. Every tensor is (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnet.models.kernels import Conv2d, LeanReLU6
from mnet.models.resolved import ResolvedBlock
from mnet.models.spec import Activation, Gate, Network, Part

ACTIVATIONS: dict[Activation, Callable[..., Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hswish": functional.hardswish,
    "swish": functional.silu,
}
GATES: dict[Gate, Callable[[], nn.Module]] = {"hsigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


class Activate(nn.Module):
    """An activation by name, in place at inference only.

    In training, writing in place breaks the gradient of any layer that saved its output (a ReLU before an in-place
    dropout), and costs a copy if the backward pass needs the input (all but ReLU).
    """

    def __init__(self, name: Activation) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.name == "relu6":
            return LeanReLU6.apply(x)
        return ACTIVATIONS[self.name](x, inplace=not self.training)

    def extra_repr(self) -> str:
        return self.name


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
        self.conv = Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=network.bn_eps, momentum=network.bn_momentum)
        if activation is not None:
            self.act = Activate(activation)


class Dense(nn.Sequential):
    """A fully connected layer with bias, and its activation: (N, C, 1, 1) -> (N, out_features)."""

    def __init__(self, in_features: int, out_features: int, activation: Activation) -> None:
        super().__init__(nn.Linear(in_features, out_features), Activate(activation))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class SqueezeExcite(nn.Module):
    """x * gate(fc2(relu(fc1(mean of x)))), one factor per channel. Source: V3 §5.3 and figure 4."""

    def __init__(self, channels: int, squeeze: int, gate: Gate) -> None:
        super().__init__()
        self.fc1 = Conv2d(channels, squeeze, 1)
        self.act = Activate("relu")
        self.fc2 = Conv2d(squeeze, channels, 1)
        self.gate = GATES[gate]()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape, each channel multiplied by its gate (N, channels, 1, 1)."""
        scale = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.fc1(scale))))


class InvertedResidual(nn.Module):
    """The block of all four papers, built from a resolved row. Source: V2 §3.3, V3 figure 4, V4 figure 4.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, block: ResolvedBlock, network: Network) -> None:
        super().__init__()
        row, thin, wide = block.row, block.in_channels, block.expanded
        self.shortcut = network.shortcut if block.shortcut else "none"
        self.start = self.expand = self.depthwise = self.se = None

        def layer(part: Part, in_channels: int, out_channels: int, act: Activation | None, groups: int) -> ConvNormAct:
            return ConvNormAct(
                in_channels,
                out_channels,
                block.kernels[part],
                act,
                stride=block.stride_of(part),
                dilation=block.dilation if block.kernels[part] > 1 else 1,
                groups=groups,
                network=network,
            )

        if "start" in block.kernels:
            self.start = layer("start", thin, thin, None, groups=thin)
        if "expand" in block.kernels:
            self.expand = layer("expand", thin, wide, row.activation, groups=1)
        if "depthwise" in block.kernels:
            self.depthwise = layer("depthwise", wide, wide, row.activation, groups=wide)
        if block.squeeze:
            self.se = SqueezeExcite(wide, block.squeeze, network.se_gate)
        self.project = layer("project", wide, row.out_channels, row.projection, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, self.widen(x))

    def widen(self, x: Tensor) -> Tensor:
        """The output of the start depthwise and the expansion, if there are any: C4 if the block is the first of the
        last stage and its stride comes later."""
        if self.start is not None:
            x = self.start(x)
        return x if self.expand is None else self.expand(x)

    def narrow(self, x: Tensor, expanded: Tensor) -> Tensor:
        """The block's output, from its input and its expansion."""
        out = expanded
        if self.depthwise is not None:
            inner = self.depthwise(out)
            out = out + inner if self.shortcut == "expansion" else inner
        if self.se is not None:
            out = self.se(out)
        out = self.project(out)
        return torch.add(x, out) if self.shortcut == "bottleneck" else out


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one kernel per channel.

    The stem of stacked replicas (`mnet.models.replicas`) on grey images is not, despite a group per input channel.
    """
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1
