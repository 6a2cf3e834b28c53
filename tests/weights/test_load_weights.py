"""Weights as users have them: from every library, in every wrapping, without running code in a file."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diagnose
import numpy as np
import predict
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support.networks import lively
from torch import Tensor, nn
from torchvision import models

import mnet
from mnet import ConfigError
from mnet.files import write_yaml
from mnet.studies import Trial
from mnet.weights.load import open_weights
from mnet.weights.transfer import weights_key

V3 = "mobilenet_v3_small"
WIDTH = pytest.mark.full("another width of this network is loaded")
TIMM = [
    ("mobilenetv1_100", "mobilenet_v1", {"activation": "relu6"}),
    ("mobilenetv1_125", "mobilenet_v1", {"activation": "relu6", "width": 1.25}),
    *((f"mobilenetv2_{round(100 * w):03}", "mobilenet_v2", {"width": w}) for w in (0.35, 0.5, 0.75, 1.0, 1.4)),
    ("mobilenetv3_large_075", "mobilenet_v3_large", {"width": 0.75}),
    ("mobilenetv3_large_100", "mobilenet_v3_large", {}),
    ("mobilenetv3_small_050", V3, {"width": 0.5, "stem_channels": 32}),
    ("mobilenetv3_small_075", V3, {"width": 0.75}),
    ("mobilenetv3_small_100", V3, {}),
    ("mobilenetv4_conv_small_050", "mobilenet_v4_conv_small", {"width": 0.5, "stem_channels": 64}),
    ("mobilenetv4_conv_medium", "mobilenet_v4_conv_medium", {}),
    ("tf_mobilenetv3_large_minimal_100", "mobilenet_v3_large", {"se": False, "activation": "relu", "kernel": 3}),
    ("tf_mobilenetv3_small_minimal_100", V3, {"se": False, "activation": "relu", "kernel": 3}),
]  # fmt: skip
OTHER_WIDTHS = {f"mobilenetv2_{width:03}" for width in (50, 75, 140)}
OTHER_WIDTHS |= {"mobilenetv1_100", "mobilenetv3_large_100", "mobilenetv3_small_050", "mobilenetv3_small_100"}


def same_outputs(net: mnet.MobileNet, reference: nn.Module, source: str) -> tuple[Tensor, Tensor]:
    """Check that `net` takes all weights of `reference`, as `source`; return images and the reference's outputs."""
    report = mnet.load_weights(net, reference.state_dict())
    assert report.share == 1
    assert report.source.startswith(source)
    images = torch.randn(2, 3, 64, 64)
    expected = reference(images)
    torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    return images, expected


@pytest.mark.parametrize(
    ("name", "model", "toggles"),
    [pytest.param(*row, id=row[0], marks=[WIDTH] * (row[0] in OTHER_WIDTHS)) for row in TIMM],
)
def test_timms_networks_are_recognised_and_compute_the_same_both_ways(
    name: str, model: str, toggles: dict[str, object]
) -> None:
    padding = {"pad_type": ""} if name.startswith("tf_") else {}  # TensorFlow pads on one side
    reference = lively(timm.create_model(name, **padding)).eval()
    (eps,) = {module.eps for module in reference.modules() if isinstance(module, nn.BatchNorm2d)}
    net = mnet.MobileNet(replace(mnet.describe(model, **toggles), bn_eps=eps)).eval()
    images, expected = same_outputs(net, reference, f"timm {model}")
    exported = mnet.to_timm(net)
    assert list(exported) == list(reference.state_dict())
    reference.load_state_dict(exported)
    assert reference(images).equal(expected)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", V3])
@pytest.mark.parametrize("width", [1.0, 0.75])
def test_torchvisions_networks_are_recognised_at_every_width(name: str, width: float) -> None:
    reference = lively(getattr(models, name)(width_mult=width)).eval()
    net = mnet.create_model(name, width=width, width_rule="torchvision").eval()
    same_outputs(net, reference, f"torchvision {name}")


def weights(classes: int = 1000) -> dict[str, Tensor]:
    return dict(lively(models.mobilenet_v3_small(num_classes=classes)).state_dict())


