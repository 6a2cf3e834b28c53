"""Detection and segmentation as studies like any other: run, stopped, resumed, tabled, drawn, reported, claimed."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import claims as program
import numpy as np
import pandas as pd
import pytest
import torch
from common.summary import print_summary

from mnet.data import ScenesData
from mnet.data.decoded import Images
from mnet.data.scenes import ScenesSettings
from mnet.errors import ConfigError
from mnet.studies import Trial, load_study
from mnet.studies.claims.claims import Claim, load_claims
from mnet.studies.claims.evidence import claims_table
from mnet.studies.report.examples import read_examples
from mnet.studies.report.figures import write_figures
from mnet.studies.report.page import write_report
from mnet.studies.results.frames import summary_of
from mnet.studies.results.loading import load
from mnet.studies.results.tables import run_row, write_tables
from mnet.studies.runs.job import Job
from mnet.studies.runs.packs import run_jobs
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.run import run_trial
from mnet.studies.runs.store import read_result, run_folder
from mnet.studies.runs.tracking import summary_names
from mnet.tasks import TASKS

TINY = {
    "dataset": "scenes",
    "model": "mobilenet_v3_small",
    "width": 0.35,
    "resolution": 48,
    "recipe": "scenes",
    "epochs": 1,
}
HEADS = {"detection": "ssdlite", "segmentation": "lr_aspp"}
SWEEP = """
program: experiments/train.py
method: grid
metric: {{name: {metric}, goal: maximize}}
parameters:
  head: {{value: {head}}}
  dataset: {{value: scenes}}
  model: {{value: mobilenet_v3_small}}
  width: {{value: 0.35}}
  resolution: {{value: 48}}
  recipe: {{value: scenes}}
  epochs: {{value: 1}}
  {varied}
  seed: {{values: [0, 1, 2]}}
"""


@pytest.fixture(scope="module", autouse=True)
def _few_scenes_of_made_up_garments():
    """Ten classes of 28x28 images that need no download: bright squares that differ in place and size."""
    images = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(40) % 10
    for i, label in enumerate(labels.tolist()):
        images[i, 0, 2 + label : 26, 2 : 26 - label] = 120 + 10 * label + i
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScenesData, "prepare_data", lambda self: None)
        patch.setattr(ScenesData, "read", lambda self: (Images(images, labels), Images(images, labels)))
        patch.setattr("mnet.data.scenes.VAL_SIZE", 10)
        patch.setattr(ScenesData, "train_size", 120)
        patch.setitem(ScenesSettings.__init__.__kwdefaults__, "val_size", 24)
        patch.setattr(ScenesData, "test_size", 24)
        yield


def study_of(folder: Path, task: str, varied: str = "reduced_tail: {values: [false, true]}", metric: str | None = None):
    path = folder / f"{task}.yaml"
    metric = metric or f"val/{TASKS[task].headline.name}"
    path.write_text(SWEEP.format(metric=metric, head=HEADS[task], varied=varied))
    return load_study(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Callable[[str], Path]:
    """A function that returns the folder of a task's finished run, which is trained once."""

    @cache
    def folder(task: str) -> Path:
        path = tmp_path_factory.mktemp(task)
        run_trial(Trial(head=HEADS[task], **TINY), path)
        return path

    return folder


@pytest.mark.parametrize("task", HEADS)
def test_a_run_leaves_the_metrics_of_its_task_its_weights_and_examples(task, finished):
    trial, folder = Trial(head=HEADS[task], **TINY), finished(task)
    result = read_result(folder)
    files = ["config.yaml", "examples.pt", "images.json", "metrics.csv", "result.json", "weights.pt"]
    assert sorted(path.name for path in folder.iterdir()) == files
    names = {metric.name for metric in TASKS[task].metrics} | {
        "test_loss",
        "val_loss",
        f"val_{TASKS[task].headline.name}",
    }
    assert names <= result.keys()
    assert "top1" not in result
    assert 0 <= result[TASKS[task].headline.name] <= 100
    assert set(summary_names(trial.task).values()) <= result.keys()
    kept = torch.load(folder / "examples.pt", weights_only=True)
    assert kept["images"].shape == (4, 1, 48, 48)
    assert (len(kept["truth"]), len(kept["seen"])) == (4, 4)
    assert (folder / "examples.pt").stat().st_size < 300_000


