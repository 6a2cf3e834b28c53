"""Kernels that train faster than PyTorch's own, on the CPU and for replicas on a GPU, with the same results up to the
order of summation."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.grad import conv2d_input

SMALL_MAP = 4
"""Largest map, in pixels a side, for which `Conv2d` uses the fast CPU paths of this module."""
NARROW = 8
"""Most result columns at which a matrix product is faster with its second factor transposed in memory."""


def use_cpu_kernels(x: Tensor) -> bool:
    """Whether to use this module's CPU kernels: `x` is on the CPU, without autocast or compilation."""
    return x.device.type == "cpu" and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


class Conv2d(nn.Conv2d):
    """nn.Conv2d that trains faster on small maps, such as those after five strides at 28 px.

    On these, the gradient of a depthwise kernel is a few products, a pointwise convolution of one pixel is one product,
    and kernel taps that only ever meet padding need no arithmetic.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and self.groups == self.in_channels > 1 and torch.is_autocast_enabled("cuda"):
            return self._depthwise_in_16_bits(x)
        # training is checked first: at inference, every microsecond counts
        if not self.training or (size := max(x.shape[2:])) > SMALL_MAP or not use_cpu_kernels(x):
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

    def _depthwise_in_16_bits(self, x: Tensor) -> Tensor:
        """The convolution with PyTorch's kernel. For channels_last in 16 bits and some map sizes, cuDNN launches one
        kernel per channel: 16,528 kernels, 59 of 66 ms, in a step of sixteen V3-Small on an H200 (cuDNN 9.19)."""
        with torch.backends.cudnn.flags(enabled=torch.compiler.is_compiling()):
            out = self._conv_forward(x, self.weight, self.bias)
        return out.contiguous(memory_format=torch.channels_last)


class _Context(FunctionCtx):
    """What a function saves for its gradient."""

    saved_tensors: tuple[Tensor, ...]
    stride: int


class SmallDepthwise(torch.autograd.Function):
    """A padded depthwise convolution with a kernel wider than the map.

    The kernel's gradient is summed output pixel by output pixel; oneDNN takes five times as long for it.
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        stride, kernel, centre = ctx.stride, weight.shape[-1], weight.shape[-1] // 2
        grad_x = conv2d_input(x.shape, weight, grad, stride, centre, 1, len(weight))
        grad_taps = weight.new_zeros(kernel, kernel, len(weight))
        pixels, grads = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
        for i, j in itertools.product(*map(range, grad.shape[2:])):
            top, left = i * stride - centre, j * stride - centre  # the kernel's position on the map
            patch = pixels[:, max(0, top) : top + kernel, max(0, left) : left + kernel]
            taps = grad_taps[max(0, -top) :, max(0, -left) :][: patch.shape[1], : patch.shape[2]]
            taps += (patch * grads[:, i : i + 1, j : j + 1]).sum(0)
        return grad_x, grad_taps.permute(2, 0, 1).unsqueeze(1), None


class LeanReLU6(torch.autograd.Function):
    """ReLU6 that saves only its output, which the next layer saves anyway; PyTorch's also saves its input.

    V2 trains a tenth faster with it on the CPU.
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor) -> Tensor:
        out = functional.relu6(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(grad, ctx.saved_tensors[0], 0, 6)


def grouped_product(rows: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Each group's columns of `rows` times the group's weights.

    Shape:
        (M, groups * in), (groups * out, in) -> (M, groups * out)
    """
    weights = weight.view(groups, -1, rows.shape[1] // groups)
    if use_cpu_kernels(rows):
        out = GroupedProduct.apply(rows, weights)
    elif rows.is_cuda and not torch.compiler.is_compiling():
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else rows.dtype
        out = BatchedProduct.apply(rows.to(dtype), weights.to(dtype))
    else:
        by_group = rows.view(len(rows), groups, -1).transpose(0, 1)
        out = torch.bmm(by_group, weights.transpose(1, 2)).transpose(0, 1).reshape(len(rows), -1)
    return out if bias is None else out + bias.to(out.dtype)


class GroupedProduct(torch.autograd.Function):
    """`grouped_product` without the two transpositions that a batched product needs: every group reads and writes its
    columns in place. On a CPU, the transpositions cost as much as a batched call saves.

    The result of a group does not depend on the number of groups, down to the last bit.
    """

    @staticmethod
    def forward(ctx: _Context, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        groups, out_features, _ = weights.shape
        out = rows.new_empty(len(rows), groups * out_features)
        for x, weight, result in zip(rows.chunk(groups, 1), weights, out.chunk(groups, 1), strict=True):
            torch.mm(x, weight.t(), out=result)
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, weights = ctx.saved_tensors
        groups, out_features, in_features = weights.shape
        if in_features <= NARROW:
            weights = weights.transpose(1, 2).contiguous().transpose(1, 2)
        grad_rows = torch.empty_like(rows)
        grad_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
        if out_features > in_features:
            grad_weights = grad_weights.view(groups, in_features, out_features).transpose(1, 2)
        parts = (rows.chunk(groups, 1), grad.chunk(groups, 1), weights, grad_rows.chunk(groups, 1), grad_weights)
        for x, grad_out, weight, grad_x, grad_weight in zip(*parts, strict=True):
            torch.mm(grad_out, weight, out=grad_x)
            if out_features > in_features:  # a narrow result takes ten times as long as its transpose
                torch.mm(x.t(), grad_out, out=grad_weight.t())
            else:
                torch.mm(grad_out.t(), x, out=grad_weight)
        return grad_rows, grad_weights


class BatchedProduct(torch.autograd.Function):
    """`grouped_product` as one batched product that reads and writes in place, through views: a GPU accepts matrices
    with gaps between their rows, and torch.bmm without `out` would return a tensor that needs a transposition."""

    @staticmethod
    def forward(ctx: _Context, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        out = rows.new_empty(len(rows), weights.shape[0] * weights.shape[1])
        torch.bmm(_by_group(rows, weights), weights.transpose(1, 2), out=_by_group(out, weights))
        return out

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, weights = ctx.saved_tensors
        by_group, grad_rows = _by_group(grad.contiguous(), weights), torch.empty_like(rows)
        torch.bmm(by_group, weights, out=_by_group(grad_rows, weights))
        return grad_rows, torch.bmm(by_group.transpose(1, 2), _by_group(rows, weights))


def _by_group(rows: Tensor, weights: Tensor) -> Tensor:
    """(M, groups * columns) as a view (groups, M, columns)."""
    return rows.view(len(rows), len(weights), -1).transpose(0, 1)
