"""Fewer channels: which stay, and that leaving out those that carry nothing changes nothing."""

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
    state, channels, seen = net.state_dict(), {**sizes(net.network), None: 5}, set()
    for one in wiring(net.network):
        weight = state[f"{one.layer}.weight"]
        assert weight.shape[0] == channels[one.writes]
        if one.reads is not None:
            assert weight.shape[1] == channels[one.reads]
        seen |= {one.layer, one.norm}
    assert {name.rpartition(".")[0] for name in state} == seen - {None}
    assert set(strength(net)) == set(channels) - {None}


@pytest.mark.parametrize("toggles", [{}, {"shortcut": "expansion"}, {"separable": False, "shortcut": "none"}], ids=str)
@pytest.mark.parametrize("model", mnet.list_models())
def test_channels_that_nothing_reads_can_be_left_out_and_the_others_keep_their_order(model, toggles):
    """In every space at once; what no weight reads carries nothing, whatever was written to it."""
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
    for one in wiring(net.network):
        if one.reads is not None:
            state[f"{one.layer}.weight"][:, silent[one.reads]] = 0
    smaller = MobileNet(network).eval()
    smaller.load_state_dict(truncated(net, network))
    torch.testing.assert_close(smaller(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-4)


def test_the_strongest_stay_by_the_scale_of_their_batch_norm_and_by_what_reads_them():
    net = small("mobilenet_v2", width=1.0)
    block, wanted = net.blocks[2], {"expansion.2": 3}
    with torch.no_grad():
        block.depthwise.norm.weight.fill_(1.0)
        block.project.conv.weight.fill_(0.1)
        block.depthwise.norm.weight[5] = -9.0  # a sign is no weakness
        block.project.conv.weight[:, 7] = 4.0
        block.depthwise.norm.weight[9] = 3.0
        block.expand.norm.weight[11] = 99.0  # the depthwise batch norm takes this scale away again
    network = resized(net.network, *next(iter(wanted.items())))
    kept = truncated(net, network)["blocks.2.depthwise.norm.weight"]
    assert kept.tolist() == [-9.0, 1.0, 3.0]  # of channels 5, 7 and 9


def test_a_run_begins_with_what_fits_of_another_and_a_wider_layer_begins_anew():
    source, net = small("mobilenet_v3_small", width=0.5), small("mobilenet_v3_small", width=0.5)
    assert transfer_trained(net, source).share == 1
    assert net(IMAGES).equal(source(IMAGES))
    wider = MobileNet(resized(source.network, "expansion.9", 400))
    found = transfer_trained(wider, source)
    assert set(found.new) == {
        f"blocks.{name}" for name in ("expand.conv", "expand.norm", "depthwise.conv", "depthwise.norm", "project.conv",
                                      "se.fc1", "se.fc2")
    }  # fmt: skip
