"""Toggles: what each means, and properties of all of them, over samples of the fields of `Toggles`."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toggle_space import NAMES, SINGLE, attempt, chosen, models, shortened, values
from torch import nn

import mnet
from mnet import ConfigError, Network, Toggles
from mnet.models import toggles
from mnet.models.cost import LayerCost
from mnet.models.layers import Activate, SqueezeExcite
from mnet.models.resolved import resolve_blocks


def counted(network: Network, resolution: int) -> dict[str, tuple]:
    """Layer -> (params with its batch norm, multiply-adds, output size), by running the module."""
    with torch.device("meta"):
        net = mnet.create_model(network).eval()
        layers: dict[str, tuple] = {}

        def record(name: str):
            def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
                params = sum(param.numel() for param in module.parameters())
                size = output.shape[2] if output.ndim == 4 else 1
                layers[name] = params, module.weight.numel() * size**2, size

            return hook

        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(record(name))
        net(torch.empty(1, network.in_channels, resolution, resolution))
        norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, norm in norms.items():
        conv = name.removesuffix("norm") + "conv"
        params, madds, size = layers[conv]
        layers[conv] = params + sum(param.numel() for param in norm.parameters()), madds, size
    return layers


def as_counted(row: LayerCost) -> tuple:
    return row.params, row.madds, row.resolution


@settings(max_examples=settings().max_examples // 2)  # each builds a whole network
@given(models, chosen, st.sampled_from([28, 32, 65, 96, 224]))
def test_cost_from_the_table_is_what_the_module_does(model, chosen, resolution):
    network = attempt(model, **chosen)
    if network is not None:
        expected = counted(network, resolution)
        rows = mnet.cost(network, resolution).rows
        assert {row.layer: as_counted(row) for row in rows} == expected
        assert [row.layer for row in rows] == list(expected)


def test_few_combinations_are_refused():
    """Otherwise the property tests would test nothing."""
    accepted = Counter(attempt(model, **{name: value}) is not None for model, name, value in SINGLE)
    assert accepted[True] > 0.85 * len(SINGLE)


LARGE = ("mobilenet_v3_large", "mobilenet_v4_conv_medium", "mobilenet_v4_conv_large")
MARKED = [
    pytest.param(name, marks=pytest.mark.full("smaller networks, or uib=ffn, have the same kinds of blocks"))
    if name in LARGE
    else name
    for name in mnet.list_models()
]


@pytest.mark.parametrize("model", MARKED)
def test_every_toggle_alone_builds_and_has_gradients(model):
    for name in NAMES:
        for value in values(name):
            network = attempt(model, **{name: value, "width": 0.25} if name != "width" else {name: value})
            if network is not None:
                runs_forward_and_backward(shortened(network), 32)


def runs_forward_and_backward(network: Network, resolution: int) -> None:
    net = mnet.create_model(network).train()
    images = torch.randn(2, network.in_channels, resolution, resolution)
    before = images.clone()
    net(images).sum().backward()
    for name, param in net.named_parameters():
        assert param.grad is not None, name
        assert torch.isfinite(param.grad).all(), name
    with torch.no_grad():
        assert torch.isfinite(net.eval()(images)).all()
    assert torch.equal(images, before)  # in-place operations never reach the caller


@settings(max_examples=settings().max_examples // 2)  # each trains at three sizes
@given(models, chosen)
def test_every_accepted_combination_runs_forward_and_backward_at_every_size(model, chosen):
    network = attempt(model, **{"width": 0.25, **chosen})
    if network is not None:
        for resolution in (28, 32, 96):
            runs_forward_and_backward(network, resolution)


@pytest.mark.parametrize("model", mnet.list_models())
def test_the_papers_image_size_runs(model):
    runs_forward_and_backward(mnet.describe(model), 224)


@given(models, chosen, st.randoms(use_true_random=False))
def test_the_order_in_which_toggles_are_named_does_not_matter(model, chosen, random):
    names = list(chosen)
    random.shuffle(names)
    assert attempt(model, **chosen) == attempt(model, **{name: chosen[name] for name in names})


@given(models, chosen)
def test_every_toggle_is_idempotent_and_none_is_the_identity(model, chosen):
    network = attempt(model, **chosen)
    if network is None:
        return
    assert Toggles().apply(network) is network
    assert attempt(model, **dict.fromkeys(NAMES) | chosen) == network
    for name, value in chosen.items():
        alone = attempt(model, **{name: value})
        if alone is not None:
            assert toggles.FUNCTIONS[name](alone, value) == alone, name


@given(models, chosen)
def test_a_network_survives_yaml_and_hashes(model, chosen):
    network = attempt(model, **chosen)
    if network is not None:
        read = Network.from_dict(yaml.safe_load(yaml.safe_dump(network.to_dict())))
        assert read == network
        assert hash(read) == hash(network)


def test_activation_changes_every_non_linearity_outside_se():
    """timm's act_layer='swish' reaches 21 of the 40 of its V3-Large; torchvision ignores the argument."""
    net = mnet.create_model("mobilenet_v3_large", activation="swish", bottleneck="relu")
    inside = {act for module in net.modules() if isinstance(module, SqueezeExcite) for act in module.modules()}
    acts = [module for module in net.modules() if isinstance(module, Activate)]
    projections = {block.project.act for block in net.blocks}
    names = Counter(act.name for act in acts if act not in inside and act not in projections)
    assert names == {"swish": 1 + 14 + 15 + 1 + 1}  # stem, expansions, depthwise, tail, hidden
    assert {act.name for act in projections} == {"relu"}