def whole(tensors: dict[str, Tensor]) -> nn.Module:
    net = models.mobilenet_v3_small()
    net.load_state_dict(tensors)
    return net


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


WRAPPED: list[tuple[str, Callable[[dict[str, Tensor]], object], str]] = [
    ("a state dict", lambda w: w, ""),
    ("DataParallel", lambda w: {f"module.{k}": v for k, v in w.items()}, "without module."),
    (
        "compiled in DDP",
        lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
        "without module._orig_mod.",
    ),
    (
        "Lightning",
        lambda w: {"epoch": 3, "state_dict": {"loss.weight": torch.ones(3), **{f"net.{k}": v for k, v in w.items()}}},
        "its state_dict, without net. and loss.weight",
    ),
    (
        "torchvision's reference script",
        lambda w: {
            "model": {k: torch.zeros_like(v) for k, v in w.items()},
            "model_ema": {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in w.items()}},
            "optimizer": {"state": {0: {"square_avg": torch.ones(2)}}},
            "args": argparse.Namespace(lr=0.1, data=Path("x")),
            "epoch": 7,
        },
        "EMA weights, not model, optimizer, without module. and n_averaged",
    ),
    ("half precision", half, "from float16"),
    ("without counters", lambda w: {k: v for k, v in w.items() if "num_batches" not in k}, ""),
    (
        "a network of a student's own, with a loss and numbers of numpy",
        lambda w: {
            "state_dict": {f"backbone.{k}": v for k, v in w.items()},
            "hyper_parameters": {"loss": nn.MSELoss(), "best": np.float64(71.3)},
        },
        "its state_dict, without backbone.",
    ),
    ("a whole network", whole, "a whole network"),
    (
        "a whole network in DataParallel, beside its optimiser's state",
        lambda w: {"model": nn.DataParallel(whole(w)), "optimizer": {"state": {0: {"step": torch.ones(2)}}}},
        "its model, not optimizer, a whole network, without module.",
    ),
]


@pytest.mark.parametrize(("wrap", "notes"), [case[1:] for case in WRAPPED], ids=[case[0] for case in WRAPPED])
def test_wrapped_weights_are_found_in_files(wrap: Callable, notes: str, tmp_path: Path) -> None:
    tensors = weights()
    torch.save(wrap(tensors), tmp_path / "weights.ckpt")
    net = mnet.create_model(V3, num_classes=10)
    report = mnet.load_weights(net, tmp_path / "weights.ckpt")
    assert report.source == ", ".join(filter(None, [f"torchvision {V3}", notes, "1,000 classes → 10"]))
    assert dict(report.new) == {"classifier": 2}
    expected = tensors["features.0.0.weight"]
    assert net.stem.conv.weight.equal(expected.half().float() if "float16" in notes else expected)


def test_tensors_are_not_printed_to_learn_whether_they_are_the_name_of_a_file() -> None:
    """Printing a state dict takes as long as everything else."""

    class Silent(dict):
        def __repr__(self) -> str:
            raise AssertionError

    net = mnet.create_model("mobilenet_v3_small", width=0.25, num_classes=3)
    assert mnet.load_weights(net, Silent(net.state_dict())).share == 1


def test_an_entry_can_be_chosen_and_safetensors_are_read(tmp_path: Path) -> None:
    plain, averaged = weights(), weights()
    path = tmp_path / "a #1.pth"
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, path)
    net = mnet.create_model(V3)
    mnet.load_weights(net, path)
    assert net.stem.conv.weight.equal(averaged["features.0.0.weight"])
    mnet.load_weights(net, f"{path}#state_dict")
    assert net.stem.conv.weight.equal(plain["features.0.0.weight"])
    assert weights_key(f"{path}#ema", V3) != weights_key(str(path), V3)
    with pytest.raises(ConfigError, match="unknown entry 'ema'; one of state_dict, state_dict_ema"):
        mnet.load_weights(net, f"{path}#ema")
    save_file(averaged, tmp_path / "model.safetensors")
    mnet.load_weights(net, tmp_path / "model.safetensors")
    assert net.stem.conv.weight.equal(averaged["features.0.0.weight"])


