"""A network of two blocks that every runtime exports within seconds.

It has SE, a stride and a shortcut, ReLU in one block and h-swish in the other. Another block, a second SE or an
expansion (the last convolution is one) would test nothing more, and exporters take seconds for ten operators.
"""

from dataclasses import replace

import pytest
import torch

import mnet
from mnet.studies.latency.subjects import settle


def tiny(seed: int = 0, **toggles):
    network = mnet.describe("mobilenet_v3_small", num_classes=10, width=0.25, **toggles)
    first = replace(network.blocks[0], se=False)
    second = replace(network.blocks[4], expansion=None, out_channels=first.out_channels)
    torch.manual_seed(seed)
    net = mnet.create_model(replace(network, blocks=(first, second)))
    settle(net, torch.randn(8, 3, 32, 32))
    return net


@pytest.fixture(scope="session")
def net():
    return tiny()