@pytest.mark.parametrize("task", HEADS)
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits(task, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    trial = Trial(head=HEADS[task], **TINY)
    whole = read_result(finished(task))
    with pytest.raises(Stopped):
        run_trial(trial, tmp_path / "stopped", lambda progress: progress.step >= 2, checkpoint_s=0)
    assert read_result(tmp_path / "stopped") is None
    again = run_trial(trial, tmp_path / "stopped")
    same = [metric.name for metric in TASKS[task].metrics] + ["test_loss", "val_loss"]
    assert {name: again[name] for name in same} == {name: whole[name] for name in same}
    for name in ("weights.pt", "examples.pt", "images.json", "metrics.csv"):
        assert (finished(task) / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.parametrize("task", HEADS)
def test_seeds_are_trained_together_as_each_is_alone(task, tmp_path, monkeypatch):
    """Compared after one step: with more, rounding grows in batch norms that see few pixels."""
    monkeypatch.setattr(ScenesData, "train_size", 60)
    monkeypatch.setitem(ScenesSettings.__init__.__kwdefaults__, "val_size", 20)
    trials = [Trial(head=HEADS[task], **TINY, batch_size=40, lr=1e-3, seed=seed) for seed in (0, 1)]
    alone = [run_trial(trial, tmp_path / f"alone{trial.seed}") for trial in trials]
    jobs = [Job(trial, tmp_path, "packed") for trial in trials]
    for job, outcome in run_jobs(jobs, lambda progress: None):
        expected = alone[job.trial.seed]
        assert outcome.kind == "finished"
        assert outcome.result["replicas"] == 2
        for name in ("test_loss", "val_loss", TASKS[task].headline.name):
            assert outcome.result[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-3)
        weights, known = (
            torch.load(folder / "weights.pt", weights_only=True)
            for folder in (job.folder, tmp_path / f"alone{job.trial.seed}")
        )
        for name in known:
            torch.testing.assert_close(weights[name], known[name], rtol=1e-3, atol=1e-4)


def finish_runs(study, root: Path, means: dict[str, float]) -> None:
    """Write results of every run, as if they had been trained."""
    metric = study.task.headline.name
    for cell, trial in study.trials:
        folder = run_folder(root, study.name, trial.run_id)
        folder.mkdir(parents=True)
        value = means[cell.name] + 0.1 * trial.seed
        result = {one.name: value for one in study.task.metrics} | {
            f"val_{metric}": value,
            "val_loss": 1.0,
            "test_loss": 1.0,
        }
        result |= {"resolution": 48, "epochs": 1, "params": 1000, "madds": 10**6, "train_seconds": 9.0, "threads": 1}
        result |= {
            "images_per_second": 10.0,
            "device": "a processor",
            "torch": "2",
            "mnet": "0",
            "revision": "r",
            "format": 2,
        }
        (folder / "result.json").write_text(json.dumps(result))
        settings = {name: value for name, value in trial.settings().items() if value is not None}
        (folder / "config.yaml").write_text(
            "\n".join(f"{name}: {json.dumps(value)}" for name, value in settings.items())
        )


@pytest.mark.parametrize("task", HEADS)
def test_tables_figures_and_the_report_name_the_tasks_metric(task, finished, tmp_path, capsys):
    study, root = study_of(tmp_path, task), tmp_path / "results"
    finish_runs(study, root, {"false": 40.0, "true": 43.0})
    for cell in study.cells:  # the predictions of the first seed's run
        trial = Trial(head=HEADS[task], **TINY, **cell.options)
        shutil.copy(finished(task) / "examples.pt", run_folder(root, study.name, trial.run_id))
    assert read_examples(study, study.cells[0], root) is not None
    tables = write_tables(study, root)
    write_figures(study, tables, root)
    name, label = study.task.headline.name, study.task.headline.label
    assert [f"{name}_mean", f"{name}_sd", f"{name}_half_width"] == list(tables.summary.columns[3:6])
    assert tables.summary["delta"].tolist()[1] == pytest.approx(3.0)
    assert tables.summary["verdict"].tolist()[1] == "up"
    assert tables.summary["boot_low"].isna().all()  # for mAP no image is right or wrong
    assert {f"{study.name}.png", "predictions.png", "runs.csv", "summary.csv"} <= {
        p.name for p in (root / study.name).iterdir()
    }
    print_summary(study, tables, root / study.name, 0.5, {})
    assert f"{label} %" in capsys.readouterr().out
    assert f"{label} %" in summary_of(root, study.name).columns
    assert write_report(tmp_path / "page.html", root, {study.name: "What? Command: make it"}) == [study.name]
    page = (tmp_path / "page.html").read_text()
    assert f"test {label} (%)" in page
    assert 'src="data:image/png;base64,' in page
    assert "top-1" not in page.partition("<main")[2].partition('<script type="application/json"')[0]


def planned_runs(study) -> pd.DataFrame:
    rows = [run_row(study.name, cell.name, trial, {"epochs": 1, "resolution": 48}) for cell, trial in study.trials]
    return pd.DataFrame(rows).assign(command="make it")


def test_a_detection_claim_is_tested_by_detection_runs_alone(tmp_path):
    study, root = study_of(tmp_path, "detection"), tmp_path / "results"
    finish_runs(study, root, {"false": 40.0, "true": 40.0})
    for folder in (root / "detection/runs").iterdir():  # no difference at all
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "map": 41.0}))
    write_tables(study, root)
    setup = {"model": "mobilenet_v3_small", "head": "ssdlite"}
    common = {"study": "detection", "paper": "v3", "source": "", "verified": True, "seen_in": "v3", "kind": "detection"}
    claim = Claim(id="a", statement="", metric="map", direction="flat", baseline=setup,
                  variant={**setup, "reduced_tail": True}, **common)  # fmt: skip
    planned = planned_runs(study)
    found = claims_table([claim], runs=load(root), planned=planned, latencies={})
    row = found.iloc[0]
    assert (row["verdict"], row["ours"], row["n"]) == ("reproduced", 0.0, 3)
    assert "scenes at 48 px" in row["on"]
    other = Claim(id="b", statement="", metric="top1_points", direction="flat", **{**common, "kind": "accuracy"},
                  baseline={"model": "mobilenet_v3_small"},
                  variant={"model": "mobilenet_v3_small", "reduced_tail": True})  # fmt: skip
    again = claims_table([other], runs=load(root), planned=planned, latencies={})
    assert again["verdict"].tolist() == ["not tested here"]


