"""Every runtime agrees with eager, reports how it runs a network, and keeps exported files."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from support.tiny_network import tiny
from torch import nn

from mnet.errors import ConfigError
from mnet.latency import runtimes
from mnet.latency.machine import pinned
from mnet.latency.prepare import prepare
from mnet.latency.runtimes import GPU_RUNTIMES, SIMULATED, ExportError, make_runtime, torch_cuda
from mnet.quantization import quantize
from mnet.training.arithmetic import set_tensor_cores

EXPORTING = ("executorch", "onnxruntime", "litert")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of exported files.

    ExecuTorch exports a dozen attentions and bilinear interpolations as patterns to look for, which takes half of the
    first export. The networks of these tests have none.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("executorch.backends.xnnpack.partition.graphs.sdpa.get_graphs", list)
        patch.setattr("executorch.backends.xnnpack.partition.graphs.bilinear_2d.get_graphs_dict", dict)
        yield tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def int8(net):
    return quantize(net, torch.randn(16, 3, 32, 32))


@pytest.mark.parametrize("name", ("eager", *EXPORTING))
def test_outputs_agree_with_eager_and_the_program_is_described(name, net, folder):
    ready = prepare(make_runtime(name, folder=folder), net, 32)
    info = ready.program.info
    assert ready.agreement < 1e-5
    assert (info.runtime, info.precision, info.threads) == (name, "fp32", 1)
    assert info.version
    assert info.kernels
    run = ready.program.fresh(ready.example)
    run()
    if name == "eager":
        return
    path = Path(info.file)
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size) == (info.sha256, info.file_bytes)
    assert sum(info.delegated.values()) > 10


def test_the_whole_float_network_is_delegated_to_xnnpack(net, folder):
    info = prepare(make_runtime("executorch", folder=folder), net, 32).program.info
    assert info.delegated["hardswish"] > 3  # one operator per h-swish, not a multiplication and a clamp
    assert set(info.undelegated) <= {"to_dim_order_copy"}  # copies of scalars
    assert not prepare(make_runtime("litert", folder=folder), net, 32).program.info.undelegated


@pytest.mark.parametrize("name", EXPORTING)
def test_int8_agrees_with_eager_and_operators_that_fall_back_are_named(name, int8, folder):
    ready = prepare(make_runtime(name, folder=folder), int8, 32)
    info = ready.program.info
    assert info.precision == "int8"
    assert ready.agreement >= 0.75
    floats = Path(prepare(make_runtime(name, folder=folder), tiny(), 32).program.info.file)
    assert info.file_bytes < 0.8 * floats.stat().st_size
    fallbacks = {"executorch": {"to_dim_order_copy"}, "litert": {"HARD_SWISH"}}
    if name in fallbacks:
        assert set(info.undelegated) == fallbacks[name]
    else:  # a hard sigmoid between two int8 operators runs in float
        assert {"HardSigmoid", "DequantizeLinear"} <= set(info.undelegated)


def test_int8_in_eager_is_reported_as_simulated(net, int8):
    runtime = make_runtime("eager")
    assert [runtime.describe(module).note for module in (net, int8)] == ["", SIMULATED]


def test_compiled_code_is_checked_and_its_weights_move_for_every_sample():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ready = prepare(make_runtime("compile"), net, 8)
    address = ready.program.source[0].weight.data_ptr()
    ready.program.fresh(ready.example)()
    assert ready.program.source[0].weight.data_ptr() != address
    assert ready.program.info.kernels.startswith("Inductor")


def test_a_network_is_exported_once_and_each_network_has_its_own_file(net, folder, tmp_path, monkeypatch):
    runtime = make_runtime("onnxruntime", folder=folder)
    first = prepare(runtime, net, 32).program.info
    with monkeypatch.context() as patch:
        patch.setattr(type(runtime), "export", lambda *_: pytest.fail("exported again"))
        again = prepare(runtime, tiny(), 32).program.info
    assert again == first
    content = Path(first.file).read_bytes()  # instead of an export that takes seconds
    monkeypatch.setattr(type(runtime), "export", lambda *_: (content, {}))
    elsewhere, example = make_runtime("onnxruntime", folder=tmp_path), torch.zeros(1, 3, 32, 32)
    others = [elsewhere.prepare(other, example).info for other in (net, tiny(seed=1), tiny(activation="relu"))]
    others.append(elsewhere.prepare(net, torch.zeros(2, 3, 32, 32)).info)  # for a larger batch
    assert len({Path(info.file).name for info in (first, *others)}) == 4
    assert Path(others[0].file).name == Path(first.file).name


class Branching(nn.Module):
    """Control flow that exporters cannot trace."""

    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Changing(nn.Module):
    """The output changes after the first call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.mean((2, 3)) * (1 + 1e-3 * (self.calls == 1))


