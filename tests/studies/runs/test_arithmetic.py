"""How a step is computed: what reads a value in it, compiled or not, in 16 bits; and on a GPU, if there is one."""

from dataclasses import replace

import ablate
import pytest
import torch
from support.toggle_space import shortened
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import mnet
from mnet import ConfigError
from mnet.data.augment import Augment, normalise, scale_and_shift
from mnet.provenance import cpu_name
from mnet.studies import Trial
from mnet.studies.options import trial_from
from mnet.studies.runs.callbacks import DeadKernels
from mnet.studies.runs.job import Job
from mnet.studies.runs.packs import run_jobs
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.run import run_job, run_trial
from mnet.studies.runs.store import WEIGHTS
from mnet.tasks.classification import ImageClassifier
from mnet.tasks.module import make_optimizer
from mnet.tasks.pack import Pack
from mnet.training import arithmetic, recipe

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}
GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU here: run this file on a machine that has one"
)


@pytest.fixture(scope="module")
def trial(images, tiny_model) -> Trial:
    """Two epochs of seven batches, with dropout."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "lr": 0.01}
    return Trial(**settings, batch_size=10, epochs=2)


@pytest.fixture
def small(trial, tmp_path) -> Trial:
    """The same with one block, SE and a shortcut, which compiles in seconds, on maps narrower than its kernel."""
    table = mnet.describe("mobilenet_v3_small")
    path = tmp_path / "small.yaml"
    mnet.write_network(replace(table, blocks=table.blocks[4:5]), path)
    return replace(trial, model=str(path), resolution=8)


class Reads(TorchDispatchMode):
    """Counts the tensors from which a value is read while this is entered and active, except for int64 scalars: the
    counter of averaged weights is always on the CPU, so that reading it waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        counter = func is aten._local_scalar_dense.default and args[0].dtype == torch.int64
        self.count += self.active and func in READS and not counter
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("named", ["quick", "v3"])
def test_no_step_reads_a_value_but_to_report_the_loss(trial, named, tmp_path, monkeypatch):
    """On a GPU each read would wait for the device. `ProgressMonitor` reads the loss once a second there; in this test,
    in which the loss claims to be on a GPU, at every step or never."""
    reads = Reads()

    class Within(DeadKernels):
        """Counts from the second step of an epoch to its end."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            reads.active = batch_idx >= 1

        def on_validation_start(self, trainer, pl_module):
            reads.active = False

    monkeypatch.setattr("mnet.studies.runs.trainer.DeadKernels", Within)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: self.dim() == 0))
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    with reads:
        run_trial(replace(trial, recipe=named), tmp_path / "reported at every step")
    assert reads.count
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", float("inf"))
    reads.count = 0
    with reads:
        run_trial(replace(trial, recipe=named), tmp_path / "never reported")
    assert reads.count == 0


def on_fake_gpu(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Replace a module's parameters and buffers by fakes that claim to be on a GPU and have no values."""
    for part in module.modules():
        for tensors, kind in ((part._parameters, nn.Parameter), (part._buffers, torch.Tensor.detach)):
            for name, value in tensors.items():
                fake = value if value is None else mode.from_tensor(value.detach())
                with mode:
                    tensors[name] = fake if fake is None else kind(fake.to("cuda"))
    return module


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
def test_what_a_step_does_on_a_gpu_stays_there(name):
    """Uses shapes and devices alone, without a GPU: a tensor on another device, or reading a value, would raise."""
    network, plan = shortened(mnet.describe(name, num_classes=10, in_channels=1)), recipe("v3")
    mode = FakeTensorMode()
    pack = on_fake_gpu(Pack([ImageClassifier(network, plan) for _ in range(2)]), mode).train()
    pack.seed_step([1, 2])
    with mode:
        gpu = torch.device("cuda:0")
        pixels = torch.randint(256, (64, 28, 28, 1), dtype=torch.uint8, device=gpu).permute(0, 3, 1, 2)
        look = scale_and_shift((0.5,), (0.25,), gpu)
        chosen = torch.randperm(64, device=gpu)[:16]
        images = normalise(pixels[chosen], *look, Augment(flip=True, pad=4, erase=0.5))
        assert images.device == gpu
        assert images.is_contiguous(memory_format=torch.channels_last)
        outcome = pack.training_step((images.repeat(1, 2, 1, 1), [chosen % 10] * 2), 0)
        optimizer = make_optimizer(pack.net, plan)
        for param in pack.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
        assert {value.device for value in (outcome["loss"], *pack.parameters(), *pack.buffers())} == {gpu}
        with pytest.raises(DataDependentOutputException):
            float(outcome["loss"].detach())


