"""Against torchvision (V2, V3) and timm (V1, V4, minimalistic V3), with copied weights."""

import itertools
from collections.abc import Callable

import pytest
import timm
import torch
from support.networks import lively
from torch import nn
from torch.nn import functional
from torchvision import models

import mnet
from mnet import ConfigError
from mnet.models.kernels import Conv2d
from mnet.models.layers import InvertedResidual

TORCHVISION: list[tuple[str, dict, dict]] = [
    *((model, {}, {}) for model in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")),
    *(
        (model, {"width": width, "width_rule": "torchvision"}, {"width_mult": width})
        for model in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
        for width in (0.5, 0.75, 1.4)
    ),
    *(
        (model, toggles, settings)
        for model in ("mobilenet_v3_large", "mobilenet_v3_small")
        for toggles, settings in (
            ({"reduced_tail": True}, {"reduced_tail": True}),
            ({"output_stride": 16}, {"dilated": True}),
            ({"output_stride": 16, "reduced_tail": True}, {"dilated": True, "reduced_tail": True}),
        )
    ),
]


def same_outputs_and_gradients(net: nn.Module, reference: nn.Module, resolution: int) -> None:
    """`net` has the weights of `reference`. Gradients are compared in the order of the state dicts."""
    for model in (net, reference):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    images = torch.randn(4, 3, resolution, resolution)
    with torch.no_grad():
        scores, expected = net.eval()(images), reference.eval()(images)
    largest = expected.abs().max()
    assert 0.05 < largest < 1e6
    torch.testing.assert_close(scores / largest, expected / largest, rtol=0, atol=1e-5)

    net.double().train()
    reference.double().train()
    target = torch.randn(4, 1000, dtype=torch.float64)
    for model in (net, reference):
        (model(images.double()) * target).sum().backward()
    pairs = list(zip(net.parameters(), reference.parameters(), strict=True))
    for param, expected in pairs:
        scale = expected.grad.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(param.grad / scale, expected.grad.view_as(param) / scale, rtol=0, atol=1e-6)


REPEATED = pytest.mark.full("V2 is as wide, and a dilated network has the reduced tail")


def repeats(model: str, toggles: dict) -> bool:
    return toggles == {"reduced_tail": True} or (toggles.get("width") == 1.4 and model != "mobilenet_v2")


@pytest.mark.parametrize(
    ("model", "toggles", "settings"),
    [pytest.param(*row, marks=[REPEATED] * repeats(*row[:2])) for row in TORCHVISION],
    ids=str,
)
def test_outputs_names_and_gradients_equal_torchvisions(model, toggles, settings):
    reference = lively(getattr(models, model)(**settings))
    net = mnet.load_torchvision(mnet.create_model(model, **toggles), reference.state_dict())
    assert list(mnet.to_torchvision(net)) == list(reference.state_dict())
    same_outputs_and_gradients(net, reference, resolution=64)


@pytest.mark.parametrize("model", ["mobilenet_v2", "mobilenet_v3_small"])
def test_gradients_equal_torchvisions_on_maps_of_one_pixel(model):
    reference = lively(getattr(models, model)())
    net = mnet.load_torchvision(mnet.create_model(model), reference.state_dict())
    same_outputs_and_gradients(net, reference, resolution=28)


def test_v1_equals_timms():
    reference = lively(timm.create_model("mobilenetv1_100"))
    net = mnet.load_torchvision(mnet.create_model("mobilenet_v1", activation="relu6"), reference.state_dict())
    assert list(mnet.to_torchvision(net)) == list(reference.state_dict())
    same_outputs_and_gradients(net, reference, resolution=64)


V4_LARGE = pytest.param("mobilenet_v4_conv_large", marks=pytest.mark.full("other kernels and channels only"))


@pytest.mark.parametrize("model", ["mobilenet_v4_conv_small", "mobilenet_v4_conv_medium", V4_LARGE])
def test_v4_equals_timms(model):
    """Also Conv-S's two pairs of convolutions, whose 1x1 has a ReLU and no shortcut."""
    reference = lively(timm.create_model(model.replace("mobilenet_v", "mobilenetv")))
    net = mnet.load_torchvision(mnet.create_model(model), reference.state_dict())
    assert list(mnet.to_timm(net)) == list(reference.state_dict())
    same_outputs_and_gradients(net, reference, resolution=64)


@pytest.mark.parametrize(
    ("error", "least"),
    [
        ("activation after the start depthwise", 0.3),
        ("stride at the start depthwise", 0.05),
        ("linear 1x1 in the first rows", 0.3),
        ("another batch norm eps", 1e-6),
    ],
)
def test_parity_with_timms_v4_sees_what_counts_do_not(error, least):
    reference = lively(timm.create_model("mobilenetv4_conv_small")).eval()
    net = mnet.create_model("mobilenet_v4_conv_small", bottleneck="linear" if error.startswith("linear") else None)
    mnet.load_torchvision(net.eval(), reference.state_dict())
    for module in net.modules():
        if isinstance(module, InvertedResidual) and module.start is not None:
            if error.startswith("activation"):
                module.start.append(nn.ReLU())
            if error.startswith("stride") and module.depthwise is not None:
                module.start.conv.stride, module.depthwise.conv.stride = module.depthwise.conv.stride, (1, 1)
        if isinstance(module, nn.BatchNorm2d) and error.endswith("eps"):
            module.eps = 1e-3
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        scores, expected = net(images), reference(images)
    assert (scores - expected).norm() / expected.norm() > least


@pytest.mark.parametrize("size", ["large", "small"])
def test_minimalistic_v3_equals_timms_except_for_padding(size):
    reference = lively(timm.create_model(f"tf_mobilenetv3_{size}_minimal_100", pad_type=""))
    net = mnet.create_model(f"mobilenet_v3_{size}", se=False, activation="relu", kernel=3)
    state = reference.state_dict()
    assert [value.numel() for value in net.state_dict().values()] == [value.numel() for value in state.values()]
    renamed = zip(net.state_dict().items(), state.values(), strict=True)
    net.load_state_dict({name: value.view_as(target) for (name, target), value in renamed})
    same_outputs_and_gradients(net, reference, resolution=64)


@pytest.mark.parametrize("model", mnet.list_models())
def test_exported_weights_are_imported_unchanged(model):
    net = lively(mnet.create_model(model, num_classes=7, in_channels=1))
    twin = mnet.load_torchvision(mnet.create_model(model, num_classes=7, in_channels=1), mnet.to_torchvision(net))
    for name, value in net.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value), name


