"""A run's network is the one in its folder, whatever lies at the path that its config names."""

from pathlib import Path

import pytest
import train

import mnet
from mnet.files import write_json
from mnet.studies import Trial, load
from mnet.studies.runs.store import CONFIG, RESULT, read_settings, write_config

FOUND = "results/found/network.yaml"


def write_found(width: float) -> None:
    mnet.write_network(mnet.describe("mobilenet_v3_small", width=width), Path(FOUND))


@pytest.fixture
def theirs(tmp_path, monkeypatch) -> Path:
    """A colleague's finished run of the network that a search found there."""
    monkeypatch.chdir(tmp_path)
    Path("results/found").mkdir(parents=True)
    write_found(width=0.5)
    trial = Trial(model=FOUND)
    folder = tmp_path / "theirs/study/runs" / trial.run_id
    write_config(trial, folder, None)
    write_json(folder / RESULT, {"top1": 50.0, "val_top1": 50.0, "val_loss": 1.0, "test_loss": 1.0})
    return folder


def test_a_run_of_somebody_elses_network_is_not_read_as_mine_of_the_same_path(theirs):
    (row,) = load("theirs").to_dict("records")
    assert (row["model"], row["run_id"]) == (FOUND, theirs.name)  # the same network: its name is kept
    write_found(width=0.25)
    (row,) = load("theirs").to_dict("records")
    assert (row["model"], row["run_id"]) == (str(theirs.relative_to(theirs.parents[3]) / "network.yaml"), theirs.name)
    Path(FOUND).write_text("- no network")
    assert read_settings(theirs)[0]["model"] == str(theirs / "network.yaml")


def test_the_config_of_a_run_trains_its_own_network_again(theirs):
    write_found(width=0.25)
    settings = train.read_arguments([f"--config={theirs / CONFIG}"]).settings
    assert Trial(model=str(settings["model"])).run_id == theirs.name
