"""One real trial on a small folder of images: what it leaves behind, repeated, resumed, and gone wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import mnet
from mnet import ConfigError
from mnet.studies import Trial, load_study
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.results.loading import load
from mnet.studies.runs.progress import NotFinite, Progress
from mnet.studies.runs.run import run_trial
from mnet.studies.runs.store import Result, read_correct, read_result, read_settings
from mnet.studies.runs.trainer import TRAINER_DEFAULTS

SWEEPS = Path(__file__).parents[3] / "experiments/sweeps"


@pytest.fixture
def trial(images, tiny_model) -> Trial:
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model}
    return Trial(**settings, batch_size=16, epochs=3, seed=5)


MEASURED = ("top1", "top5", "test_loss", "val_top1", "val_loss", "params", "madds", "resolution", "epochs")


def measured(result):
    return {name: result[name] for name in MEASURED}


def test_a_run_leaves_config_metrics_weights_and_result(trial, tmp_path):
    folder = tmp_path / trial.run_id
    seen: list[Progress] = []
    result = run_trial(trial, folder, seen.append)
    files = ["config.yaml", "correct.npz", "images.json", "metrics.csv", "network.yaml", "result.json", "weights.pt"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert 100 * read_correct(folder).mean() == pytest.approx(result["top1"])
    assert json.loads((folder / "result.json").read_text()) == result
    assert mnet.settings.parse(Trial, yaml.safe_load((folder / "config.yaml").read_text())) == replace(
        trial, images=trial.fingerprint
    )
    assert set(yaml.safe_load((folder / "config.yaml").read_text())) == set(PARAMETERS)
    network = trial.network(num_classes=2, in_channels=1)
    assert (result["params"], result["madds"]) == (
        mnet.cost(network, 28).params,
        mnet.cost(network, 28).madds,
    )
    mnet.create_model(network).load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    assert "val/top1" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert seen
    assert 0 < seen[-1].step <= seen[-1].steps
    for name in ("device", "torch", "mnet", "revision", "train_seconds", "images_per_second"):
        assert name in result
    assert result.keys() <= Result.__annotations__.keys()


def test_the_same_trial_gives_the_same_numbers_and_a_finished_one_is_not_trained_again(trial, tmp_path):
    first = run_trial(trial, tmp_path / "a")
    assert measured(run_trial(trial, tmp_path / "b")) == measured(first)
    assert run_trial(trial, tmp_path / "a") == first  # even its time stamp: nothing ran
    (tmp_path / "a" / "result.json").write_text('{"top1": 9')  # torn by hand
    assert read_result(tmp_path / "a") is None
    assert measured(run_trial(trial, tmp_path / "a")) == measured(first)


@pytest.mark.parametrize("recipe", ["quick", "v3"])
def test_a_run_stopped_between_epochs_resumes_to_the_same_numbers(trial, tmp_path, recipe):
    trial = Trial(**{**trial.settings(), "data_dir": trial.data_dir, "recipe": recipe, "batch_size": 16, "lr": None})
    undisturbed = run_trial(trial, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if (tmp_path / "stopped" / "resume.ckpt").exists():
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
        with pytest.raises(Stop):
            run_trial(trial, tmp_path / "stopped", stop)
    assert read_result(tmp_path / "stopped") is None
    assert measured(run_trial(trial, tmp_path / "stopped")) == measured(undisturbed)
    assert not (tmp_path / "stopped" / "resume.ckpt").exists()


def test_a_loss_that_is_no_number_ends_the_run_with_its_reason(trial, tmp_path):
    with pytest.raises(NotFinite, match=r"loss is (nan|inf)"):
        run_trial(Trial(**{**trial.settings(), "data_dir": trial.data_dir, "lr": 1e30}), tmp_path / "run")
    assert read_result(tmp_path / "run") is None


def test_a_run_for_some_steps_on_only_validation_is_not_part_of_a_study(trial, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.tasks.module.LOG_STEPS", 1)
    monkeypatch.setattr("mnet.studies.runs.trainer.TRAINER_DEFAULTS", {**TRAINER_DEFAULTS, "log_every_n_steps": 1})
    short = replace(trial, epochs=2, epoch_steps=3, tested=False)
    assert short.run_id not in (trial.run_id, replace(short, tested=True).run_id, replace(short, epoch_steps=2).run_id)
    folder = tmp_path / "study/runs" / short.run_id
    result = run_trial(short, folder)
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["step"].max() == 2 * 3 - 1
    assert "test/top1" not in metrics
    assert {"top1", "test_loss"}.isdisjoint(result)
    assert result["val_top1"] == round(metrics["val/top1"].dropna().iloc[-1], 4)
    assert run_trial(short, folder) == result  # finished, although it was not tested
    files = ["config.yaml", "images.json", "metrics.csv", "network.yaml", "result.json", "weights.pt"]
    assert sorted(path.name for path in folder.iterdir()) == files
    with pytest.raises(ConfigError, match="no finished run"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="tested=false leaves nothing to compare"):
        load_study(SWEEPS / "se.yaml", {"tested": [False]})


def test_weight_decay_and_what_it_leaves_out_are_settings(trial):
    recipe = replace(trial, weight_decay=0.5, decay_depthwise=False).full_recipe()
    assert (recipe.weight_decay, recipe.decay_depthwise) == (0.5, False)
    assert trial.full_recipe().weight_decay == 1e-4
    with pytest.raises(ConfigError, match="weight_decay must not be negative, but is -1"):
        replace(trial, weight_decay=-1.0)
    with pytest.raises(ConfigError, match="epoch_steps must be positive"):
        replace(trial, epoch_steps=0)


def test_a_run_starts_from_the_weights_of_another_and_keeps_its_own_network(trial, tmp_path):
    source, path = tmp_path / trial.run_id, tmp_path / "own.yaml"
    run_trial(trial, source)
    network = trial.network(2, 1)
    rows = (*network.blocks[:-1], replace(network.blocks[-1], expansion=network.blocks[-1].expansion - 8))
    mnet.write_network(replace(network, blocks=rows), path)
    changed = replace(trial, model=str(path), pretrained=str(source), epochs=1, lr=1e-9)
    result = run_trial(changed, tmp_path / "moved")
    assert result["pretrained_share"] == 1
    assert result["val_top1"] >= read_result(source)["val_top1"] - 25  # at most two of 8 validation images fewer
    path.unlink()
    assert trial_from(read_settings(tmp_path / "moved")[0]).network(2, 1).blocks == rows
    for folder, message in (
        (tmp_path, "not a finished run with its weights.pt"),
        (tmp_path / "none", "neither a file"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_trial(replace(trial, pretrained=str(folder)), tmp_path / "wrong")


def test_dead_kernels_are_counted_through_training_and_at_its_end(trial, tmp_path):
    source, short = tmp_path / trial.run_id, replace(trial, epochs=2, epoch_steps=1, lr=1e-9)
    assert run_trial(trial, source)["dead_kernels"] == 0
    state = torch.load(source / "weights.pt", weights_only=True)
    state["blocks.1.depthwise.conv.weight"][:3] *= 1e-3
    torch.save(state, source / "weights.pt")
    result = run_trial(replace(short, pretrained=str(source)), tmp_path / "run")
    kernels = sum(len(one) for name, one in state.items() if name.endswith("depthwise.conv.weight"))
    assert result["dead_kernels"] == round(100 * 3 / kernels, 4)
    metrics = pd.read_csv(tmp_path / "run/metrics.csv").dropna(subset=["kernels/dead"])
    assert len(metrics) == 2  # after every epoch
    assert metrics["kernels/dead"].tolist() == pytest.approx([result["dead_kernels"]] * 2, abs=1e-4)
    assert metrics["kernels/least"].max() < 0.01
