"""One trial for real, on a small folder of pictures: what it leaves behind, again, resumed, and gone wrong."""

import json

import pytest
import torch
import yaml

import mnet
from mnet.studies import Trial
from mnet.studies.callbacks import NotFinite, Progress
from mnet.studies.run import run_trial
from mnet.studies.store import read_correct, read_result
from mnet.studies.trial import PARAMETERS


@pytest.fixture
def trial(pictures) -> Trial:
    return Trial(dataset="imagefolder", data_dir=pictures, resolution=28, width=0.25, batch_size=16, epochs=3, seed=5)


MEASURED = ("top1", "top5", "test_loss", "val_top1", "val_loss", "params", "madds", "resolution", "epochs")


def measured(result):
    return {name: result[name] for name in MEASURED}


def test_a_run_leaves_config_metrics_weights_and_result(trial, tmp_path):
    folder = tmp_path / trial.run_id
    seen: list[Progress] = []
    result = run_trial(trial, folder, seen.append)
    files = ["config.yaml", "correct.npz", "metrics.csv", "result.json", "weights.pt"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert 100 * read_correct(folder).mean() == pytest.approx(result["top1"])
    assert json.loads((folder / "result.json").read_text()) == result
    assert mnet.settings.parse(Trial, yaml.safe_load((folder / "config.yaml").read_text())) == trial
    assert set(yaml.safe_load((folder / "config.yaml").read_text())) == set(PARAMETERS)
    network = trial.network(num_classes=2, in_channels=1)
    assert (result["params"], result["madds"]) == (mnet.cost(network, 28).params, mnet.cost(network, 28).madds)
    mnet.create_model(network).load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    assert "val/top1" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert seen
    assert 0 < seen[-1].step <= seen[-1].steps
    for name in ("device", "torch", "mnet", "revision", "train_seconds", "images_per_second"):
        assert name in result


def test_the_same_trial_gives_the_same_numbers_and_a_finished_one_is_not_paid_twice(trial, tmp_path):
    first = run_trial(trial, tmp_path / "a")
    assert measured(run_trial(trial, tmp_path / "b")) == measured(first)
    assert run_trial(trial, tmp_path / "a") == first  # its time stamp too: nothing ran
    (tmp_path / "a" / "result.json").write_text('{"top1": 9')  # torn by hand
    assert read_result(tmp_path / "a") is None
    assert measured(run_trial(trial, tmp_path / "a")) == measured(first)


@pytest.mark.parametrize("recipe", ["quick", "v3"])
def test_a_run_stopped_between_epochs_goes_on_to_the_same_numbers(trial, tmp_path, recipe):
    trial = Trial(**{**trial.settings(), "data_dir": trial.data_dir, "recipe": recipe, "batch_size": 16, "lr": None})
    undisturbed = run_trial(trial, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if (tmp_path / "stopped" / "resume.ckpt").exists():
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnet.studies.callbacks.REPORT_SECONDS", 0.0)
        with pytest.raises(Stop):
            run_trial(trial, tmp_path / "stopped", stop)
    assert read_result(tmp_path / "stopped") is None
    assert measured(run_trial(trial, tmp_path / "stopped")) == measured(undisturbed)
    assert not (tmp_path / "stopped" / "resume.ckpt").exists()


def test_a_loss_that_is_no_number_ends_the_run_with_its_reason(trial, tmp_path):
    with pytest.raises(NotFinite, match=r"loss is (nan|inf)"):
        run_trial(Trial(**{**trial.settings(), "data_dir": trial.data_dir, "lr": 1e30}), tmp_path / "run")
    assert read_result(tmp_path / "run") is None
