"""Latency by block: the parts make up the network, and a slow block shows. On a network of three blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mnet
from mnet.errors import ConfigError
from mnet.latency import blocks
from mnet.latency.blocks import block_latency, compare_blocks
from mnet.latency.runtimes import ProgramInfo
from mnet.latency.runtimes.torch_eager import Eager, TorchProgram
from mnet.models.parts import cut, example_images
from mnet.quantization import fuse

SLOW_S = 0.002


class Slow(nn.Identity):
    """Takes as long as some blocks, on a test's clock."""

    seconds = SLOW_S


def small(slow=None, **toggles):
    """V3-Small's first three blocks at width 0.25; `slow` = the block that takes `SLOW_S` more."""
    network = mnet.describe("mobilenet_v3_small", width=0.25, num_classes=10, **toggles)
    net = mnet.MobileNet(replace(network, blocks=network.blocks[:3])).eval()
    if slow is not None:
        net.blocks[slow].project.add_module("slow", Slow())
    return net


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
def test_the_parts_in_sequence_are_the_network(model, fused):
    net = mnet.create_model(model, width=0.25, num_classes=7, separable=model != "mobilenet_v1")
    net.train()(torch.randn(4, 3, 64, 64))
    net.eval()
    parts = list(cut(fuse(net) if fused else net, example_images(net, 64, batch=2)))
    rows = [part.row() for part in parts]
    total = mnet.cost(net, 64)
    assert sum(row["madds"] for row in rows) == total.madds
    assert sum(row["params"] for row in rows) == total.params
    x = parts[0].example
    with torch.no_grad():
        expected = net(x)
        for part, row in zip(parts, rows, strict=True):
            torch.testing.assert_close(x, part.example)
            assert x.shape[1] == row["in_channels"]
            x = part.module(x)
            assert x.shape[:2] == (2, row["out_channels"])
            assert row["resolution"] == (x.shape[2] if x.dim() == 4 else 1)
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)
    names = [row["block"] for row in rows]
    assert names[:2] == ["stem", "blocks.0"]
    assert names[-1] == "head"
    assert ("tail" in names) == (net.network.tail is not None)
    assert len(names) == len(net.blocks) + 2 + ("tail" in names)
    assert any(isinstance(layer, nn.BatchNorm2d) for part in parts for layer in part.module.modules()) != fused


@pytest.mark.usefixtures("clock")
def test_a_slow_block_shows_and_the_parts_sum_to_the_whole():
    frame = block_latency(small(slow=1), resolution=64, budget_s=0.05)
    assert list(frame["block"]) == ["stem", "blocks.0", "blocks.1", "blocks.2", "tail", "head"]
    kinds = ["3x3 hswish", "3x3 relu se", "3x3 relu", "3x3 relu", "1x1 hswish", "pool, hidden hswish"]
    assert list(frame["kind"]) == kinds
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["madds_share"].sum() == pytest.approx(1)
    assert frame.loc[frame["share"].idxmax(), "block"] == "blocks.1"
    assert frame.set_index("block").loc["blocks.1", "low"] > 1000 * SLOW_S
    assert ((frame["low"] <= frame["ms"]) & (frame["ms"] <= frame["high"]) & (frame["low"] > 0)).all()
    assert frame.attrs["sum_ms"] == pytest.approx(frame["ms"].sum())
    assert frame.attrs["sum_ms"] == pytest.approx(frame.attrs["whole_ms"], rel=0.05)
    assert frame.attrs["rounds"] >= 9


@pytest.mark.usefixtures("clock")
def test_variants_are_compared_block_by_block():
    nets = {"base": small(), "slow": small(slow=2), "relu": small(activation="relu")}
    frame = compare_blocks(nets, "base", resolution=64, budget_s=0.05)
    assert list(frame["variant"]) == ["slow"] * 7 + ["relu"] * 7
    slow = frame[frame["variant"] == "slow"].set_index("block")
    for block in ("blocks.2", "whole"):
        assert slow.loc[block, "us"] == pytest.approx(1e6 * SLOW_S, rel=0.05)
        assert 0 < slow.loc[block, "us_low"] < slow.loc[block, "us"] < slow.loc[block, "us_high"]
        assert slow.loc[block, "low"] > 1.5
    unchanged = slow.drop(index=["blocks.2", "whole"])
    assert unchanged["us"].abs().max() < 0.05 * 1e6 * SLOW_S
    assert np.allclose(frame["us"], 1000 * frame["baseline_ms"] * (frame["ratio"] - 1))
    assert dict(zip(frame["block"], frame["resolution"], strict=True))["stem"] == 32


class Delegating(Eager):
    """Reports h-swish as not delegated, and records the modules that it prepares."""

    def prepare(self, module, example):
        self.prepared.append(module)
        names = [layer.extra_repr() for layer in module.modules() if type(layer).__name__ == "Activate"]
        counts = {"delegated": {"convolution": 2, "add": 1}, "undelegated": {"hardswish": names.count("hswish")}}
        return TorchProgram(module, ProgramInfo(**{**vars(self.describe(module)), **counts}))


def test_delegation_is_reported_by_block_and_the_runtime_gets_folded_parts(monkeypatch):
    prepared = Delegating.prepared = []
    monkeypatch.setattr(blocks, "make_runtime", lambda name, threads, folder: Delegating(name, threads, folder))
    frame = block_latency(small(), runtime="executorch", resolution=32, budget_s=0.01)
    assert list(frame["undelegated"]) == [1, 0, 0, 0, 1, 1]
    assert set(frame["delegated"]) == {3}
    whole, *parts = prepared
    assert isinstance(whole, mnet.MobileNet)
    assert not any(isinstance(layer, nn.BatchNorm2d) for part in parts for layer in part.modules())


def test_invalid_arguments_raise_one_line():
    net, longer = small(), mnet.create_model("mobilenet_v3_small")
    for call, message in (
        (lambda: block_latency(nn.Linear(3, 3)), "only a MobileNet in float can be cut into blocks, not a Linear"),
        (lambda: block_latency(net, runtime="egger"), "unknown runtime 'egger'.*Did you mean eager"),
        (lambda: block_latency(net, threads=10_000), "threads must be 1 to"),
        (lambda: block_latency(net, budget_s=0), "budget_s must be above 0, not 0"),
        (lambda: compare_blocks({"a": net, "b": net}, "c"), "unknown baseline 'c'"),
        (lambda: compare_blocks({"a": net}, "a"), "nothing to compare 'a' with"),
        (
            lambda: compare_blocks({"a": net, "b": longer}, "a"),
            "b has 14 parts, a has 6",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
