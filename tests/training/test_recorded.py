"""Recorded training steps: the same run as without, even where a recording does not fit."""

from dataclasses import replace

import pytest
import torch
from support.recording import record, record_network

import mnet
from mnet.data.targets import Boxes
from mnet.errors import ConfigError
from mnet.studies import Trial
from mnet.studies.runs.job import Job
from mnet.studies.runs.packs import run_jobs
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import WEIGHTS
from mnet.tasks.classification import ImageClassifier
from mnet.tasks.detection import SSDLiteDetector
from mnet.tasks.module import make_optimizer
from mnet.training import arithmetic, recipe, recorded


@pytest.fixture
def trial(images, tiny_model) -> Trial:
    """Two epochs of seven batches, with dropout and averaged weights."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "lr": 0.01}
    return Trial(**settings, recipe="v3", batch_size=10, epochs=2)


@pytest.fixture
def recordings(monkeypatch) -> list[int]:
    """Steps are recorded on the CPU; the list has an entry per recording."""
    made: list[int] = []

    def counted(call):
        def count(*arguments):
            made.append(1)
            return call(*arguments)

        return count

    monkeypatch.setattr("mnet.cuda_graphs.record", counted(record))
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", counted(record_network))
    monkeypatch.setattr("mnet.tasks.module.on_gpu", lambda batch: True)
    return made


def weights(job: Job) -> dict[str, torch.Tensor]:
    return torch.load(job.folder / WEIGHTS, weights_only=True)


def assert_equal(one: Job, other: Job) -> None:
    found, expected = weights(one), weights(other)
    assert list(found) == list(expected)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_a_recorded_run_is_the_run_that_it_would_have_been(trial, recordings, tmp_path):
    fast, plain = Job(trial, tmp_path / "fast", "study"), Job(trial, tmp_path / "plain", "study", compile="off")
    assert run_job(fast)["compile"] == "graphs"
    assert len(recordings) == 1
    assert run_job(plain)["compile"] == "off"
    assert_equal(fast, plain)


def test_a_recorded_pack_that_is_stopped_resumes_to_the_runs_alone(trial, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    jobs = [Job(replace(trial, seed=seed), tmp_path / "packed", "study") for seed in range(2)]
    stopped = [outcome for _, outcome in run_jobs(jobs, lambda progress: progress.step >= 4)]
    assert [outcome.reason[:7] for outcome in stopped] == ["Stopped"] * 2, stopped[0].trace
    results = [outcome.result for _, outcome in run_jobs(jobs, lambda progress: None)]
    assert len(recordings) == 2
    for job, result in zip(jobs, results, strict=True):
        alone = replace(job, root=tmp_path / "alone", compile="off")
        expected = run_job(alone)
        assert (result["compile"], result["replicas"]) == ("graphs", 2)
        assert result["test_loss"] == pytest.approx(expected["test_loss"], abs=1e-4)


def test_the_network_of_a_detector_is_recorded_without_its_loss_which_reads_values(recordings):
    table = mnet.describe("mobilenet_v3_small", num_classes=3, in_channels=1, width=0.25, head="ssdlite")
    table = replace(table, blocks=tuple(table.blocks[i] for i in (0, 3, 8)))  # three sizes are enough for a head
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 40.0], [0.0] * 4]]).repeat(2, 1, 1)
    target = Boxes(boxes, torch.tensor([[1, 0], [2, 0]]))
    results = []
    for records in (True, False):
        torch.manual_seed(0)
        detector = SSDLiteDetector(table, recipe("scenes"))
        detector._records = records
        for _ in range(2):
            images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
            detector.zero_grad()
            loss = detector.training_step((images, target), 0)["loss"]
            loss.backward()
        results.append([loss.detach(), *(param.grad for param in detector.parameters())])
        assert detector.compiled_as == ("graphs" if records else "off")
    assert len(recordings) == 1
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_gradients_that_are_summed_over_batches_are_not_recorded(trial, recordings, tmp_path):
    job = Job(trial, tmp_path, "study")
    assert run_job(job, trainer={"accumulate_grad_batches": 2})["compile"] == "off"
    assert not recordings


def test_a_batch_of_another_shape_is_computed_without_the_recording(recordings):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    network = recorded.RecordedNetwork(net)
    step = recorded.RecordedStep(net, lambda images: {"loss": net(images).square().mean()})
    for call in (network, step):
        call(torch.randn(4, 1, 8, 8))
    assert network(torch.randn(3, 1, 8, 8)).shape == (3, 2, 6, 6)
    assert [step.takes(torch.randn(n, 1, 8, 8)) for n in (3, 4)] == [False, True]
    assert len(recordings) == 2


def test_a_step_of_another_shape_between_recorded_ones_has_gradients_of_its_own(recordings, tiny_model):
    """They are summed in the memory that a replay writes, and the next replay overwrites them."""
    module = ImageClassifier(
        mnet.describe(tiny_model, num_classes=3, in_channels=1), replace(recipe("quick"), dropout=0.0)
    )
    module._records = True
    optimizer = make_optimizer(module.net, module.recipe)
    generator = torch.Generator().manual_seed(0)
    for count in (4, 3, 4):
        batch = torch.randn(count, 1, 28, 28, generator=generator), torch.arange(count) % 3
        expected = torch.autograd.grad(module.step(batch)["loss"], list(module.net.parameters()))
        loss = module.training_step(batch, 0)["loss"]
        module.optimizer_zero_grad(0, 0, optimizer)
        module.backward(loss)
        assert module._replayed == (count == 4)
        for param, gradient in zip(module.net.parameters(), expected, strict=True):
            assert param.grad.stride() == param.stride()
            assert torch.equal(param.grad, gradient)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is refused without it")
def test_graphs_without_a_gpu_are_refused():
    with pytest.raises(ConfigError, match="compile=graphs needs an NVIDIA GPU"):
        arithmetic.check_compile("graphs")
