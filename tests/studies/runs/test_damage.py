"""What a study does with a full disk, damaged or foreign files, and trials that fail: nothing finished is lost."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ablate
import pandas as pd
import psutil
import pytest
import torch
from common.workers import start_worker_server

from mnet import ConfigError
from mnet.studies import Trial, load_study
from mnet.studies.results.tables import runs_table, summary_table
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.run import run_job, run_trial
from mnet.studies.runs.store import (
    CORRECT,
    FAILURE,
    METRICS,
    RESULT,
    RESUME,
    WEIGHTS,
    Busy,
    find_finished,
    lock,
    read_result,
)

ROOT = Path(__file__).parents[3]
MEASURED = ("top1", "test_loss", "val_loss")


@pytest.fixture(scope="module")
def trial(images, tiny_model) -> Trial:
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "batch_size": 16}
    return Trial(**settings, epochs=3)


@pytest.fixture(scope="module")
def undisturbed(trial, tmp_path_factory) -> Path:
    job = Job(trial, tmp_path_factory.mktemp("undisturbed"), "one")
    run_job(job)
    return job.folder


def measured(folder: Path) -> dict:
    return {name: read_result(folder)[name] for name in MEASURED}


@pytest.fixture(scope="module")
def options(images, tiny_model) -> list[str]:
    """A small activation study for ablate.py."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "batch_size": 16}
    settings |= {"workers": 1, "report": "false"}
    return ["activation", *(f"--{name}={value}" for name, value in settings.items())]


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Keep this process, and workers that are forked meanwhile, from writing files above `limit` bytes."""
    start_worker_server()
    (server,) = (child for child in psutil.Process().children() if "multiprocessing.forkserver" in str(child.cmdline()))
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in (os.getpid(), server.pid)}
    try:
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def test_where_the_disk_is_full_the_run_says_so_and_the_next_call_ends_with_the_same_numbers(options, tmp_path, capsys):
    arguments = [*options, "--activation=paper", "--seeds=1", "--checkpoint_seconds=0"]
    with full_disk(200_000):  # less than the weights
        assert ablate.main([*arguments, f"--out={tmp_path}"]) == 1
    out, error = capsys.readouterr()
    assert "File too large" in error
    assert "Traceback" not in out + error
    (folder,) = tmp_path.glob("activation/runs/*")
    assert read_result(folder) is None
    assert "File too large" in json.loads((folder / FAILURE).read_text())["reason"]
    assert not list(folder.glob(".writing-*"))
    for out in (tmp_path, tmp_path / "other"):
        assert ablate.main([*arguments, f"--out={out}"]) == 0
    assert (folder / WEIGHTS).stat().st_size > 200_000
    assert measured(folder) == measured(next(tmp_path.glob("other/activation/runs/*")))
    assert not (folder / FAILURE).exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "of an older mnet"])
def test_a_checkpoint_that_cannot_be_used_costs_its_training_and_no_more(trial, undisturbed, tmp_path, damage):
    job = Job(trial, tmp_path, "one")
    with pytest.raises(Stopped), pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0)
        run_job(job, lambda progress: progress.step == 6)
    path = job.folder / RESUME
    whole = path.read_bytes()
    if damage == "of an older mnet":
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint["mnet"]
        torch.save(checkpoint, path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "noise": os.urandom(5000)}[damage])
    run_job(job)
    assert measured(job.folder) == measured(undisturbed)


def test_a_damaged_result_is_no_result(trial, undisturbed, tmp_path):
    job = Job(trial, tmp_path, "one")
    job.folder.mkdir(parents=True)
    for content in ("", "[]", "null", "{}", '{"top1": 9'):
        (job.folder / RESULT).write_text(content)
        assert read_result(job.folder) is None
        assert find_finished(tmp_path, trial.run_id) is None  # decides whether a run is trained
    run_job(job)
    assert measured(job.folder) == measured(undisturbed)


def test_a_run_that_any_study_has_finished_is_copied_not_trained(trial, undisturbed):
    root = undisturbed.parents[2]
    job = Job(trial, root, "two")
    (root / "two/runs" / job.run_id).mkdir(parents=True)
    (job.folder / ".writing-result.json.x").write_text("left by a kill")
    run_job(job, trainer={"accelerator": "nothing that could train"})
    for name in (RESULT, WEIGHTS, METRICS, CORRECT):
        assert (job.folder / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_run_that_another_process_holds_is_not_trained_beside_it(trial, tmp_path):
    job = Job(trial, tmp_path, "one")
    with lock(tmp_path, job.run_id), pytest.raises(Busy):
        run_job(job)
    assert not job.folder.exists()


def test_results_of_an_older_version_count_and_those_of_a_later_one_are_refused(trial, undisturbed, tmp_path):
    """At first, 0.1.0 wrote neither `format` nor which images were right."""
    study = load_study(ROOT / "experiments/sweeps/activation.yaml", {
        "dataset": ["imagefolder"], "data_dir": [trial.data_dir], "resolution": [28], "batch_size": [16],
        "epochs": [3], "seed": [0], "model": [trial.model], "activation": ["paper", "relu"],
    })  # fmt: skip
    folder = tmp_path / "activation/runs" / trial.run_id
    folder.mkdir(parents=True)
    result = json.loads((undisturbed / RESULT).read_text())
    del result["format"], result["images_per_second"]
    (folder / RESULT).write_text(json.dumps(result))
    runs = runs_table(study, tmp_path)
    assert list(runs["top1"]) == [result["top1"]]
    assert summary_table(study, runs, tmp_path)["n"].tolist() == [1]
    (folder / RESULT).write_text(json.dumps({**result, "format": 99, "mnet": "9.9"}))
    with pytest.raises(ConfigError, match=r"has format 99, written by mnet 9\.9; this version reads up to"):
        run_trial(trial, folder)


def test_a_cell_whose_loss_is_no_number_is_marked_with_its_reason_and_the_others_go_on(options, tmp_path, capsys):
    arguments = [*options, "--activation=paper,relu", "--lr=0.1,1e30", "--seeds=2", f"--out={tmp_path}"]
    assert ablate.main(arguments) == 1
    out, error = capsys.readouterr()
    assert "failed: NotFinite: the loss is" in out
    assert "NotFinite" in error
    summary = pd.read_csv(tmp_path / "activation/summary.csv", keep_default_na=False).set_index("cell")
    assert list(summary["failed"]) == [0, 2, 0, 2]
    assert list(summary["n"]) == [2, 0, 2, 0]
    for cell in ("activation=paper, lr=1e+30", "activation=relu, lr=1e+30"):
        assert summary.loc[cell, "reason"].startswith("NotFinite: the loss is")
    assert summary.loc["activation=relu, lr=0.1", "delta"] != ""
    assert set(pd.read_csv(tmp_path / "activation/runs.csv")["cell"]) == set(summary.index[summary["n"] > 0])
    assert "Traceback" not in out + error


def test_ctrl_c_writes_the_checkpoint_and_says_how_to_go_on(options, tmp_path):
    arguments = [*options, "--activation=paper", "--seeds=1", "--epochs=100000", f"--out={tmp_path}"]
    command = [sys.executable, str(ROOT / "experiments/ablate.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, start_new_session=True)
    while not list(tmp_path.glob("activation/runs/*/metrics.csv")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    out, error = process.communicate()
    assert process.returncode == 130
    assert "run the same command to continue" in error
    assert "Traceback" not in out + error
    (path,) = tmp_path.glob("activation/runs/*/resume.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] % 4  # 4 steps per epoch: not the checkpoint at its end
