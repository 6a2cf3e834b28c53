"""int8: folding keeps the function, where a network is rounded, and its program in a runtime."""

import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from support.toggle_space import attempt, chosen, models, shortened
from torch import nn

import mnet
from mnet import ConfigError
from mnet.latency.runtimes import precision_of
from mnet.models.layers import Activate, SqueezeExcite
from mnet.quantization import convert, fuse, load, prepare, quantize, save, set_observing

aten = torch.ops.aten
CURVES = {
    "hswish": aten.hardswish.default,
    "swish": aten.silu.default,
    "hsigmoid": aten.hardsigmoid.default,
    "sigmoid": aten.sigmoid.default,
}


def with_statistics(network):
    """Build the network, with batch norms that have seen images."""
    torch.manual_seed(0)
    net = mnet.create_model(network)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            layer.momentum = None
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    with torch.no_grad():
        net.train()(torch.randn(16, network.in_channels, 28, 28))
    return net.eval()


def small(model, **toggles):
    """The first five blocks of a narrow network, for images of (1, 28, 28)."""
    network = mnet.describe(model, num_classes=10, in_channels=1, width=0.25, total_stride=8, **toggles)
    return with_statistics(replace(network, blocks=network.blocks[:5]))


def count(net, kind, name=None):
    return sum(isinstance(layer, kind) and name in (None, getattr(layer, "name", None)) for layer in net.modules())


def drawn(count=32):
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@given(models, chosen)
def test_fusing_removes_batch_norms_and_keeps_the_outputs(model, chosen):
    network = attempt(model, **{"width": 0.25, **chosen})
    if network is None:
        return
    net = with_statistics(shortened(network)).double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fused = fuse(net)
    images = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    torch.testing.assert_close(fused(images), net.eval()(images), rtol=1e-9, atol=1e-11)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.fixture(scope="module")
def v2():
    net = small("mobilenet_v2", se=True)
    return net, quantize(net, drawn())


@pytest.fixture(scope="module")
def v3():
    net = small("mobilenet_v3_small")
    return net, quantize(net, drawn())


def is_rounded(node):
    return node.name.startswith("quantize_per_tensor")


def is_read(node):
    return node.name.startswith(("dequantize_per_tensor", "dequantize_affine"))


def test_weights_are_rounded_channel_by_channel_to_8_bits(v2):
    net, int8 = v2
    weighted = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    scales = [node for node in int8.graph.nodes if node.name.startswith("dequantize_per_channel")]
    assert len(scales) == len(weighted)
    kept = {name: value for name, value in int8.state_dict().items() if value.dtype == torch.int8}
    assert sum(value.numel() for value in kept.values()) == sum(layer.weight.numel() for layer in weighted)
    floats = sum(value.numel() for value in int8.state_dict().values() if value.dtype == torch.float32)
    assert floats < 0.2 * sum(param.numel() for param in net.parameters())  # biases and scales


def test_a_convolution_and_its_relu6_are_one_operator_before_rounding(v2):
    net, int8 = v2
    clamps = [node for node in int8.graph.nodes if node.target in (aten.relu6.default, aten.relu.default)]
    assert len(clamps) == count(net, Activate) == 11 + 5  # stem, tail, two in four blocks, one in the fifth; five in SE
    assert {node.args[0].target for node in clamps} == {aten.conv2d.default}
    assert all(is_rounded(user) for node in clamps for user in node.users)


@pytest.mark.parametrize(("activation", "gate"), [("hswish", "hsigmoid"), ("swish", "sigmoid")])
def test_every_curve_is_one_operator_with_8_bits_in_and_out(activation, gate):
    net = small("mobilenet_v3_small", activation=activation, se_gate=gate)
    int8 = quantize(net, drawn(4))
    targets = Counter(node.target for node in int8.graph.nodes)
    assert targets[CURVES[activation]] == count(net, Activate, activation) == 12
    assert targets[CURVES[gate]] == count(net, SqueezeExcite) == 3
    assert targets[aten.mul.Tensor] == 3  # only in SE: no x * sigmoid(x), no x * relu6(x + 3) / 6
    for node in int8.graph.nodes:
        if node.target in CURVES.values():
            assert is_read(node.args[0])
            assert all(is_rounded(user) for user in node.users)


