"""Seeds trained as one network end as each would alone, up to the order of summation, however they are stopped."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mnet.studies import Trial
from mnet.studies.runs.job import Job
from mnet.studies.runs.packed_checkpoints import NEXT, step_of
from mnet.studies.runs.packs import run_jobs
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import METRICS, RESULT, RESUME, WEIGHTS, lock, read_correct, read_result
from mnet.studies.runs.trainer import TRAINER_DEFAULTS

SEEDS = 3
TIMED = {"train_seconds", "images_per_second", "finished", "replicas"}


@pytest.fixture(scope="module", autouse=True)
def _reported_and_logged_often():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
        for module in ("mnet.studies.runs.checkpoints", "mnet.tasks.module", "mnet.tasks.pack"):
            patch.setattr(f"{module}.LOG_STEPS", 3)
        patch.setattr("mnet.studies.runs.trainer.TRAINER_DEFAULTS", {**TRAINER_DEFAULTS, "log_every_n_steps": 3})
        yield


@pytest.fixture(scope="module", params=["quick", "v3"])  # v3: dropout, an average of the weights, RMSprop
def trial(request, images, tiny_model) -> Trial:
    """Two epochs of seven batches."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "lr": 0.01}
    return Trial(**settings, recipe=request.param, batch_size=10, epochs=2)


@pytest.fixture(scope="module")
def trainer(trial) -> dict[str, object]:
    """64 bits, except with averaged weights: Lightning averages none in 64 bits."""
    return {"precision": "64-true"} if trial.recipe == "quick" else {}


def jobs_in(root, trial, seeds=range(SEEDS)) -> list[Job]:
    return [Job(replace(trial, seed=seed), root, "study") for seed in seeds]


@pytest.fixture(scope="module")
def alone(trial, trainer, tmp_path_factory) -> list[Job]:
    jobs = jobs_in(tmp_path_factory.mktemp("alone"), trial)
    for job in jobs:
        run_job(job, trainer=trainer)
    return jobs


def check_same(jobs, expected, *, replicas: int | None = SEEDS) -> None:
    near = 1e-6 if jobs[0].trial.recipe == "quick" else 2e-3
    for job, other in zip(jobs, expected, strict=True):
        mine, its = read_result(job.folder), read_result(other.folder)
        assert set(mine) == set(its)
        assert replicas is None or mine["replicas"] == replicas
        numbers = {name: value for name, value in its.items() if isinstance(value, float) and name not in TIMED}
        assert {name: mine[name] for name in numbers} == pytest.approx(numbers, abs=2 * near)
        assert {k for k in mine if mine[k] != its[k]} <= TIMED | set(numbers)
        np.testing.assert_array_equal(read_correct(job.folder), read_correct(other.folder))
        pd.testing.assert_frame_equal(
            pd.read_csv(job.folder / METRICS), pd.read_csv(other.folder / METRICS), rtol=10 * near, atol=near
        )
        weights, known = (torch.load(one.folder / WEIGHTS, weights_only=True) for one in (job, other))
        assert list(weights) == list(known)
        for name in known:
            torch.testing.assert_close(weights[name], known[name], rtol=10 * near, atol=near)
        assert sorted(p.name for p in job.folder.iterdir()) == sorted(p.name for p in other.folder.iterdir())


def test_a_pack_leaves_what_each_run_leaves_alone(trial, trainer, alone, tmp_path):
    jobs = jobs_in(tmp_path, trial)
    outcomes = dict(run_jobs(jobs, lambda progress: None, trainer=trainer))
    assert [outcome.kind for outcome in outcomes.values()] == ["finished"] * SEEDS
    assert outcomes[jobs[1]].result == read_result(jobs[1].folder)
    check_same(jobs, alone)