def test_one_of_several_networks_is_chosen_by_its_prefix(tmp_path: Path) -> None:
    student, teacher = weights(), weights()
    both = {**{f"student.{k}": v for k, v in student.items()}, **{f"teacher.{k}": v for k, v in teacher.items()}}
    torch.save({"state_dict": both}, path := tmp_path / "distilled.ckpt")
    net = mnet.create_model(V3)
    with pytest.raises(ConfigError, match="has 2 networks, student, teacher: choose by FILE#student"):
        mnet.load_weights(net, path)
    with pytest.raises(ConfigError, match=re.escape("unknown entry 'tutor'")):
        mnet.load_weights(net, f"{path}#tutor")
    mnet.load_weights(net, f"{path}#teacher")
    assert net.stem.conv.weight.equal(teacher["features.0.0.weight"])


@pytest.mark.parametrize("cut", [{"num_classes": 0}, {"features_only": True}], ids=["no classes", "features only"])
def test_a_network_whose_classifier_was_cut_off_starts_the_rest(cut: dict[str, object], tmp_path: Path) -> None:
    tensors = timm.create_model("mobilenetv3_small_100", **cut).state_dict()
    net = mnet.create_model(V3, num_classes=10)
    report = mnet.load_weights(net, tensors)
    assert report.source == f"timm {V3}, no classifier"
    assert set(report.new) == ({"classifier"} if "num_classes" in cut else {"hidden", "classifier"})
    assert net.blocks[0].depthwise.conv.weight.equal(tensors["blocks.0.0.conv_dw.weight"])
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(ConfigError, match="no classifier: they can start a training"):
        open_weights(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html>", "no file of weights begins with '<!DOCTYPE html>'"),
        (None, "it is incomplete or damaged"),
    ],
)
def test_a_file_that_a_download_left_is_named_with_the_reason(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    torch.save(weights(), path := tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(ConfigError, match=re.escape(f"{path} cannot be read as weights: ") + ".*" + re.escape(message)):
        mnet.load_weights(mnet.create_model(V3), path)


def detector(classes: int) -> nn.Module:
    return models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)


def segmenter(classes: int) -> nn.Module:
    return models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)


@pytest.mark.parametrize(
    ("reference", "head", "new"),
    [(detector(21), {"head": "ssdlite", "lowest_boxes": 6, "reduced_tail": True}, {"head.scores": 12}),
     (segmenter(20), {"head": "lr_aspp", "output_stride": 16}, {"head.low": 2, "head.high": 2})],
    ids=["SSDLite", "LR-ASPP"],
)  # fmt: skip
def test_weights_with_a_head_start_one_of_other_classes(
    reference: nn.Module, head: dict[str, object], new: dict[str, int]
) -> None:
    tensors = reference.state_dict()
    twin = mnet.create_model("mobilenet_v3_large", num_classes=20, **head)
    source = f"torchvision {head['head']} on mobilenet_v3_large"
    report = mnet.load_weights(twin, {f"module.{name}": value for name, value in tensors.items()})
    assert (report.source, report.share) == (f"{source}, without module.", 1)
    net = mnet.create_model("mobilenet_v3_large", num_classes=4, **head)
    report = mnet.load_weights(net, tensors)
    assert (report.source, report.new) == (f"{source}, other classes", new)
    ours = mnet.create_model("mobilenet_v3_large", num_classes=4, **head)
    assert mnet.load_weights(ours, {f"net.{name}": value for name, value in twin.state_dict().items()}).new == new
    stem = twin.state_dict()["stem.conv.weight"]
    assert net.stem.conv.weight.equal(stem)
    assert ours.stem.conv.weight.equal(stem)


def test_a_finished_run_is_read_from_its_folder(tmp_path: Path) -> None:
    trial = Trial(se=False, width=0.5, activation="relu")
    source = lively(mnet.MobileNet(trial.network(7, 1)))
    write_yaml(tmp_path / "config.yaml", trial.settings())
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    net = mnet.create_model(V3, se=False, width=0.5, activation="relu", num_classes=7, in_channels=1)
    assert mnet.load_weights(net, tmp_path).share == 1
    images = torch.randn(2, 1, 32, 32)
    assert net.eval()(images).equal(source.eval()(images))
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="is not the folder of a finished run"):
        mnet.load_weights(net, tmp_path)


