"""A run continues from its own checkpoint, alone or in a pack, and from no other's."""

import shutil
from dataclasses import replace

import pytest
import torch

from mnet.studies import Trial
from mnet.studies.runs.job import Job
from mnet.studies.runs.packs import run_jobs
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import RESUME, WEIGHTS

LAST = 9
"""The step at which a run is stopped, of twelve steps of eight images."""


@pytest.fixture
def job(images, tiny_model, tmp_path, monkeypatch) -> Job:
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "batch_size": 8}
    return Job(Trial(**settings, epochs=3, epoch_steps=4), tmp_path / "results", "study")


def stop(progress):
    return progress.step >= LAST


def train(job) -> list[int]:
    """Finish a run; return the steps that it reported."""
    steps = []
    run_job(job, lambda progress: steps.append(progress.step))
    return steps


@pytest.mark.parametrize("packed", [False, True])
def test_the_checkpoint_of_another_run_is_not_continued(job, packed, tmp_path):
    other = replace(job, trial=replace(job.trial, seed=1))
    if packed:
        list(run_jobs([other, replace(job, trial=replace(job.trial, seed=2))], stop))
    else:
        with pytest.raises(Stopped):
            run_job(other, stop)
    job.folder.mkdir(parents=True)
    shutil.copy(other.folder / RESUME, job.folder / RESUME)
    assert train(job)[0] <= 1
    assert train(other)[0] >= LAST  # its own is continued
    undisturbed = replace(job, root=tmp_path / "undisturbed")
    train(undisturbed)
    weights = [torch.load(run.folder / WEIGHTS, weights_only=True) for run in (job, undisturbed)]
    assert all(weights[0][name].equal(value) for name, value in weights[1].items())
