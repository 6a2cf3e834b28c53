"""What only a GPU can show. Runs as a part of experiments/gpu.py, on a machine with few packages; the quickest tests
come first, since time may run out."""

from contextlib import suppress
from dataclasses import replace

import lightning as L
import pytest
import torch

import mnet
from mnet.data import create_data
from mnet.data.augment import RESIZED_CROP, Augment
from mnet.data.batches import Batches
from mnet.studies import Trial
from mnet.studies.runs.callbacks import DeadKernels, SeedSteps
from mnet.studies.runs.datamodule import RunImages
from mnet.studies.runs.job import Job
from mnet.studies.runs.packs import run_jobs
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.run import run_job, run_trial
from mnet.studies.runs.store import WEIGHTS
from mnet.tasks import TASKS
from mnet.tasks.detection import SSDLiteDetector
from mnet.training import recipe
from mnet.training.arithmetic import set_tensor_cores

NEAR = {"fp32": 2e-3, "tf32": 5e-2, "bf16": 5e-2}
"""Tolerance for losses that differ only by rounding."""


@pytest.fixture
def trial(images, tiny_model) -> Trial:
    """Two epochs of seven batches, with dropout."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "lr": 0.01}
    return Trial(**settings, batch_size=10, epochs=2)


@pytest.fixture
def precision(request, device) -> str:
    """The precision, with fp32 for tf32 on a CPU."""
    return "fp32" if device == "cpu" and request.param == "tf32" else request.param


def losses(result: dict[str, object]) -> dict[str, object]:
    return {name: result[name] for name in ("val_loss", "test_loss")}


def near(result: dict[str, object], precision: str = "fp32"):
    return pytest.approx(losses(result), abs=NEAR[precision])


def test_batches_are_where_the_images_are_in_the_same_order(device):
    def first(place: str):
        images = torch.randint(256, (22, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        batches = Batches(images.to(place), torch.arange(22), batch_size=4, mean=(0.5,) * 3, std=(0.2,) * 3, train=True,
                          augment=Augment(flip=True, pad=2, erase=0.5))  # fmt: skip
        return next(iter(batches))

    images, labels = first(device)
    assert images.device.type == labels.device.type == device
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.cpu().equal(first("cpu")[1])


@pytest.mark.parametrize("held", ["on the GPU", "on the CPU"])
def test_random_crops_are_those_of_the_cpu(held, images, device, monkeypatch):
    """They are scaled in one call, from images that fit on the GPU or are sent to it."""
    monkeypatch.setattr("mnet.data.decoded.GPU_SHARE", 0.5 if held == "on the GPU" else 0.0)
    data = create_data("imagefolder", data_dir=images, resolution=28, batch_size=8, augment=RESIZED_CROP)
    data.setup()
    (there, labels), (here, expected) = (
        next(iter(data.batches("train", train=True, device=torch.device(place)))) for place in (device, "cpu")
    )
    assert there.device.type == labels.device.type == device
    assert labels.cpu().equal(expected)
    assert (there.cpu() - here).abs().mean() < 0.05


@pytest.mark.parametrize(
    "named, precision", [("quick", "fp32"), *(("v3", name) for name in NEAR)], indirect=["precision"]
)
def test_recorded_steps_compute_what_others_do_and_the_cpu_too(named, precision, trial, device, tmp_path):
    trial = replace(trial, recipe=named, precision=precision)
    recorded, plain = (run_job(Job(trial, tmp_path / mode, "study", compile=mode)) for mode in ("auto", "off"))
    assert losses(recorded) == near(plain, precision)
    if precision == "fp32":
        on_cpu = run_trial(trial, tmp_path / "cpu", trainer={"accelerator": "cpu"})
        assert losses(plain) == pytest.approx(losses(on_cpu), abs=2e-2)  # dropout draws other numbers


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_was_stopped_resumes_to_the_same(seeds, trial, device, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    trial = replace(trial, recipe="v3")

    def run(folder: str, report) -> list:
        jobs = [Job(replace(trial, seed=seed), tmp_path / folder, "study") for seed in range(seeds)]
        if seeds > 1:
            return [(job, outcome.result) for job, outcome in run_jobs(jobs, report)]
        return [(jobs[0], run_job(jobs[0], report))]

    whole = run("whole", lambda progress: None)
    with suppress(Stopped):
        run("stopped", lambda progress: progress.step >= 9)
    resumed = run("stopped", lambda progress: None)
    for (job, expected), (again, found) in zip(whole, resumed, strict=True):
        assert losses(found) == near(expected)
        weights, known = (torch.load(one.folder / WEIGHTS, weights_only=True) for one in (again, job))
        equal = all(weights[name].equal(known[name]) for name in known)
        print(f"{seeds} seeds, resumed: {'the same bits' if equal else 'the same up to rounding'}")


class Strict(DeadKernels):
    """Makes a step that waits for the GPU an error, except for the first ones, which are recorded."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2 and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 5 and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compile", ["auto", "off"])
@pytest.mark.parametrize("named", ["quick", "v3"])
def test_no_step_waits_for_the_gpu(named, compile, trial, device, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.runs.trainer.DeadKernels", Strict)
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 1e9)
    try:
        result = run_trial(replace(trial, recipe=named), tmp_path, compile=compile)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert result["compile"] == ("graphs" if device == "cuda" and compile == "auto" else "off")


@pytest.mark.parametrize("head", ["lr_aspp", "ssdlite"])
def test_steps_of_detection_and_segmentation(head, device, monkeypatch):
    monkeypatch.setattr(SSDLiteDetector, "metrics", lambda self: {})  # its mAP needs another package
    set_tensor_cores(False)
    task = next(task for task in TASKS.values() if head in task.heads)
    data = create_data("scenes", task=task.name, resolution=96, batch_size=8)
    data.prepare_data()
    data.setup("fit")
    lost: dict[str, list[float]] = {"auto": [], "off": []}

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            lost[mode].append(float(outputs["loss"]))

    for mode in lost:
        L.seed_everything(0, verbose=False)
        network = mnet.describe("mobilenet_v3_small", num_classes=data.num_classes, in_channels=data.in_channels,
                                width=0.35, head=head)  # fmt: skip
        module = task.load()(network, recipe("scenes"))
        module.compile_training(mode)
        trainer = L.Trainer(
            max_epochs=1, limit_train_batches=6, limit_val_batches=0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[SeedSteps(0), Losses()],
            accelerator="gpu" if device == "cuda" else "cpu", devices=1,
        )  # fmt: skip
        trainer.fit(module, datamodule=RunImages(data))
        assert module.compiled_as == ("graphs" if device == "cuda" and mode == "auto" else "off")
    assert lost["auto"] == pytest.approx(lost["off"], rel=2e-2)


@pytest.mark.parametrize(
    "model, precision",
    [(None, "fp32"), *(("mobilenet_v3_small", name) for name in NEAR), ("mobilenet_v2", "fp32")],
    indirect=["precision"],
)
def test_a_pack_leaves_what_each_run_leaves_alone(model, precision, trial, device, tmp_path):
    trial = replace(trial, precision=precision, model=model or trial.model, epochs=1, lr=0.002)
    trial = replace(trial, width=0.35 if model else None)
    jobs = [Job(replace(trial, seed=seed), tmp_path / "packed", "study") for seed in range(3)]
    for job, outcome in run_jobs(jobs, lambda progress: None):
        assert outcome.kind == "finished", outcome.trace
        assert losses(outcome.result) == near(run_job(replace(job, root=tmp_path / "alone")), precision)