def test_hswish_from_80_is_the_published_v3_large_except_for_its_stem():
    """V3, table 5 and section 5.2."""
    published = mnet.describe("mobilenet_v3_large")
    assert mnet.describe("mobilenet_v3_large", hswish_from=80, stem_activation="hswish") == published
    assert mnet.describe("mobilenet_v3_large", hswish_from=80).stem.activation == "relu"
    everywhere = mnet.describe("mobilenet_v3_large", activation="hswish")
    assert mnet.describe("mobilenet_v3_large", hswish_from=16) == everywhere
    assert mnet.describe("mobilenet_v3_large", hswish_from=10_000) == mnet.describe(
        "mobilenet_v3_large", activation="relu"
    )


def forms(model: str, **chosen) -> dict[str, int]:
    """Form and kernels of a row -> number of such rows."""
    return dict(Counter(f"{row.form} {row.sizes}".strip() for row in mnet.describe(model, **chosen).blocks))


def test_uib_gives_every_row_with_an_expansion_one_form():
    assert forms("mobilenet_v3_small", uib="extra_dw") == {"ib 3x3": 1, "extra_dw 3x3+3x3": 2, "extra_dw 5x5+5x5": 8}
    assert forms("mobilenet_v3_small", uib="convnext") == {"ib 3x3": 1, "convnext 3x3": 2, "convnext 5x5": 8}
    assert forms("mobilenet_v3_small", uib="ffn") == {"ib 3x3": 2, "ib 5x5": 2, "ffn": 7}  # strided rows stay
    assert mnet.describe("mobilenet_v3_small", uib="ib") == mnet.describe("mobilenet_v3_small")
    assert forms("mobilenet_v4_conv_small", uib="ib") == {"fused 3x3": 2, "ib 3x3": 8, "ib 5x5": 4}
    assert forms("mobilenet_v4_conv_medium", uib="ib") == {"fused 3x3": 1, "ib 3x3": 11, "ib 5x5": 10}


def test_a_kernel_is_set_where_there_is_a_depthwise_convolution():
    network = mnet.describe("mobilenet_v4_conv_medium", kernel=5)
    assert [row.form for row in network.blocks] == [row.form for row in mnet.describe(network.name).blocks]
    assert {row.sizes for row in network.blocks} == {"3x3", "5x5", "5x5+5x5", ""}  # 3x3: the fused row's full one


