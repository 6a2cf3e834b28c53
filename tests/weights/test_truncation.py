"""Truncation: which channels are kept, and that removing unused ones changes no output."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from support.networks import lively
from support.toggle_space import attempt, chosen, models

import mnet
from mnet.models.network import MobileNet
from mnet.search.proposals import resized
from mnet.weights.transfer import transfer_trained
from mnet.weights.truncation import sizes, strength, truncated, wiring

IMAGES = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def small(model: str, **toggles) -> MobileNet:
    return lively(mnet.create_model(model, num_classes=5, in_channels=1, **{"width": 0.25, **toggles})).eval()


@given(models, chosen)
def test_the_wiring_names_every_tensor_of_every_network_once(model, toggles):
    toggles = {name: value for name, value in toggles.items() if name not in ("head", "head_filters", "lowest_boxes")}
    network = attempt(model, **toggles)
    if network is None:
        return
    net = MobileNet(network)
    state, channels, layers = net.state_dict(), {**sizes(net.network), None: 5}, set()
    for wire in wiring(net.network):
        weight = state[f"{wire.layer}.weight"]
        assert weight.shape[0] == channels[wire.writes]
        if wire.reads is not None:
            assert weight.shape[1] == channels[wire.reads]
        layers |= {wire.layer, wire.norm}
    assert {name.rpartition(".")[0] for name in state} == layers - {None}
    assert set(strength(net)) == set(channels) - {None}


@pytest.mark.parametrize(
    "toggles",
    [
        {},
        {"shortcut": "expansion"},
        {"shortcut": "expansion", "uib": "extra_dw"},
        {"separable": False, "shortcut": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", [name for name in mnet.list_models() if name != "mobilenet_v4_conv_large"])
def test_unread_channels_are_removed_and_the_rest_keep_their_order(model, toggles):
    """In every space at once. A channel that no weight reads contributes nothing, whatever is written to it.

    V4-Conv-L has no kind of row that V4-Conv-M lacks, and 25 times the weights of the smallest.
    """
    if attempt(model, **toggles) is None:
        return
    net = small(model, width=1.0, **toggles)
    before = sizes(net.network)
    network = net.network
    for space in before:
        if space.startswith(("stem", "bottleneck", "expansion")):
            network = resized(network, space, before[space] - 8)
    network = replace(network, tail=network.tail and replace(network.tail, out_channels=before["tail"] - 8))
    network = replace(network, hidden=network.hidden and replace(network.hidden, out_features=before["hidden"] - 8))
    after = sizes(network)
    assert after.keys() == before.keys()
    silent = {space: torch.randperm(count)[after[space] :] for space, count in before.items()}
    state = net.state_dict()
    for wire in wiring(net.network):
        if wire.reads is not None:
            state[f"{wire.layer}.weight"][:, silent[wire.reads]] = 0
    smaller = MobileNet(network).eval()
    smaller.load_state_dict(truncated(net, network))
    torch.testing.assert_close(smaller(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-4)


def test_strength_is_the_scale_of_the_batch_norm_times_the_reading_weights():
    net = small("mobilenet_v2", width=1.0)
    block = net.blocks[2]
    with torch.no_grad():
        block.depthwise.norm.weight.fill_(1.0)
        block.project.conv.weight.fill_(0.1)
        block.depthwise.norm.weight[5] = -9.0  # the sign does not matter
        block.project.conv.weight[:, 7] = 4.0
        block.depthwise.norm.weight[9] = 3.0
        block.expand.norm.weight[11] = 99.0  # the depthwise batch norm removes this scale
    network = resized(net.network, "expansion.2", 3)
    kept = truncated(net, network)["blocks.2.depthwise.norm.weight"]
    assert kept.tolist() == [-9.0, 1.0, 3.0]  # of channels 5, 7 and 9


def test_weights_of_a_run_are_copied_where_they_fit_and_wider_layers_are_new():
    source, net = small("mobilenet_v3_small", width=0.5), small("mobilenet_v3_small", width=0.5)
    assert transfer_trained(net, source).share == 1
    assert net(IMAGES).equal(source(IMAGES))
    wider = MobileNet(resized(source.network, "expansion.9", 400))
    report = transfer_trained(wider, source)
    assert set(report.new) == {
        f"blocks.{name}" for name in ("expand.conv", "expand.norm", "depthwise.conv", "depthwise.norm", "project.conv",
                                      "se.fc1", "se.fc2")
    }  # fmt: skip
