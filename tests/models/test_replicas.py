"""Replicas against the same networks trained alone: every toggle, to the rounding of 64-bit numbers."""

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.toggle_space import SINGLE, attempt, chosen, models
from torch import Tensor, nn
from torch.nn import functional

import mnet
from mnet.models.diagnostics import dead_kernels
from mnet.models.layers import is_depthwise
from mnet.models.network import MobileNet
from mnet.models.replicas import ReplicatedDropout, join, split, stack, take_apart
from mnet.tasks.module import make_optimizer
from mnet.training.recipes import RECIPES

K, STEPS, IMAGES = 3, 2, 3
NARROW = {"width": 0.25}


def tame(network: mnet.Network) -> mnet.Network:
    """With batch norms that do not magnify rounding: those of a few pixels divide by almost nothing."""
    head = network.head and replace(network.head, bn_eps=1.0)
    return replace(network, bn_eps=1.0, head=head)


def networks(network: mnet.Network, dtype: torch.dtype = torch.float64) -> list[MobileNet]:
    """K of their own initial weights, batch norms too."""
    made = []
    for seed in range(K):
        torch.manual_seed(seed)
        net = mnet.create_model(network).to(dtype).to(memory_format=torch.channels_last)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.3)
        made.append(net)
    return made


def loss_of(answers: Tensor, wanted: Tensor) -> Tensor:
    return functional.mse_loss(answers, wanted)


def train(network: mnet.Network, side: int, dtype: torch.dtype = torch.float64, lr: float = 0.002):
    """K networks alone, and as one, through the same steps: what they said in the last, and their states."""
    nets = networks(network, dtype)
    stacked = stack(nets)
    recipe = replace(RECIPES["v1"], lr=lr)
    alone = [make_optimizer(net, recipe) for net in nets]
    together = make_optimizer(stacked, recipe)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(K, IMAGES, network.in_channels, side, side, generator=generator, dtype=dtype)
        images = images + torch.arange(K).view(K, 1, 1, 1, 1)  # data of their own
        seeds = [100 * step + seed for seed in range(K)]
        for layer in stacked.modules():
            if isinstance(layer, ReplicatedDropout):
                layer.seeds = seeds
        found = take_apart(stacked(images.transpose(0, 1).flatten(1, 2)), K)
        said, losses = [], []
        for net, optimizer, own, seed in zip(nets, alone, images, seeds, strict=True):
            torch.manual_seed(seed)
            optimizer.zero_grad()
            said.append(net(own))
            torch.manual_seed(step)
            wanted = torch.randn(said[-1].shape, dtype=dtype)
            losses.append(wanted)
            loss_of(said[-1], wanted).backward()
            optimizer.step()
        together.zero_grad()
        sum(loss_of(mine, wanted) for mine, wanted in zip(found, losses, strict=True)).backward()
        together.step()
    return found, said, (stacked, together), (nets, alone)


def agree(network: mnet.Network, side: int) -> None:
    found, said, (stacked, together), (nets, alone) = train(tame(network), side)
    for mine, own in zip(found, said, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-9, atol=1e-10)
    for state, net in zip(split(stacked.state_dict(), K), nets, strict=True):
        expected = net.state_dict()
        assert list(state) == list(expected)
        for name in state:
            torch.testing.assert_close(state[name], expected[name], rtol=1e-8, atol=1e-10, msg=name)
    for state, optimizer in zip(split(together.state_dict()["state"], K), alone, strict=True):
        torch.testing.assert_close(state, optimizer.state_dict()["state"], rtol=1e-7, atol=1e-9)


def test_every_toggle_alone():
    """Outputs, weights, batch statistics and the optimiser's state after a few steps."""
    last = {name: value for _, name, value in SINGLE}  # of each; the test below draws them all
    heads = [("head", value) for _, name, value in SINGLE if name == "head"]
    for number, (name, value) in enumerate(dict.fromkeys([*heads, *last.items()])):
        built = (attempt(model, **{**NARROW, name: value}) for model in turned(mnet.list_models(), number))
        network = next((network for network in built if network is not None), None)
        if network is not None and name != "width":  # a setting of heads has none to set; every width is the same code
            agree(network, 24)


def turned(names: list[str], by: int) -> list[str]:
    """So that every model is some toggle's first."""
    return names[by % len(names) :] + names[: by % len(names)]


@given(models, chosen, st.sampled_from([24, 33]))
def test_toggles_together(model, chosen, side):
    network = attempt(model, **{**NARROW, **chosen})
    if network is not None:
        agree(network, side)


def test_in_32_bits():
    """As studies train; at the sizes where convolutions take other paths too."""
    network = mnet.describe("mobilenet_v3_small", num_classes=5, in_channels=1)
    found, said, *_ = train(tame(network), 28, torch.float32)
    for mine, own in zip(found, said, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-3, atol=1e-4)


def test_states_go_together_and_apart():
    states = [
        {"weight": torch.full((2, 3), float(i)), "steps": torch.tensor(7), "group": [{"lr": 0.1}]} for i in range(K)
    ]
    joined = join(states)
    assert joined["weight"].shape == (2 * K, 3)
    assert joined["group"] == [{"lr": 0.1}]
    for state, own in zip(split(joined, K), states, strict=True):
        torch.testing.assert_close(state, own)


def test_depthwise_kernels_are_the_same_layers_of_grey_images_too_and_decay_alike():
    """K stems of one colour have K groups and K input channels, as a depthwise convolution has."""
    net = mnet.create_model("mobilenet_v2", in_channels=1, **NARROW)
    packed = stack([net] * K)
    own, theirs = ([name for name, one in module.named_modules() if is_depthwise(one)] for module in (net, packed))
    assert own == theirs
    assert len(own) == 17
    recipe = replace(RECIPES["quick"], decay_depthwise=False)
    decayed = [len(make_optimizer(module, recipe).param_groups[0]["params"]) for module in (net, packed)]
    assert decayed[0] == decayed[1]
    assert [one.share for one in dead_kernels(packed, K)] == [dead_kernels(net)[0].share] * K
    with torch.no_grad():
        packed.blocks[3].depthwise.conv.weight[:5] = 0  # of the first one's channels
    assert [one.share > 0 for one in dead_kernels(packed, K)] == [True, False, False]
