"""Replicas against the same networks trained alone: every toggle, up to the rounding of 64-bit numbers."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toggle_space import SINGLE, attempt, chosen, models, shortened
from torch import nn
from torch.nn import functional

import mnet
from mnet.models.diagnostics import dead_kernels
from mnet.models.kernels import BatchedProduct, Conv2d, GroupedProduct
from mnet.models.layers import is_depthwise
from mnet.models.network import MobileNet
from mnet.models.replicas import ReplicatedConv2d, ReplicatedDropout, join, split, stack, take_apart
from mnet.tasks.module import make_optimizer
from mnet.training.recipes import RECIPES

K, STEPS, IMAGES = 3, 2, 2
NARROW = {"width": 0.1}


def tame(network: mnet.Network) -> mnet.Network:
    """Keep batch norms from magnifying rounding: over a few pixels they divide by almost zero."""
    head = network.head and replace(network.head, bn_eps=1.0)
    return replace(network, bn_eps=1.0, head=head)


def networks(network: mnet.Network, dtype: torch.dtype = torch.float64) -> list[MobileNet]:
    """K networks with different initial weights, batch norms too."""
    nets = []
    for seed in range(K):
        torch.manual_seed(seed)
        net = mnet.create_model(network).to(dtype).to(memory_format=torch.channels_last)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.3)
        nets.append(net)
    return nets


def train(network: mnet.Network, side: int, dtype: torch.dtype = torch.float64, lr: float = 0.002):
    """Train K networks as one and alone, through the same steps; return the last outputs and the states."""
    nets = networks(network, dtype)
    stacked = stack(nets)
    recipe = replace(RECIPES["v1"], lr=lr)
    alone = [make_optimizer(net, recipe) for net in nets]
    together = make_optimizer(stacked, recipe)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(K, IMAGES, network.in_channels, side, side, generator=generator, dtype=dtype)
        images = images + torch.arange(K).view(K, 1, 1, 1, 1)  # different for each
        seeds = [100 * step + seed for seed in range(K)]
        for layer in stacked.modules():
            if isinstance(layer, ReplicatedDropout):
                layer.seed(seeds)
        outputs = take_apart(stacked(images.transpose(0, 1).flatten(1, 2)), K)
        expected, targets = [], []
        for net, optimizer, batch, seed in zip(nets, alone, images, seeds, strict=True):
            torch.manual_seed(seed)
            optimizer.zero_grad()
            expected.append(net(batch))
            torch.manual_seed(step)
            targets.append(torch.randn(expected[-1].shape, dtype=dtype))
            functional.mse_loss(expected[-1], targets[-1]).backward()
            optimizer.step()
        together.zero_grad()
        sum(functional.mse_loss(output, target) for output, target in zip(outputs, targets, strict=True)).backward()
        together.step()
    return outputs, expected, (stacked, together), (nets, alone)


def assert_replicas_agree(network: mnet.Network, side: int) -> None:
    outputs, expected, (stacked, together), (nets, alone) = train(tame(network), side)
    torch.testing.assert_close(list(outputs), expected, rtol=1e-9, atol=1e-10)
    for state, net in zip(split(stacked.state_dict(), K), nets, strict=True):
        single = net.state_dict()
        assert list(state) == list(single)
        for name in state:
            torch.testing.assert_close(state[name], single[name], rtol=1e-8, atol=1e-10, msg=name)
    for state, optimizer in zip(split(together.state_dict()["state"], K), alone, strict=True):
        torch.testing.assert_close(state, optimizer.state_dict()["state"], rtol=1e-7, atol=1e-9)


def test_every_toggle_alone():
    """Outputs, weights, batch statistics and the optimiser's state after a few steps."""
    last = {name: value for _, name, value in SINGLE}  # one value each; the test below draws all of them
    heads = [("head", value) for _, name, value in SINGLE if name == "head"]
    for number, (name, value) in enumerate(dict.fromkeys([*heads, *last.items()])):
        models = mnet.list_models()
        rotated = models[number % len(models) :] + models[: number % len(models)]  # every model comes first for some
        built = (attempt(model, **{**NARROW, name: value}) for model in rotated)
        network = next((network for network in built if network is not None), None)
        if network is not None and name != "width":  # settings of heads need a head; widths share their code
            assert_replicas_agree(shortened(network), 24)


