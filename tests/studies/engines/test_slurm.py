"""The Slurm engine, with submitit's local cluster in the place of Slurm: real processes, real signals."""

import os
import signal
import sys
import time
from dataclasses import replace

import pytest

from mnet.errors import ConfigError
from mnet.studies import Trial
from mnet.studies.engines.slurm import SlurmEngine
from mnet.studies.runs.job import Job
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import read_failure, read_result

submitit = pytest.importorskip("submitit", reason="submitit is not installed: make EXTRAS=slurm setup")

UNSTABLE = {"train_seconds", "images_per_second", "finished", "revision"}


def same(result):
    return {name: value for name, value in result.items() if name not in UNSTABLE}


@pytest.fixture
def tiny(images, tiny_model) -> Trial:
    return Trial(dataset="imagefolder", data_dir=images, resolution=28, model=tiny_model, batch_size=16, epochs=2)


def test_a_trial_that_slurm_stops_is_queued_again_and_goes_on_to_the_same_numbers(tiny, tmp_path):
    def stopped_once(job, report, **options):
        """Real training, which gets Slurm's signal after three steps."""
        from mnet.studies.runs import callbacks, run

        callbacks.REPORT_SECONDS = 0.0
        seen = tmp_path / f"steps {job.trial.seed}"
        again = seen.exists()

        def watched(progress):
            with seen.open("a") as stream:
                stream.write(f"{progress.step} ")
            if progress.step == 3 and job.trial.seed == 0 and not again:
                while not (tmp_path / "started").exists():  # the driver has yet to see that it runs
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGUSR2)
            return report(progress)

        return run.run_job(job, watched, **options)

    events, trials = [], [tiny, replace(tiny, seed=1, lr=1e30)]
    jobs = [Job(trial, tmp_path / "results", "tiny") for trial in trials]
    engine = SlurmEngine(minutes=5, cluster="local", checkpoint_s=0.0, poll_s=0.2, run_job=stopped_once)

    def keep(event):
        events.append(event)
        if event.kind == "started" and event.job == jobs[0]:
            (tmp_path / "started").touch()

    engine.run(jobs, keep)
    kinds = [event.kind for event in events if event.job == jobs[0] and event.kind != "progress"]
    assert kinds == ["started", "retrying", "started", "finished"]
    assert (tmp_path / "steps 0").read_text().startswith("1 2 3 3 4 ")  # from the checkpoint of step 2
    assert same(read_result(jobs[0].folder)) == same(run_job(Job(tiny, tmp_path / "undisturbed", "tiny")))
    (failed,) = [event for event in events if event.kind == "failed"]
    assert failed.job == jobs[1]
    assert failed.content.startswith("NotFinite: the loss is")
    assert read_failure(jobs[1].folder) == failed.content


def test_a_process_that_dies_is_named_with_its_log_and_one_that_is_busy_is_looked_at_again(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.engines.slurm.LOCKED_SECONDS", 0.1)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)

    def stand_in(job, report, **options):
        from mnet.studies.runs.store import Busy

        marker = tmp_path / "busy"
        if job.trial.seed == 0:
            os._exit(3)
        if not marker.exists():
            marker.touch()
            raise Busy("another process works on it")
        return {"top1": 1.0}

    events, jobs = [], [Job(replace(tiny, seed=seed), tmp_path / "results", "tiny") for seed in (0, 1)]
    SlurmEngine(cluster="local", poll_s=0.2, run_job=stand_in).run(jobs, events.append)
    last = {event.job.trial.seed: event for event in events}
    assert last[0].kind == "failed"
    assert last[0].content.startswith("its process died: ")
    assert "results/.slurm" in last[0].content
    assert (last[1].kind, last[1].content) == ("finished", {"top1": 1.0})
    assert "locked" in [event.kind for event in events if event.job == jobs[1]]


def test_a_study_is_one_array_job_with_what_was_asked_for(tiny, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (("srun", ""), ("sbatch", f"cp $1 {tmp_path}/script; echo Submitted batch job 7")):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    jobs = [Job(replace(tiny, seed=seed), tmp_path / "results", "tiny") for seed in range(3)]
    engine = SlurmEngine("gpu", 60, cpus=2, gpus=1.0, parallel=2, parameters={"slurm_account": "vision"})
    tasks = engine.submit(jobs)
    assert [tasks[job].job_id for job in jobs] == ["7_0", "7_1", "7_2"]
    script = (tmp_path / "script").read_text()
    for line in ("array=0-2%2", "partition=gpu", "time=60", "cpus-per-task=2", "gpus-per-node=1", "account=vision"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --signal=USR2@" in script
    submitted = tasks[jobs[2]].submission()
    assert submitted.args == (jobs[2],)
    assert submitted.function.checkpoint(jobs[2]).args == (jobs[2],)


def test_without_slurm_or_with_a_parameter_it_does_not_know_the_error_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = [Job(tiny, tmp_path, "tiny")]
    with pytest.raises(ConfigError, match=r"Slurm cannot take the jobs: .*srun"):
        SlurmEngine().run(jobs, print)
    with pytest.raises(ConfigError, match=r"slurm_acount"):
        SlurmEngine(cluster="local", parameters={"slurm_acount": "x"}).run(jobs, print)
    with pytest.raises(ConfigError, match=r"whole GPUs, not 0\.5"):
        SlurmEngine(gpus=0.5)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnet\[slurm\]'"):
        SlurmEngine().run(jobs, print)
