"""Batch norms folded into their convolutions: what a network is turned into before it is shipped."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnet.layers import ConvNormAct
from mnet.network import MobileNet


def fuse(net: MobileNet) -> MobileNet:
    """A copy in eval mode with every batch norm folded into its convolution; the same function up to rounding."""
    fused = copy.deepcopy(net).eval()
    for layer in fused.modules():
        if isinstance(layer, ConvNormAct) and isinstance(layer.norm, nn.BatchNorm2d):
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
            layer.add_module("norm", nn.Identity())
    return fused