def refused(load: Callable[[mnet.MobileNet], object], net: mnet.MobileNet) -> str:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        load(net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    return str(error.value)


def test_weights_that_do_not_fit_are_refused_and_the_network_is_unchanged():
    thin = models.mobilenet_v3_large(width_mult=0.75).state_dict()
    net = mnet.create_model("mobilenet_v3_large", width=0.75)
    assert "They follow width_rule='torchvision'" in refused(lambda net: mnet.load_torchvision(net, thin), net)
    ten = models.mobilenet_v2(num_classes=10).state_dict()
    message = refused(lambda net: mnet.load_torchvision(net, ten), mnet.create_model("mobilenet_v2"))
    assert "classifier.1" in message
    assert "width_rule" not in message
    assert "missing" in refused(lambda net: mnet.load_torchvision(net, thin), mnet.create_model("mobilenet_v2"))


@pytest.mark.parametrize(
    ("model", "toggles"),
    [
        ("mobilenet_v1", {"separable": False}),
        ("mobilenet_v1", {"se": True}),
        ("mobilenet_v2", {"se": True}),
        ("mobilenet_v2", {"last_stage": "streamlined"}),
        ("mobilenet_v3_large", {"last_stage": "full"}),
        ("mobilenet_v3_large", {"uib": "extra_dw"}),
        ("mobilenet_v4_conv_small", {"se": True}),
    ],
)
def test_a_network_that_a_layout_cannot_hold_is_refused(model, toggles):
    with pytest.raises(ConfigError, match="layout"):
        mnet.to_torchvision(mnet.create_model(model, **toggles))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("depthwise", [True, False])
def test_the_kernels_for_small_maps_are_exact(size, kernel, depthwise):
    for bias, stride in itertools.product((True, False), (1, 2)):
        for dilation in (1, 2):
            groups, padding = 6 if depthwise else 1, (kernel - 1) // 2 * dilation
            settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            conv = Conv2d(6, 6, kernel, bias=bias, **settings).double().train()
            images = torch.randn(2, 6, size, size, dtype=torch.float64, requires_grad=True)
            plain = functional.conv2d(images, conv.weight, conv.bias, stride, padding, dilation, groups)
            fast = conv(images)
            weight = torch.randn_like(plain)
            expected = torch.autograd.grad((plain * weight).sum(), (images, conv.weight))
            actual = torch.autograd.grad((fast * weight).sum(), (images, conv.weight))
            for value, reference in zip((fast, *actual), (plain, *expected), strict=True):
                torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)