@pytest.mark.parametrize(
    "trial",
    [pytest.param("quick", marks=pytest.mark.full("v3 has all that quick restores, and more")), "v3"],
    indirect=True,
)
def test_a_pack_killed_between_its_checkpoints_ends_with_the_same_bits(trial, tmp_path, monkeypatch):
    whole, jobs = jobs_in(tmp_path / "whole", trial), jobs_in(tmp_path / "killed", trial)
    list(run_jobs(whole, lambda progress: None))
    replace_file, moved = os.replace, []

    def die(source, target):
        if Path(source).name == NEXT:
            moved.append(source)
            if len(moved) == 4 * SEEDS + 2:
                raise Died
        replace_file(source, target)

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(Died):
        list(run_jobs(jobs, lambda progress: None, checkpoint_s=0))
    monkeypatch.undo()
    assert len({step_of(job.folder / RESUME) for job in jobs}) == 2  # torn
    list(run_jobs(jobs, lambda progress: None))
    for job, other in zip(jobs, whole, strict=True):
        assert read_result(job.folder)["replicas"] == SEEDS
        for name in (WEIGHTS, METRICS):
            assert (job.folder / name).read_bytes() == (other.folder / name).read_bytes()


class Died(BaseException):
    """Ends the code that raises it as suddenly as a kill."""


def die_at(step: int):
    def report(progress):
        if progress.step >= step:
            raise Died

    return report


@pytest.mark.parametrize(
    "trial",
    ["quick", pytest.param("v3", marks=pytest.mark.full("v3 is restored to the same bits above; quick is in 64 bits"))],
    indirect=True,
)
def test_a_pack_that_was_killed_goes_on_as_a_pack_or_alone(trial, trainer, alone, tmp_path):
    for step in (3, 9):
        jobs = jobs_in(tmp_path / "together", trial)
        with pytest.raises(Died):
            list(run_jobs(jobs, die_at(step), trainer=trainer, checkpoint_s=0))
        assert all((job.folder / RESUME).exists() for job in jobs)
    run_job(jobs[1], trainer=trainer)
    check_same([jobs[1]], [alone[1]], replicas=1)
    outcomes = dict(run_jobs(jobs, lambda progress: None, trainer=trainer))
    assert [outcomes[job].kind for job in jobs] == ["finished"] * SEEDS
    check_same(jobs, alone, replicas=None)
    assert read_result(jobs[0].folder)["replicas"] == 2


@pytest.mark.parametrize("trial", ["v3"], indirect=True)  # v3 has more to restore
def test_runs_that_were_killed_alone_go_on_as_a_pack_where_they_are_at_one_step(trial, trainer, alone, tmp_path):
    jobs = jobs_in(tmp_path, trial)
    for job, step in zip(jobs, (5, 5, 10), strict=True):
        with pytest.raises(Died):
            run_job(job, die_at(step), trainer=trainer, checkpoint_s=0)
    list(run_jobs(jobs, lambda progress: None, trainer=trainer))
    check_same(jobs, alone, replicas=None)
    assert [read_result(job.folder)["replicas"] for job in jobs] == [2, 2, 1]


@pytest.mark.parametrize("trial", ["quick"], indirect=True)
def test_a_replica_that_diverges_does_not_hurt_the_others(trial, trainer, alone, tmp_path, monkeypatch):
    from mnet.tasks.pack import Pack

    whole, jobs = Pack.__init__, jobs_in(tmp_path, trial)

    def spoilt(self, members):
        with torch.no_grad():
            next(members[1].net.parameters()).fill_(float("nan"))
        whole(self, members)

    monkeypatch.setattr(Pack, "__init__", spoilt)
    outcomes = dict(run_jobs(jobs, lambda progress: None, trainer=trainer))
    assert [outcomes[job].kind for job in jobs] == ["finished", "failed", "finished"]
    assert "NotFinite" in outcomes[jobs[1]].reason
    check_same([jobs[0], jobs[2]], [alone[0], alone[2]])
    assert not (jobs[1].folder / RESULT).exists()


def test_what_others_hold_or_have_finished_is_left_to_them(trial, trainer, alone, tmp_path):
    jobs = jobs_in(alone[0].root, trial, range(SEEDS + 1))
    with lock(jobs[SEEDS].root, jobs[SEEDS].run_id):
        outcomes = dict(run_jobs(jobs, lambda progress: None, trainer=trainer))
        assert [outcomes[job].kind for job in jobs] == ["finished"] * SEEDS + ["locked"]
        assert json.loads((jobs[0].folder / RESULT).read_text()) == outcomes[jobs[0]].result
        fresh = jobs_in(alone[0].root, trial, (SEEDS, SEEDS + 1))
        outcomes = dict(run_jobs(fresh, lambda progress: None, trainer=trainer))
    assert [outcomes[job].kind for job in fresh] == ["locked"] * 2  # both, so that they stay together