class Raising(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such kernel\nand a page of trace")


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("executorch", Branching(), "executorch cannot export it: "),
        ("eager", Changing(), "eager differs from eager by .*e-04 of the largest score"),
        ("eager", Raising(), "eager cannot run it: RuntimeError: no such kernel$"),
        ("eager", nn.Sequential(nn.Conv2d(3, 2, 1).requires_grad_(False), nn.Flatten()), "not finite"),
    ],
)
def test_unusable_networks_raise_one_line(name, module, message, tmp_path):
    if isinstance(module, nn.Sequential):
        module[0].weight.fill_(float("nan"))
    with pytest.raises(ExportError, match=message) as raised:
        prepare(make_runtime(name, folder=tmp_path), module, 8)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*.pte"))


def test_errors_for_unknown_runtimes_and_missing_packages_name_the_remedy(monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown runtime .tflite.; one of .*Did you mean"):
        make_runtime("tflite")
    monkeypatch.setitem(runtimes.RUNTIMES, "litert", ("not_there", "LiteRT", "litert"))
    with pytest.raises(ConfigError, match=r"runtime litert needs .*: pip install 'mnet\[litert\]'"):
        make_runtime("litert")


@pytest.mark.parametrize("name", GPU_RUNTIMES)
def test_a_runtime_on_a_gpu_is_refused_where_there_is_none(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"{name} needs an NVIDIA GPU.*use eager"):
        make_runtime(name)


@pytest.fixture
def processor_as_gpu(monkeypatch):
    """Run the runtimes for a GPU on the CPU; calls are repeated instead of recorded and replayed."""
    monkeypatch.setattr(torch_cuda.CudaRuntime, "device", "cpu")
    monkeypatch.setattr("mnet.cuda_graphs.record", lambda call: call)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("name", ("cuda-eager", "cuda-graphs"))
@pytest.mark.usefixtures("processor_as_gpu")
def test_the_runtimes_of_a_gpu_compute_what_eager_does_in_every_bit_of_fp32(name, net):
    set_tensor_cores(True)
    ready = prepare(make_runtime(name), net, 32, batch=3)
    assert ready.agreement < 1e-5
    assert (ready.program.info.runtime, ready.facts["batch"]) == (name, 3)
    set_tensor_cores(True)
    scores = ready.program.fresh(ready.example)()
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    assert torch.allclose(scores, net(ready.example), atol=1e-4)
    weight = next(ready.program.module.parameters())
    assert next(net.parameters()).data_ptr() != weight.data_ptr()  # the network itself stays on the CPU


@pytest.mark.usefixtures("processor_as_gpu")
def test_code_compiled_for_a_gpu_is_checked_on_all_cores_and_its_weights_move(monkeypatch):
    cores, compile_module = [], torch_cuda.compile_module

    def watched(source):
        cores.append(os.sched_getaffinity(0))
        return compile_module(source)

    monkeypatch.setattr(torch_cuda, "compile_module", watched)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    all_cores = os.sched_getaffinity(0)
    with pinned(1):
        ready = prepare(make_runtime("cuda-compile"), net, 8)
        assert len(os.sched_getaffinity(0)) == 1
    assert cores == [all_cores]
    address = ready.program.source[0].weight.data_ptr()
    ready.program.fresh(ready.example)()
    assert ready.program.source[0].weight.data_ptr() != address
    assert ready.program.info.kernels.startswith("Inductor (Triton)")


@pytest.mark.usefixtures("processor_as_gpu")
def test_what_a_gpu_cannot_run_is_refused_in_one_line():
    with pytest.raises(ExportError, match=r"cuda-eager cannot run it: RuntimeError: no such kernel$"):
        prepare(make_runtime("cuda-eager"), Raising(), 8)


def test_a_large_batch_is_checked_by_its_first_and_last_images():
    class LastIsWrong(nn.Module):
        def forward(self, x):
            scores = x.mean((2, 3))
            return scores if len(x) < 8 else torch.cat([scores[:-1], scores[-1:] + 1])

    with pytest.raises(ExportError, match="differs from eager"):
        prepare(make_runtime("eager"), LastIsWrong(), 8, batch=8)