def test_an_int8_network_takes_any_batch_agrees_with_float_and_stays_in_eval_mode(v3):
    net, int8 = v3
    images = drawn(64)
    with torch.no_grad():
        expected, scores = net(images), int8.train()(images)
        torch.testing.assert_close(int8(images[:1]), scores[:1])
    noise = (scores - expected).norm() / expected.norm()
    assert 0 < noise < 0.2


def test_quantize_does_not_change_its_argument(v3):
    net, _ = v3
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    assert isinstance(net.dropout, nn.Dropout)


def test_simulated_rounding_equals_the_int8_network_and_has_gradients():
    net = small("mobilenet_v2")
    prepared = prepare(net, drawn(), training=True)
    set_observing(prepared, False)
    simulated = prepared(drawn(8))
    simulated.sum().backward()
    weighted = {name: param.grad for name, param in prepared.named_parameters() if name.endswith("weight")}
    assert len(weighted) == 16 + 1
    assert all(grad is not None and grad.abs().sum() > 0 for grad in weighted.values())
    with torch.no_grad():
        noise = (simulated - net(drawn(8))).norm()
        assert (simulated - convert(prepared)(drawn(8))).norm() < 0.2 * noise


def test_a_saved_network_is_built_again_to_the_same_bits_and_another_file_is_refused(v2, v3, tmp_path):
    net, _ = v3
    trained = convert(
        prepare(small("mobilenet_v3_small", activation="swish", se_gate="sigmoid"), drawn(), training=True)
    )
    for int8 in (v2[1], v3[1], trained):
        save(int8, tmp_path / "weights.pt")
        loaded = load(tmp_path / "weights.pt")
        assert precision_of(loaded) == "int8"
        with torch.no_grad():
            assert torch.equal(loaded.train().eval()(drawn(3)), int8(drawn(3)))
    torch.save(net.state_dict(), tmp_path / "float.pt")
    with pytest.raises(ConfigError, match=r"float.pt is not the int8 network .*: its format is not"):
        load(tmp_path / "float.pt")


def test_bad_input_is_one_clear_error(v3, monkeypatch):
    net, _ = v3
    for nothing in (drawn(0), [], iter([drawn(0)])):
        with pytest.raises(ConfigError, match="no images to calibrate on"):
            quantize(net, nothing)
    monkeypatch.setitem(sys.modules, "mnet.quantization.quantizer", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnet\[executorch\]'"):
        quantize(net, drawn(1))


@pytest.mark.full("test_runtimes.py runs a smaller int8 network in ExecuTorch")
def test_xnnpack_runs_the_whole_int8_network_with_the_same_result(v3, tmp_path):
    pytest.importorskip("executorch.runtime", reason="ExecuTorch is not installed: pip install 'mnet[executorch]'")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from executorch.runtime import Runtime

    net, int8 = v3
    image = drawn(1)
    program = to_edge_transform_and_lower(
        torch.export.export(int8, (image,)),
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    table = get_delegation_info(program.exported_program().graph_module).get_operator_delegation_dataframe()
    left = table[table["occurrences_in_non_delegated_graphs"] > 0].set_index("op_type")
    # copies of h-sigmoid's constants, and the delegate's output
    assert set(left.index) <= {"dim_order_ops__to_dim_order_copy_default", "getitem", "Total"}
    delegated = dict(zip(table["op_type"], table["occurrences_in_delegated_graphs"], strict=True))
    assert delegated["aten_hardswish_default"] == count(net, Activate, "hswish") > 0
    (tmp_path / "net.pte").write_bytes(program.to_executorch().buffer)
    loaded = Runtime.get().load_program(tmp_path / "net.pte")
    run = loaded.load_method("forward")
    with torch.no_grad():
        expected = int8(image)
    scores = run.execute([image])[0]
    assert (scores - expected).abs().max() < 0.05 * expected.abs().max()
