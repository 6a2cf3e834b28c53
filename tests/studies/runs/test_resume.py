"""A run stopped anywhere continues to the same bits: weights, metrics, which images were right."""

import json

import pytest
import torch

from mnet.studies import Trial
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.run import run_trial
from mnet.studies.runs.store import CORRECT, METRICS, RESULT, RESUME, WEIGHTS
from mnet.studies.runs.trainer import TRAINER_DEFAULTS

TIMING = ("train_seconds", "images_per_second", "finished")
WHOLE = (METRICS, CORRECT, WEIGHTS)


def left(folder):
    """The files of a run, byte by byte, and its result without its times."""
    result = json.loads((folder / RESULT).read_text())
    return {name: (folder / name).read_bytes() for name in WHOLE}, {k: v for k, v in result.items() if k not in TIMING}


@pytest.fixture(scope="module", autouse=True)
def _reported_and_logged_often():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
        patch.setattr("mnet.studies.runs.checkpoints.LOG_STEPS", 3)
        patch.setattr("mnet.tasks.module.LOG_STEPS", 3)
        patch.setattr("mnet.studies.runs.trainer.TRAINER_DEFAULTS", {**TRAINER_DEFAULTS, "log_every_n_steps": 3})
        yield


@pytest.fixture(scope="module", params=["quick", "v3"])  # v3: dropout, an average of the weights, RMSprop
def trial(request, images, tiny_model) -> Trial:
    """Four epochs of seven batches."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "lr": 0.05}
    return Trial(**settings, recipe=request.param, batch_size=10, epochs=4, seed=5)


@pytest.fixture(scope="module")
def undisturbed(trial, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_trial(trial, folder)
    return left(folder)


class Died(BaseException):
    """Ends the code that raises it as suddenly as a kill."""


@pytest.mark.parametrize(
    "steps",  # seven per epoch
    [(1, 28), pytest.param((5, 9), marks=pytest.mark.full("killed more often below")), (2, 7, 8, 15, 16, 27)],
    ids=str,
)
def test_a_run_killed_in_the_middle_of_epochs_ends_as_if_it_had_not_been(trial, undisturbed, tmp_path, steps):
    for step in steps:

        def die(progress, step=step):
            if progress.step >= step:
                raise Died

        with pytest.raises(Died):
            run_trial(trial, tmp_path, die, checkpoint_s=0)
        assert not (tmp_path / RESULT).exists()
    run_trial(trial, tmp_path, checkpoint_s=0)
    assert left(tmp_path) == undisturbed
    assert not (tmp_path / RESUME).exists()


def test_a_run_killed_in_its_test_is_not_trained_again(trial, undisturbed, tmp_path):
    printed = []

    def die(progress):
        printed.append(progress.step)
        if printed.count(28) == 3:  # the last step, its validation, the test
            raise Died

    with pytest.raises(Died):
        run_trial(trial, tmp_path, die)
    printed.clear()
    run_trial(trial, tmp_path, lambda progress: printed.append(progress.step))
    assert not any(0 < step < 28 for step in printed)
    assert left(tmp_path) == undisturbed


def test_a_run_that_is_asked_to_stop_writes_its_checkpoint_first(trial, undisturbed, tmp_path):
    with pytest.raises(Stopped):
        run_trial(trial, tmp_path, lambda progress: progress.step == 12)
    assert torch.load(tmp_path / RESUME, weights_only=True)["global_step"] == 13  # step 12 logs, and so saves nothing
    run_trial(trial, tmp_path)
    assert left(tmp_path) == undisturbed