def test_full_convolutions_replace_each_depthwise_and_the_1x1_after_it():
    layers = mnet.cost(mnet.describe("mobilenet_v4_conv_medium", separable=False)).layers
    kinds = layers[layers["layer"].str.startswith(("blocks.1.", "blocks.8.", "blocks.9."))]
    assert kinds[["layer", "kind", "kernel", "stride"]].to_numpy().tolist() == [
        ["blocks.1.expand.conv", "full", 3, 1],
        ["blocks.1.project.conv", "full", 5, 2],
        ["blocks.8.expand.conv", "full", 3, 1],  # convnext
        ["blocks.8.project.conv", "project", 1, 1],
        ["blocks.9.expand.conv", "expand", 1, 1],  # ffn
        ["blocks.9.project.conv", "project", 1, 1],
    ]


def test_a_linear_bottleneck_makes_conv_s_begin_as_its_paper_prints_it():
    """V4, table 11 has two FusedIB; the authors' code and timm have a ReLU after their 1x1 too."""
    published, printed = (mnet.describe("mobilenet_v4_conv_small", bottleneck=value) for value in (None, "linear"))
    assert [row.projection for row in published.blocks[:3]] == ["relu", "relu", None]
    assert {row.projection for row in printed.blocks} == {None}


def test_a_dilated_row_dilates_both_of_its_depthwise_convolutions():
    block = mnet.create_model("mobilenet_v4_conv_small", output_stride=16).blocks[8]
    assert [layer.conv.dilation for layer in (block.start, block.expand, block.depthwise)] == [(2, 2), (1, 1), (2, 2)]


def test_streamlined_and_full_undo_each_other():
    v2 = mnet.describe("mobilenet_v2")
    streamlined = mnet.describe("mobilenet_v2", last_stage="streamlined")
    assert (streamlined.tail.out_channels, streamlined.hidden.out_features) == (960, 1280)
    assert toggles.last_stage(streamlined, "full") == v2
    full = mnet.describe("mobilenet_v3_small", last_stage="full")
    assert (full.blocks[-1].expansion, full.blocks[-1].out_channels, full.tail.out_channels) == (576, 192, 1024)
    assert toggles.last_stage(full, "streamlined") == mnet.describe("mobilenet_v3_small")


def test_expansion_shortcuts_are_in_the_same_blocks_as_bottleneck_shortcuts():
    def joined(**chosen) -> list[int]:
        return [i for i, block in enumerate(resolve_blocks(mnet.describe("mobilenet_v2", **chosen))) if block.shortcut]

    assert joined() == joined(shortcut="expansion") == [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]
    assert joined(shortcut="none") == []
    torch.manual_seed(1)
    between = mnet.create_model("mobilenet_v2", shortcut="expansion").eval().blocks[2]
    x = torch.randn(1, 24, 8, 8)
    wide = between.expand(x)
    torch.testing.assert_close(between(x), between.project(wide + between.depthwise(wide)))


def test_a_block_that_is_dilated_instead_of_strided_has_no_shortcut():
    """V3-Small with a reduced tail has 48 channels on both sides of that block; torchvision has none either."""
    block = resolve_blocks(mnet.describe("mobilenet_v3_small", reduced_tail=True, output_stride=16))[8]
    assert (block.in_channels, block.row.out_channels) == (48, 48)
    assert (block.stride, block.dilation, block.shortcut) == (1, 2, False)