def test_what_a_network_with_toggles_exports_it_takes_back() -> None:
    net = lively(mnet.create_model(V3, se=False, width=0.6, num_classes=7))
    layouts = {"torchvision": mnet.to_torchvision(net), "timm": mnet.to_timm(net), "mnet": net.state_dict()}
    for library, exported in layouts.items():
        twin = mnet.create_model(V3, se=False, width=0.6, num_classes=7)
        report = mnet.load_weights(twin, exported)
        assert report.source == f"{library} {V3}, width 0.6, with the same toggles, 7 classes"
        assert all(twin.state_dict()[name].equal(value) for name, value in net.state_dict().items())


ran: list[str] = []


class Trap:
    """Code that a pickle would run."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return ran.append, ("code",)


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    net = mnet.create_model(V3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    path = tmp_path / "trap.pth"
    torch.save({"model": weights(), "args": Trap()}, path)
    try:
        mnet.load_weights(net, path)
    except ConfigError as error:
        assert "holds more than tensors" in str(error)
        assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    path.write_bytes(pickle.dumps({"model": Trap()}))
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        mnet.load_weights(net, path)
    torch.jit.trace(models.mobilenet_v3_small().eval(), torch.zeros(1, 3, 32, 32)).save(str(path))
    with pytest.raises(ConfigError, match="TorchScript"):
        mnet.load_weights(net, path)
    assert ran == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: models.mobilenet_v2().state_dict(), "torchvision mobilenet_v2; give model=mobilenet_v2 width=1"),
        (
            lambda: models.mobilenet_v3_small(width_mult=0.75).state_dict(),
            "at width 1: they belong to torchvision mobilenet_v3_small, width 0.75, torchvision's rounding",
        ),
        (lambda: timm.create_model("mobilenetv1_100h").state_dict(), "in timm's layout match no published MobileNet"),
        (lambda: timm.create_model("mobilenetv2_110d").state_dict(), "nearest is timm mobilenet_v2"),
        (lambda: models.resnet18().state_dict(), "look like a ResNet or another family"),
        (lambda: models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict(),
         "look like an SSDLite detector in torchvision's layout"),
        (lambda: {**weights(), "features.0.1.bias": torch.full((16,), torch.nan)},
         "has numbers that are not finite, in features.0.1.bias"),
        (lambda: {"a": 1}, "has no state dict: expected tensors by name, found a"),
    ],
)  # fmt: skip
def test_other_weights_are_refused_by_what_they_look_like(source: Callable[[], dict], message: str) -> None:
    net = mnet.create_model(V3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        mnet.load_weights(net, source())
    assert message in str(error.value)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


def test_minimalistic_weights_start_a_network_with_se() -> None:
    reference = timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=5)
    report = mnet.load_weights(mnet.create_model(V3), reference.state_dict())
    assert report.source == f"timm {V3}, minimalistic, 5 classes → 1,000"
    assert set(report.new) == {"blocks.se.fc1", "blocks.se.fc2", "classifier"}


def test_weights_of_others_are_diagnosed_and_predict_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = timm.create_model("mobilenetv1_100").state_dict()
    tensors["blocks.4.1.conv_dw.weight"][:768] *= 1e-4
    torch.save({"state_dict": tensors}, tmp_path / "v1.pth")
    assert diagnose.main([f"--weights={tmp_path / 'v1.pth'}", "--model=mobilenet_v1", f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "| blocks.12.depthwise | 1024 | 75.0% |" in printed
    assert "15.5% of 4,960 depthwise kernels are near zero" in printed
    assert (tmp_path / "kernels-v1.csv").is_file()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    assert predict.main([str(tmp_path / "v1.pth"), str(tmp_path / "red.png"), f"--out={tmp_path / 'out'}"]) == 0
    assert "timm mobilenet_v1" in capsys.readouterr().out
    (prediction,) = json.loads((tmp_path / "out/predictions.json").read_text()).values()
    assert len(prediction["top"]) == 5
