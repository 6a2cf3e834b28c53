"""A network of two blocks that every runtime exports within seconds.

It has SE, a stride and a shortcut, ReLU in one block and h-swish in the other: another block shows nothing more.
"""

from dataclasses import replace

import pytest
import torch

import mnet
from mnet.studies.latency.subjects import settle


def tiny(seed: int = 0, **toggles):
    network = mnet.describe("mobilenet_v3_small", num_classes=10, width=0.25, **toggles)
    torch.manual_seed(seed)
    net = mnet.create_model(replace(network, blocks=(network.blocks[0], network.blocks[4])))
    settle(net, torch.randn(8, 3, 32, 32))
    return net


@pytest.fixture(scope="session")
def net():
    return tiny()
