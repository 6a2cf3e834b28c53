"""`load`: one data frame from folders, tables, or the configuration and summary of runs on W&B."""

import json

import pandas as pd
import pytest

from mnet.errors import ConfigError
from mnet.files import write_json, write_yaml
from mnet.studies import load
from mnet.studies.results import wandb_runs
from mnet.studies.results.finished import FinishedRun, finished_row
from mnet.studies.results.wandb_runs import Address, read_address, read_run
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import CONFIG, RESULT, run_folder
from mnet.studies.runs.tracking import PROVENANCE, config_of, summary_names
from mnet.studies.runs.wandb_server import Unreachable
from mnet.studies.trial import Trial

MEASURED = {
    **{"top1": 50.0, "top5": 100.0, "test_loss": 0.693169, "val_top1": 60.0, "val_loss": 0.691844},
    **{"params": 1527818, "madds": 2064144, "train_seconds": 3.0, "images_per_second": 657.3, "dead_kernels": 0.5},
    **{"device": "a processor", "threads": 1, "torch": "2.14.1", "mnet": "0.1.0", "revision": "0123456789ab"},
    **{"replicas": 1, "compile": "off"},
}
TRIALS = {
    "toggled": Trial(activation="relu", se=False, width=0.5, seed=3),
    "at another size": Trial(resolution=20, target_madds=1.5, epochs=5),
    "int8": Trial(precision="int8", epochs=5),
    "int8-qat": Trial(precision="int8-qat", epochs=20, lr=0.1, batch_size=32),
}


def result_of(trial: Trial) -> dict[str, object]:
    return {**MEASURED, "resolution": trial.input_spec().resolution, "epochs": trial.full_recipe().epochs}


def logged(trial: Trial, root) -> tuple[dict[str, object], dict[str, object]]:
    """Config and summary of a run whose sweep set every setting that has a value, with numbers as W&B returns them."""
    config = json.loads(json.dumps(config_of(Job(trial, root, "activation"), "se=false")))
    set_by_sweep = {name: value for name, value in trial.settings().items() if value is not None}
    shown = {**summary_names(trial.task), **{name: name for name in PROVENANCE}}
    summary = {logged: MEASURED[name] for logged, name in shown.items()} | {
        "test/top1": 50,
        "madds": 2.064144e6,
    }
    return {**config, **set_by_sweep, "_wandb": {}}, summary


def keep(trial: Trial, root, study: str = "activation", **more: object):
    folder = run_folder(root, study, trial.run_id)
    write_yaml(folder / CONFIG, {**trial.settings(), **more})
    write_json(folder / RESULT, {**result_of(trial), "finished": "2026-01-01T00:00:00+00:00", "format": 2})
    return folder


@pytest.mark.parametrize("name", TRIALS)
def test_a_run_logged_to_wandb_makes_the_same_row_as_its_folder(name, tmp_path):
    trial = TRIALS[name]
    from_folder = finished_row(FinishedRun("activation", trial, result_of(trial)), {})
    from_wandb = finished_row(read_run("run", *logged(trial, tmp_path)), {})
    pd.testing.assert_frame_equal(pd.DataFrame([from_wandb]), pd.DataFrame([from_folder]))


def test_foreign_and_unfinished_runs_are_left_out(tmp_path):
    config, summary = logged(Trial(), tmp_path)
    assert read_run("theirs", {"lr": 0.1}, summary) is None
    assert read_run("unfinished", config, {"test/top1": 50.0}) is None
    with pytest.raises(ConfigError, match=r"W&B run me/mnet/x: .*Did you mean mobilenet_v2"):
        read_run("me/mnet/x", {**config, "model": "mobilenet_v22"}, summary)


@pytest.mark.parametrize(
    ("source", "filters"),
    [
        ("me/mnet", {}),
        ("wandb:me/mnet", {}),
        ("https://wandb.ai/me/mnet/workspace?nw=abc", {}),
        ("me/mnet/sweeps/abc", {"sweep": "abc"}),
        ("https://wandb.ai/me/mnet/runs/abc", {"name": "abc"}),
        ("me/mnet/abc", {"name": "abc"}),
    ],
)
def test_an_address_is_read_as_written_or_as_in_the_browser(source, filters):
    assert read_address(source) == Address("me/mnet", filters)


@pytest.mark.parametrize("source", ["results", "/tmp/results", "../results", "a/b/c/d/e", ""])
def test_a_path_is_not_an_address(source):
    assert read_address(source) is None


def test_a_run_with_arguments_of_the_trainer_is_loaded_and_an_old_table_is_filled_in(tmp_path):
    keep(Trial(), tmp_path, trainer={"precision": "bf16-mixed"})
    assert list(load(tmp_path)["study"]) == ["activation"]
    assert "data_dir" not in load(tmp_path)
    old = tmp_path / "published" / "se"
    old.mkdir(parents=True)
    load(tmp_path).drop(columns=["precision", "target_madds"]).assign(study="se").to_csv(old / "runs.csv", index=False)
    assert load(old)[["precision", "target_madds"]].values.tolist() == [["fp32", "paper"]]


def test_a_run_on_user_images_has_their_folder(tmp_path):
    keep(Trial(dataset="imagefolder", data_dir=tmp_path, images="a1b2", resolution=28), tmp_path)
    keep(Trial(), tmp_path)
    assert load(tmp_path).set_index("dataset")["data_dir"].to_dict() == {
        "imagefolder": str(tmp_path),
        "fashion_mnist": pytest.approx(float("nan"), nan_ok=True),
    }


def test_wandb_is_asked_with_a_timeout_and_its_error_names_the_address(monkeypatch):
    checked, timeouts = [], []

    def api(timeout):
        timeouts.append(timeout)
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(wandb_runs, "has_account", lambda: True)
    monkeypatch.setattr(wandb_runs, "check_reachable", lambda: checked.append(True))
    monkeypatch.setattr("wandb.Api", api)
    with pytest.raises(ConfigError, match=r"no folder me/mnet/abc, and W&B cannot be asked for it: no route to host$"):
        load("me/mnet/runs/abc")
    assert checked and timeouts == [wandb_runs.TIMEOUT_S] and timeouts[0] <= 10

    def unreachable():
        raise Unreachable("https://api.wandb.ai: no answer within 4 s")

    monkeypatch.setattr(wandb_runs, "check_reachable", unreachable)
    with pytest.raises(ConfigError, match=r"asked for it: https://api\.wandb\.ai: no answer within 4 s"):
        load("me/mnet")
    assert len(timeouts) == 1
    monkeypatch.setattr(wandb_runs, "has_account", lambda: False)
    with pytest.raises(ConfigError, match="no W&B account; log in"):
        load("me/mnet")
    with pytest.raises(ConfigError, match="not a W&B address"):
        load("nowhere")