@pytest.mark.parametrize(
    ("chosen", "resolution", "size"),
    [
        ({}, 224, 7),
        ({"output_stride": 16}, 224, 14),
        ({"output_stride": 8}, 224, 28),
        ({}, 28, 1),
        ({"total_stride": 8}, 28, 4),
        ({"stem_stride": 1}, 32, 2),
        ({"total_stride": 16}, 32, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", mnet.list_models())
def test_strides_end_at_the_size_they_promise(model, chosen, resolution, size):
    net = mnet.create_model(model, width=0.25, **chosen).eval()
    with torch.no_grad():
        assert net.forward_features(torch.randn(1, 3, resolution, resolution)).shape[2:] == (size, size)


def test_width_rounds_to_multiples_of_eight_and_keeps_the_last_features_below_one():
    for model in mnet.list_models():
        thin = mnet.describe(model, width=0.35)
        channels = [count for row in thin.blocks for count in (row.expansion or 8, row.out_channels)]
        assert all(count % 8 == 0 for count in [thin.stem.out_channels, *channels])
    assert mnet.describe("mobilenet_v2", width=0.35).tail.out_channels == 1280
    assert mnet.describe("mobilenet_v2", width=1.4).tail.out_channels == 1792
    assert mnet.describe("mobilenet_v3_large", width=0.5).hidden.out_features == 1280
    halved = mnet.describe("mobilenet_v3_large", width=0.5, width_rule="torchvision")
    assert halved.hidden.out_features == 640


@pytest.mark.parametrize(
    ("model", "chosen", "message"),
    [
        ("mobilenet_v2", {"activaton": "relu"}, "unknown toggle 'activaton'.*Did you mean activation"),
        ("mobilenet_v2", {"activation": "h-swsh"}, "unknown activation 'h-swsh'; one of relu, .*Did you mean hswish"),
        ("mobilnet_v2", {}, "unknown model 'mobilnet_v2'.*Did you mean mobilenet_v2"),
        ("mobilenet_v2", {"width": 0}, "must be positive"),
        ("mobilenet_v2", {"width": "wide"}, "width must be a finite number, not 'wide'"),
        ("mobilenet_v2", {"se": "maybe"}, "se must be true or false, not 'maybe'"),
        ("mobilenet_v2", {"stem_channels": 20}, "multiple of 8, not 20; the nearest is 24"),
        ("mobilenet_v2", {"se_ratio": 0.5}, "has no squeeze-and-excite here; add se=True"),
        ("mobilenet_v2", {"se": True, "se_ratio": 1.5}, r"in \(0, 1\], not 1.5"),
        ("mobilenet_v2", {"shallow": True}, "mobilenet_v2 has none"),
        ("mobilenet_v1", {"last_stage": "full"}, "no 1x1 convolution after its last block"),
        ("mobilenet_v4_conv_small", {"last_stage": "full"}, "was designed without one"),
        ("mobilenet_v4_conv_small", {"shortcut": "expansion"}, "rows of the form convnext .* add uib=ib"),
        ("mobilenet_v1", {"uib": "extra_dw"}, "no row of mobilenet_v1 has an expansion"),
        ("mobilenet_v2", {"uib": "convnex"}, "unknown uib 'convnex'; one of .* Did you mean convnext"),
        ("mobilenet_v2", {"shortcut": "expansion", "separable": False}, "which separable=False removes"),
        ("mobilenet_v2", {"activation": "relu", "hswish_from": 16}, "give one of them"),
        ("mobilenet_v2", {"stem_stride": 1, "total_stride": 32}, "has only 16 here"),
        ("mobilenet_v2", {"num_classes": 0}, "num_classes must be at least 1"),
    ],
    ids=str,
)
def test_impossible_toggles_are_refused_with_the_reason_and_the_nearest_name(model, chosen, message):
    with pytest.raises(ConfigError, match=message):
        mnet.create_model(model, **chosen)


def test_a_network_given_as_data_is_built_as_it_is():
    network = replace(mnet.describe("mobilenet_v2", width=0.25), num_classes=3)
    assert mnet.create_model(network).network is network
    with pytest.raises(ConfigError, match="built as it is, without num_classes, activation"):
        mnet.create_model(network, num_classes=4, activation="relu")
    with pytest.raises(ConfigError, match="must be odd"):
        replace(network, stem=replace(network.stem, kernel=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 4}, "must be odd"),
        ({"start_kernel": 0}, "must be odd"),
        ({"expansion": None, "start_kernel": 3}, "a row without expansion has one depthwise convolution"),
        ({"fused": True, "start_kernel": 3}, "a fused row has a kernel and no start_kernel"),
        ({"kernel": None, "stride": 2}, "a stride needs a depthwise convolution"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_built_is_refused(changes, message):
    network = mnet.describe("mobilenet_v2")
    with pytest.raises(ConfigError, match=message):
        replace(network, blocks=(network.blocks[0], replace(network.blocks[2], **changes), *network.blocks[3:]))
