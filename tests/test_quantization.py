"""int8: what fusing and quantizing keep, and how much."""

import pytest
import torch
from torch import nn

import mnet
from mnet.quantization import fuse


def trained(model="mobilenet_v3_small", **toggles):
    """A network whose batch norms have seen something, (N, 1, 28, 28) -> (N, 10)."""
    torch.manual_seed(0)
    net = mnet.create_model(model, num_classes=10, in_channels=1, **toggles)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize(
    "toggles",
    [
        {"model": "mobilenet_v1"},
        {"model": "mobilenet_v1", "separable": False},
        {"model": "mobilenet_v2", "bottleneck": "relu6", "shortcut": "expansion"},
        {"model": "mobilenet_v2", "output_stride": 8, "se": True, "se_gate": "sigmoid"},
        {"model": "mobilenet_v3_large", "last_stage": "full", "activation": "swish"},
        {"model": "mobilenet_v3_small", "kernel": 3, "stem_channels": 32},
    ],
)
def test_fusing_leaves_no_batch_norm_and_the_same_outputs(toggles):
    net = trained(width=0.25, **toggles).double().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fused = fuse(net.train())
    pictures = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    torch.testing.assert_close(fused(pictures), net.eval()(pictures), rtol=1e-9, atol=1e-11)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
