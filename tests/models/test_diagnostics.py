"""Diagnostics: planted faults are detected, and known cases give their known answers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import mnet
from mnet.models.diagnostics import (
    activation_stats,
    depthwise_kernels,
    effective_rank,
    hard_swish_gap,
    spiral,
    through_relu,
)


def test_new_kernels_have_norm_one_and_planted_dead_ones_are_counted():
    net = mnet.create_model("mobilenet_v2", width=0.5)
    layers = depthwise_kernels(net)
    assert len(layers) == 17
    assert layers[0].layer == "blocks.0.depthwise"
    norms = torch.cat([layer.norms for layer in layers])
    assert float(norms.square().mean()) == pytest.approx(1, rel=0.05)
    assert all(layer.dead == 0 for layer in layers)
    with torch.no_grad():
        net.blocks[3].depthwise.conv.weight[:12] = 0
    assert depthwise_kernels(net)[3].dead == pytest.approx(12 / len(net.blocks[3].depthwise.conv.weight))


@pytest.mark.parametrize("model", mnet.list_models())
def test_every_non_linearity_is_measured_in_order_and_the_network_is_unchanged(model):
    net = mnet.create_model(model, width=0.25).train()
    images = torch.randn(4, 3, 64, 64)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stats = activation_stats(net, images)
    rows = {row.layer.removesuffix(".conv"): row for row in mnet.cost(net, 64).rows}
    names = [layer.layer for layer in stats]
    assert names == [name for name in rows if name in names]
    assert all(layer.channels == rows[layer.layer].out_channels for layer in stats)
    assert all(1 <= layer.rank_after <= layer.channels + 1e-6 for layer in stats if layer.silent < 1)
    assert net.training
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_planted_silent_channels_and_their_lost_rank_are_measured():
    net = mnet.create_model("mobilenet_v1", width=0.25).eval()
    norm = net.blocks[2].depthwise.norm
    with torch.no_grad():
        norm.bias[:8] = -100.0  # below zero for any input
    stats = next(
        layer for layer in activation_stats(net, torch.randn(4, 3, 64, 64)) if layer.layer == "blocks.2.depthwise"
    )
    assert stats.activation == "relu"
    assert stats.silent == pytest.approx(8 / stats.channels)
    assert stats.low == 0
    assert stats.rank_after <= stats.channels - 8 + 1e-6


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(9, 4)) == pytest.approx(1)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )
    assert effective_rank(torch.zeros(3, 3)) == 0


def test_relu_loses_less_of_a_curve_in_more_dimensions():
    lost = torch.tensor([[curve.lost for curve in through_relu((2, 5, 30), seed)] for seed in range(50)])
    median = lost.median(0).values
    assert median[0] > median[1] > median[2]
    assert median[0] > 0.2 > median[2]
    assert spiral().mean(0).abs().max() < 1e-9
    assert through_relu((15,), 3)[0].back.equal(through_relu((15,), 3)[0].back)


def test_h_swish_differs_most_from_swish_at_three():
    gap = hard_swish_gap()
    at = torch.tensor(gap["at"], dtype=torch.float64)
    assert gap["largest"] == pytest.approx(float(functional.hardswish(at) - nn.functional.silu(at)))
    assert 0.1 < abs(gap["largest"]) < 0.2
    assert abs(gap["at"]) == pytest.approx(3, abs=0.2)
