"""The operations a row is made of. Every tensor is (N, C, H, W)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.grad import conv2d_input

from mnet.models.spec import Activation, Gate, Network, ResolvedBlock

ACTIVATIONS: dict[Activation, Callable[..., Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hswish": functional.hardswish,
    "swish": functional.silu,
}
GATES: dict[Gate, Callable[[], nn.Module]] = {"hsigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}
SMALL = 4
"""Pixels a side; up to here convolutions take other paths when training on the CPU."""


class Saved(FunctionCtx):
    """What a function keeps for its gradient."""

    saved_tensors: tuple[Tensor, ...]
    stride: int


class LeanReLU6(torch.autograd.Function):
    """ReLU6 that keeps its output, as the next layer does anyway, where PyTorch's keeps its input as well.

    On the CPU, V2 trains a tenth faster for it.
    """

    @staticmethod
    def forward(ctx: Saved, x: Tensor) -> Tensor:
        out = functional.relu6(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Saved, grad: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(grad, ctx.saved_tensors[0], 0, 6)


class Activate(nn.Module):
    """An activation by name, in place at inference only.

    In training, writing in place breaks the gradient of whatever keeps its output (a ReLU before an in-place
    dropout), and costs a copy where the backward pass needs the input (all but ReLU).
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


class Conv2d(nn.Conv2d):
    """nn.Conv2d that trains faster on the CPU where the map is small, as after five strides at 28 px.

    There the gradient of a depthwise kernel is a few products, a pointwise convolution of one pixel is one, and the
    taps of any kernel that only ever meet padding need no arithmetic. The result is the same up to the order
    of summation.
    """

    def forward(self, x: Tensor) -> Tensor:
        # first whether it trains, since inference counts microseconds
        if not self.training or (size := max(x.shape[2:])) > SMALL or not use_cpu_kernels(x):
            return self._conv_forward(x, self.weight, self.bias)
        kernel = self.kernel_size[0]
        if kernel == self.stride[0] == self.groups == size == 1:
            out = functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return out.permute(0, 3, 1, 2)
        depthwise = self.groups == self.in_channels == self.out_channels and self.bias is None
        if depthwise and kernel > size > 1 == self.dilation[0]:
            return SmallDepthwise.apply(x, self.weight, self.stride[0])
        centre, reach = kernel // 2, (size - 1) // self.dilation[0]
        if reach >= centre:
            return super().forward(x)
        used = self.weight[:, :, centre - reach : centre + reach + 1, centre - reach : centre + reach + 1]
        return functional.conv2d(x, used, self.bias, self.stride, reach * self.dilation[0], self.dilation, self.groups)


def use_cpu_kernels(x: Tensor) -> bool:
    """Whether to do to `x` what is quicker than PyTorch: on the CPU, neither cast for bf16 nor compiled."""
    return x.device.type == "cpu" and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


def is_depthwise(layer: nn.Module) -> bool:
    """Whether it is a convolution with a kernel a channel, of one network or of several side by side: their stem too
    has a group for each channel, of grey images."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


class SmallDepthwise(torch.autograd.Function):
    """A padded depthwise convolution with a kernel wider than the map.

    The kernel's gradient is summed output pixel by output pixel: oneDNN takes five times as long here.
    """

    @staticmethod
    def forward(ctx: Saved, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Saved, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        stride, kernel, centre = ctx.stride, weight.shape[-1], weight.shape[-1] // 2
        grad_x = conv2d_input(x.shape, weight, grad, stride, centre, 1, len(weight))
        grad_taps = weight.new_zeros(kernel, kernel, len(weight))
        pixels, grads = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
        for i, j in itertools.product(*map(range, grad.shape[2:])):
            top, left = i * stride - centre, j * stride - centre  # of the kernel, on the map
            seen = pixels[:, max(0, top) : top + kernel, max(0, left) : left + kernel]
            taps = grad_taps[max(0, -top) :, max(0, -left) :][: seen.shape[1], : seen.shape[2]]
            taps += (seen * grads[:, i : i + 1, j : j + 1]).sum(0)
        return grad_x, grad_taps.permute(2, 0, 1).unsqueeze(1), None


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


class SqueezeExcite(nn.Module):
    """x * gate(fc2(relu(fc1(mean of x)))), one factor a channel. Source: V3 §5.3 and figure 4."""

    def __init__(self, channels: int, squeeze: int, gate: Gate) -> None:
        super().__init__()
        self.fc1 = Conv2d(channels, squeeze, 1)
        self.act = Activate("relu")
        self.fc2 = Conv2d(squeeze, channels, 1)
        self.gate = GATES[gate]()

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.fc1(scale))))


class InvertedResidual(nn.Module):
    """The block of all three papers, built from a row in its place. Source: V2 §3.3, V3 figure 4.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, placed: ResolvedBlock, network: Network) -> None:
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
            self.project = ConvNormAct(wide, row.out_channels, row.kernel, row.projection, network=network, **spatial)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, self.widen(x))

    def widen(self, x: Tensor) -> Tensor:
        """The 1x1 expansion, if there is one: C4 where the block is the first of the last stage."""
        return x if self.expand is None else self.expand(x)

    def narrow(self, x: Tensor, out: Tensor) -> Tensor:
        """From the block's input and its expansion to its output."""
        if self.depthwise is not None:
            inner = self.depthwise(out)
            out = out + inner if self.shortcut == "expansion" else inner
        if self.se is not None:
            out = self.se(out)
        out = self.project(out)
        return torch.add(x, out) if self.shortcut == "bottleneck" else out