def test_a_study_compares_one_task_by_a_metric_that_it_logs(tmp_path):
    with pytest.raises(
        ConfigError, match="detection logs no val/miou; one of val/map, val/map_50, val/map_75, val/loss"
    ):
        study_of(tmp_path, "detection", metric="val/miou")
    path = tmp_path / "mixed.yaml"
    text = SWEEP.format(metric="val/map", head="ssdlite", varied="").replace(
        "{value: ssdlite}", "{values: [ssdlite, lr_aspp]}"
    )
    path.write_text(text)
    with pytest.raises(ConfigError, match="study mixed: ssdlite is for detection and lr_aspp for segmentation"):
        load_study(path)


def test_the_papers_costs_of_detectors_are_claims_that_counting_reproduces(tmp_path):
    path = Path(program.__file__).with_name("claims.yaml")
    claims = [claim for claim in load_claims(path) if (claim.study, claim.kind) == ("detection", "arithmetic")]
    planned = planned_runs(study_of(tmp_path, "detection"))
    runs = planned.assign(seed=0, map=40.0)
    counted = claims_table(claims, runs=runs, planned=planned, latencies={}).set_index("id")["verdict"]
    assert counted["v3-reduced-tail-cost"] == counted["v2-detection-cost"] == "reproduced"
    assert np.all(counted.drop("v2-ssdlite-cost") == "reproduced")


@pytest.mark.parametrize("task", HEADS)
def test_heads_train_in_16_bits(task, tmp_path):
    result = run_trial(Trial(**TINY, head=HEADS[task], precision="bf16", epoch_steps=2), tmp_path)
    assert np.isfinite(result["test_loss"])
