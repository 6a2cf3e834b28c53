"""A paper's weights in a network with toggles: what is copied computes the same, and the rest is reported."""

from dataclasses import replace

import ablate
import pytest
import torch
from hypothesis import given
from support.networks import lively
from support.toggle_space import attempt, chosen, models
from torch import Tensor

import mnet
from mnet import ConfigError
from mnet.studies import Trial
from mnet.studies.runs.job import Job
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import read_result
from mnet.weights.load import load_weights as transfer

WIDTH = 0.25


def published(model: str, classes: int = 1000, width: float = WIDTH) -> dict[str, Tensor]:
    """Weights in torchvision's layout, all different from a new network's."""
    net = lively(mnet.create_model(model, num_classes=classes, width=width))
    return {name: tensor.clone() for name, tensor in mnet.to_torchvision(net).items()}


def build(model: str, **toggles) -> mnet.MobileNet:
    return mnet.create_model(model, num_classes=toggles.pop("num_classes", 1000), **{"width": WIDTH, **toggles}).eval()


@pytest.mark.parametrize("model", mnet.list_models())
def test_the_papers_network_keeps_all_weights(model):
    weights, net = published(model), build(model)
    report = transfer(net, weights)
    assert report.share == 1
    assert not report.new
    assert not report.adapted
    images = torch.randn(2, 3, 64, 64)
    expected = mnet.load_torchvision(build(model), weights)
    assert net(images).equal(expected(images))


def test_another_number_of_classes_initialises_a_new_classifier():
    weights, net = published("mobilenet_v3_small"), build("mobilenet_v3_small", num_classes=10)
    report = transfer(net, weights)
    assert dict(report.new) == {"classifier": 2}
    assert f"{report.share:.1%} of {report.params:,} parameters" in str(report)
    assert "new: classifier (2)" in str(report)
    images = torch.randn(2, 3, 64, 64)
    whole = mnet.load_torchvision(build("mobilenet_v3_small"), weights)
    torch.testing.assert_close(net.forward_features(images), whole.forward_features(images))


def test_a_larger_kernel_computes_the_same_and_a_smaller_one_keeps_the_centre():
    weights, images = published("mobilenet_v2"), torch.randn(2, 3, 64, 64)
    larger, smaller = build("mobilenet_v2", kernel=5), build("mobilenet_v3_large", kernel=3)
    assert dict(transfer(larger, weights).adapted) == {"surrounded by zeros": 17}
    torch.testing.assert_close(larger(images), mnet.load_torchvision(build("mobilenet_v2"), weights)(images))
    large = published("mobilenet_v3_large")
    assert dict(transfer(smaller, large).adapted) == {"cut to the centre of their kernel": 6}
    original = mnet.load_torchvision(build("mobilenet_v3_large"), large).blocks[4].depthwise.conv.weight
    assert smaller.blocks[4].depthwise.conv.weight.equal(original[..., 1:4, 1:4])


def test_a_grey_image_gives_the_same_scores_as_in_colour():
    weights, net = published("mobilenet_v1"), build("mobilenet_v1", in_channels=1)
    assert dict(transfer(net, weights).adapted) == {"summed over colours": 1}
    grey = torch.randn(2, 1, 64, 64)
    whole = mnet.load_torchvision(build("mobilenet_v1"), weights)
    torch.testing.assert_close(net(grey), whole(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_parts_that_a_toggle_adds_are_new_and_parts_that_it_removes_are_ignored():
    report = transfer(build("mobilenet_v2", se=True), published("mobilenet_v2"))
    assert dict(report.new) == {"blocks.se.fc1": 34, "blocks.se.fc2": 34}
    net = build("mobilenet_v3_small", se=False)
    assert transfer(net, published("mobilenet_v3_small")).share == 1
    net = build("mobilenet_v1", shallow=True)
    weights = published("mobilenet_v1")
    assert transfer(net, weights).share == 1  # the remaining blocks are matched at their new positions
    whole = mnet.load_torchvision(build("mobilenet_v1"), weights)
    assert net.blocks[-1].project.conv.weight.equal(whole.blocks[-1].project.conv.weight)


@given(models, chosen)
def test_every_network_accepts_weights_or_gives_a_reason(model, chosen):
    network = attempt(model, **{"width": WIDTH, **chosen})
    if network is None:
        return
    net = mnet.create_model(network)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    try:
        report = transfer(net, published(model, width=WIDTH))
    except ConfigError as error:
        assert chosen.get("head") or chosen.get("width") not in (None, WIDTH)
        assert len(str(error)) > 20
        assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())
        return
    assert 0 < report.share <= 1
    weights = {name: tensor for name, tensor in net.state_dict().items() if name.endswith("weight")}
    changed = sum(not tensor.equal(before[name]) for name, tensor in weights.items())
    assert len(weights) - sum(report.new.values()) <= changed <= len(weights)


def test_weights_of_another_network_are_refused():
    for weights in (published("mobilenet_v2"), published("mobilenet_v3_small", width=0.5)):
        with pytest.raises(ConfigError, match=r"do not fit mobilenet_v3_small at width 0.25"):
            transfer(build("mobilenet_v3_small"), weights)


def test_a_run_that_starts_from_weights_reports_them_and_has_another_id(images, tmp_path):
    torch.save({"model": published("mobilenet_v3_small")}, tmp_path / "weights.pth")
    trial = Trial(dataset="imagefolder", data_dir=images, resolution=28, width=WIDTH, epochs=1, batch_size=10)
    started = replace(trial, pretrained=str(tmp_path / "weights.pth"))
    (tmp_path / "copy.pth").write_bytes((tmp_path / "weights.pth").read_bytes())
    assert started.run_id != trial.run_id
    assert replace(started, pretrained=str(tmp_path / "copy.pth")).run_id == started.run_id
    job = Job(started, tmp_path, "study")
    run_job(job)
    result = read_result(job.folder)
    assert 0.5 < result["pretrained_share"] < 1
    assert "new: classifier" in result["start"]


def test_bad_weights_are_an_error_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(published("mobilenet_v2"), tmp_path / "v2.pth")
    for source, message in (
        (tmp_path / "none.pth", "neither a file of weights nor the folder of a run"),
        (tmp_path / "notes.txt", "cannot be read as weights"),
        (tmp_path / "list.pth", "has no state dict"),
        (tmp_path / "v2.pth", "do not fit mobilenet_v3_small"),
    ):
        assert ablate.main(["activation", f"--pretrained={source}", f"--out={tmp_path / 'results'}"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    with pytest.raises(ConfigError, match="torchvision has no weights of mobilenet_v1"):
        transfer(build("mobilenet_v1"), "imagenet")
    with pytest.raises(ConfigError, match="pretrained=imagenet supports classifiers only, not head=ssdlite"):
        Trial(dataset="scenes", head="ssdlite", pretrained="imagenet")