@settings(max_examples=settings().max_examples // 2)  # each trains three networks, twice
@given(models, chosen, st.sampled_from([24, 33]))
def test_toggles_together(model, chosen, side):
    network = attempt(model, **{**NARROW, **chosen})
    if network is not None:
        assert_replicas_agree(shortened(network), side)


def test_in_32_bits():
    """As studies train, with maps small enough for the kernels of `mnet.models.kernels`."""
    network = mnet.describe("mobilenet_v3_small", num_classes=5, in_channels=1)
    outputs, expected, *_ = train(tame(network), 28, torch.float32)
    torch.testing.assert_close(list(outputs), expected, rtol=1e-3, atol=1e-4)


def test_states_are_joined_and_split_again():
    states = [
        {"weight": torch.full((2, 3), float(i)), "steps": torch.tensor(7), "group": [{"lr": 0.1}]} for i in range(K)
    ]
    joined = join(states)
    assert joined["weight"].shape == (2 * K, 3)
    assert joined["group"] == [{"lr": 0.1}]
    for state, original in zip(split(joined, K), states, strict=True):
        torch.testing.assert_close(state, original)


def test_the_stem_of_stacked_networks_on_grey_images_is_not_depthwise():
    """K stems of one colour have K groups and K input channels, as a depthwise convolution has."""
    net = mnet.create_model("mobilenet_v2", in_channels=1, **NARROW)
    packed = stack([net] * K)
    single, stacked = (
        [name for name, layer in module.named_modules() if is_depthwise(layer)] for module in (net, packed)
    )
    assert single == stacked
    assert len(single) == 17
    recipe = replace(RECIPES["quick"], decay_depthwise=False)
    decayed = [len(make_optimizer(module, recipe).param_groups[0]["params"]) for module in (net, packed)]
    assert decayed[0] == decayed[1]
    assert [replica.share for replica in dead_kernels(packed, K)] == [dead_kernels(net)[0].share] * K
    with torch.no_grad():
        packed.blocks[3].depthwise.conv.weight[:5] = 0  # channels of the first replica
    assert [replica.share > 0 for replica in dead_kernels(packed, K)] == [True, False, False]


def test_a_stem_by_windows_is_its_convolution():
    """The GPU's method, run on the CPU."""
    for channels, kernel, stride in ((1, 3, 2), (3, 5, 1)):
        layer = nn.Conv2d(channels, 4, kernel, stride, kernel // 2, bias=False)
        stem = ReplicatedConv2d(layer, K).double()
        images = torch.randn(2, K * channels, 9, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
        results = []
        for convolve in (stem.by_windows, stem):
            out = convolve(images)
            results.append((out, *torch.autograd.grad(out.square().sum(), stem.weight)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)
        assert results[0][0].is_contiguous(memory_format=torch.channels_last)


def test_a_batched_product_is_the_product_of_every_group():
    """The GPU's method, run on the CPU."""
    for groups, inside, outside, rows in ((3, 8, 16, 40), (1, 8, 5, 7), (4, 1, 16, 10)):
        x = torch.randn(rows, groups * inside, dtype=torch.float64, requires_grad=True)
        weights = torch.randn(groups, outside, inside, dtype=torch.float64, requires_grad=True)
        results = []
        for product in (BatchedProduct, GroupedProduct):
            out = product.apply(x, weights)
            results.append((out, *torch.autograd.grad(out.square().sum(), (x, weights))))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)


def test_a_depthwise_convolution_in_16_bits_is_one():
    """The GPU's method, run on the CPU."""
    layer = Conv2d(6, 6, 5, 2, 2, groups=6, bias=False)
    images = torch.randn(2, 6, 9, 8).contiguous(memory_format=torch.channels_last)
    out = layer._depthwise_in_16_bits(images)
    torch.testing.assert_close(out, layer(images))
    assert out.is_contiguous(memory_format=torch.channels_last)
