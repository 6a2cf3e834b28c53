"""A network from outside the family, in a file: EfficientNet-Lite0, against timm's."""

from pathlib import Path

import pytest
import timm
import torch
from support.networks import lively
from torch import nn

import mnet
from mnet import ConfigError
from mnet.studies.runs.start import load_pretrained
from mnet.studies.trial import Trial

LITE0 = str(Path(__file__).parents[2] / "docs/efficientnet-lite0.yaml")


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    return lively(timm.create_model("efficientnet_lite0")).eval()


def test_it_equals_timms_and_its_weights_go_in_and_out(reference):
    """The expected counts come from hooks on timm's network."""
    net = mnet.create_model(LITE0).eval()
    assert (mnet.cost(net).params, mnet.cost(net).madds) == (4_652_008, 385_187_552)
    report = mnet.load_weights(net, reference.state_dict())
    assert (report.share, report.source) == (1, "timm efficientnet_lite0, 1,000 classes")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(images), reference(images), rtol=1e-5, atol=1e-5)
    assert list(mnet.to_timm(net)) == list(reference.state_dict())
    twin = mnet.create_model(LITE0)
    assert mnet.load_weights(twin, mnet.to_torchvision(net)).source.startswith("torchvision efficientnet_lite0")
    assert all(value.equal(net.state_dict()[name]) for name, value in twin.state_dict().items())


def test_its_weights_start_it_with_any_toggles(reference, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "lite0.pth")
    trial = Trial(model=LITE0, se=True, kernel=3, pretrained=str(tmp_path / "lite0.pth"))
    net = mnet.create_model(trial.network(num_classes=10, in_channels=1))
    report = load_pretrained(str(trial.pretrained), net, trial.model)
    assert report.source == "timm efficientnet_lite0, 1,000 classes → 10"
    assert dict(report.adapted) == {"summed over colours": 1, "cut to the centre of their kernel": 9}
    assert set(report.new) == {"blocks.se.fc1", "blocks.se.fc2", "classifier"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda net: mnet.load_weights(net, "imagenet"), "torchvision has no weights of efficientnet_lite0"),
        (
            lambda net: mnet.load_torchvision(net, mnet.to_torchvision(mnet.create_model(LITE0))),
            "have different shapes",
        ),
        (lambda net: mnet.to_torchvision(mnet.create_model(LITE0, se=True)), "V2 layout has no SE"),
        (lambda net: mnet.to_torchvision(mnet.create_model(LITE0, uib="extra_dw")), "no rows of the form extra_dw"),
        (lambda net: mnet.to_torchvision(mnet.create_model(LITE0, head="ssdlite")), "no ssdlite on efficientnet_lite0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(source, message):
    with pytest.raises(ConfigError, match=message):
        source(mnet.create_model(LITE0, num_classes=10))
