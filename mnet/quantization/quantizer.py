"""Where a MobileNet is rounded to 8 bits: in the same places as in XNNPACK's and TFLite's kernels.

Imports torchao and executorch; `mnet.quantization` imports it on use.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import FakeQuantize, MovingAveragePerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

aten = torch.ops.aten

SMALLEST_SCALE = 2**-12
"""Smallest scale of weights and activations: XNNPACK's limit."""

WEIGHTED = (aten.conv2d.default, aten.linear.default)
JOINING = (aten.add.Tensor, aten.mul.Tensor)
CLAMPS = (aten.relu.default, aten.relu6.default)
"""A kernel that ends in one of these applies it before rounding."""
CURVES = (aten.hardswish.default, aten.silu.default, aten.hardsigmoid.default, aten.sigmoid.default)
"""One operator each, 8 bits in and out; an int8 kernel has a table of 256 entries."""
ROUNDED = (*WEIGHTED, *JOINING, *CLAMPS, *CURVES, aten.mean.dim)


class Int8Quantizer(Quantizer):
    """8 bits in and out of every operator: weights symmetric and per channel, activations affine and per tensor.

    ExecuTorch's XNNPACKQuantizer fuses conv + ReLU, but not conv + ReLU6: it rounds the output of both over the range
    of the convolution. It also gives a mean the range of its input, which is far wider.
    """

    def __init__(self, *, training: bool) -> None:
        """
        Args:
            training: Whether to simulate rounding for further training.
        """
        super().__init__()
        config = get_symmetric_quantization_config(is_per_channel=True, is_qat=training)
        self.activation, self.weight = config.input_activation, config.weight
        if training:  # torchao's fused observer scales weights to 127.5, the int8 network to 127
            observer = MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=1.0, eps=SMALLEST_SCALE)
            rounding = FakeQuantize.with_args(observer=observer)
            self.weight = replace(self.weight, observer_or_fake_quant_ctr=rounding)

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if node.target not in ROUNDED or Q_ANNOTATION_KEY in node.meta:
                continue
            inputs = {argument: self.activation for argument in node.args[:2] if isinstance(argument, Node)}
            if node.target in WEIGHTED:
                inputs[node.args[1]] = self.weight
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
            last = _last_node(node)
            last.meta.setdefault(Q_ANNOTATION_KEY, QuantizationAnnotation(_annotated=True))
            last.meta[Q_ANNOTATION_KEY].output_qspec = self.activation
        return model

    def validate(self, model: GraphModule) -> None:
        """Every network of this package is supported."""


def _last_node(node: Node) -> Node:
    """The last node of the operator that begins at `node`: the clamp after it, if nothing else reads its output."""
    user = next(iter(node.users))
    merges = node.target in (*WEIGHTED, *JOINING) and len(node.users) == 1 and user.target in CLAMPS
    return user if merges else node