def same(one: dict[str, object], other: dict[str, object], near: float) -> bool:
    names = ("test_loss", "val_loss")
    return {name: one[name] for name in names} == pytest.approx({name: other[name] for name in names}, abs=near)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that only traces, forward and backward, without the compiler, which takes most of the time."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, mode, **how: compile_(call, backend="aot_eager", **how))


@pytest.fixture
def compiled_calls(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the images in every call of compiled code."""
    compile_, shapes = torch.compile, []

    def compile_and_count(call, **settings):
        fast = compile_(call, **settings)

        def counted(images):
            assert torch.is_grad_enabled()
            shapes.append(tuple(images.shape))
            return fast(images)

        return counted

    monkeypatch.setattr(torch, "compile", compile_and_count)
    return shapes


@pytest.fixture
def compiled_once():
    """Compiling the same code again, for example for every step or member, is an error."""
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


WHOLE = pytest.param(
    "compiled", marks=pytest.mark.full("test_runtimes.py runs the compiler, for a quarter of the time")
)


@pytest.mark.parametrize("how", [WHOLE, "traced"])
@pytest.mark.usefixtures("compiled_once")
def test_a_compiled_run_is_the_run_that_it_would_have_been(how, small, tmp_path, request):
    if how == "traced":
        request.getfixturevalue("traced")
    compiled_calls = request.getfixturevalue("compiled_calls")
    plain, fast = (Job(small, tmp_path / mode, "study", compile=mode) for mode in ("off", "default"))
    expected, found = run_job(plain), run_job(fast)
    assert (expected["compile"], found["compile"]) == ("off", "default")
    assert same(found, expected, 1e-4)
    assert compiled_calls == [(10, 1, 8, 8)] * 14  # every step of training, and no evaluation
    weights, known = (torch.load(job.folder / WEIGHTS, weights_only=True) for job in (fast, plain))
    assert list(weights) == list(known)
    for name in known:
        torch.testing.assert_close(weights[name], known[name], rtol=1e-3, atol=1e-4)


@pytest.mark.full("packs are stopped and resumed without the compiler, and a run is compiled by itself")
@pytest.mark.usefixtures("traced", "compiled_once")
def test_a_compiled_pack_stopped_in_the_middle_goes_on_to_what_each_run_is_alone(small, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    trials = [replace(small, seed=seed) for seed in range(2)]
    jobs = [Job(one, tmp_path / "packed", "study", compile="default") for one in trials]
    stopped = [outcome for _, outcome in run_jobs(jobs, lambda progress: progress.step >= 4)]
    assert all(Stopped.__name__ in outcome.reason for outcome in stopped)
    found = {job: outcome.result for job, outcome in run_jobs(jobs, lambda progress: None)}
    for job in jobs:
        expected = run_job(replace(job, root=tmp_path / "alone", compile="off"))
        assert found[job]["compile"] == "default"
        assert same(found[job], expected, 1e-4)


def test_without_a_compiler_nothing_is_begun(trial, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(arithmetic, "COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CXX", raising=False)
    arguments = ["activation", f"--out={tmp_path / 'results'}", "--dataset=imagefolder", f"--data_dir={trial.data_dir}"]
    assert ablate.main([*arguments, "--compile=default"]) == 2
    assert "compile=default needs a C++ compiler, and there is no no-such-compiler" in capsys.readouterr().err
    assert ablate.main([*arguments, "--compile=defalt"]) == 2
    assert "unknown compile 'defalt'; one of auto, off, graphs, default" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="install one or give off"):
        arithmetic.compiled(torch.add, "max-autotune")
    assert not (tmp_path / "results").exists()


def test_a_run_in_16_bits_is_another_run_that_keeps_its_weights_in_32(trial, tmp_path):
    half = replace(trial, precision="bf16")
    jobs = [Job(one, tmp_path, "study") for one in (trial, half)]
    assert jobs[0].run_id != jobs[1].run_id
    plain, rounded = map(run_job, jobs)
    assert not same(rounded, plain, 1e-7)
    assert same(rounded, plain, 0.1)
    weights = torch.load(jobs[1].folder / WEIGHTS, weights_only=True)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    "model",
    [
        "mobilenet_v1",  # at 28 px it ends in maps of one pixel
        pytest.param("mobilenet_v3_small", marks=pytest.mark.full("its packs are tested in 32 bits, V1's in 16")),
    ],
)
def test_seeds_in_16_bits_are_packed_like_others(model, trial, tmp_path):
    trials = [replace(trial, model=model, precision="bf16", seed=seed, epochs=1) for seed in range(2)]
    packed = [outcome.result for _, outcome in run_jobs([Job(one, tmp_path / "p", "study") for one in trials], print)]
    for one, found in zip(trials, packed, strict=True):
        expected = run_job(Job(one, tmp_path / "alone", "study"))
        assert same(found, expected, 0.05)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="the GPU of this machine may compute in tf32: run this file on one without"
)
def test_what_the_machine_cannot_compute_in_is_refused_before_anything_is_trained(trial, tmp_path, capsys):
    with pytest.raises(ConfigError, match="precision=tf32 needs an NVIDIA GPU of the Ampere generation or later"):
        run_job(Job(replace(trial, precision="tf32"), tmp_path / "results", "study"))
    assert ablate.main(["activation", f"--out={tmp_path / 'swept'}", "--precision=tf32"]) == 2
    assert "give fp32 or bf16" in capsys.readouterr().err
    assert not (tmp_path / "swept").exists()
    with pytest.raises(ConfigError, match=r"unknown precision 'fp16'; one of fp32, tf32, bf16, int8, int8-qat"):
        trial_from({"precision": "fp16"})


class Strict(DeadKernels):
    """Makes a step that waits for the GPU an error, except for the first ones, which `ProgressMonitor` reports."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_validation_start(self, trainer, pl_module):
        torch.cuda.set_sync_debug_mode("default")


@GPU
@pytest.mark.parametrize("named", ["quick", "v3"])
def test_no_step_waits_for_the_gpu(trial, named, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.runs.trainer.DeadKernels", Strict)
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 1e9)
    try:
        assert run_trial(replace(trial, recipe=named), tmp_path)["device"] != cpu_name()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@GPU
def test_cuda_graphs_replay_what_the_gpu_computes_without_and_the_cpu_too(trial, tmp_path):
    jobs = {mode: Job(trial, tmp_path / mode, "study", compile=mode) for mode in ("off", "reduce-overhead")}
    found = {mode: run_job(job) for mode, job in jobs.items()}
    assert same(found["reduce-overhead"], found["off"], 1e-3)
    assert same(found["off"], run_trial(trial, tmp_path / "cpu", trainer={"accelerator": "cpu"}), 1e-2)


@GPU
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_pack_on_the_gpu_leaves_what_each_run_leaves_alone(precision, trial, tmp_path):
    jobs = [Job(replace(trial, precision=precision, seed=seed), tmp_path / "packed", "study", compile="reduce-overhead")
            for seed in range(3)]  # fmt: skip
    for job, outcome in run_jobs(jobs, lambda progress: None):
        alone = run_job(replace(job, root=tmp_path / "alone", compile="off"))
        assert same(outcome.result, alone, 1e-3 if precision == "fp32" else 5e-2)
