"""The Slurm engine, with submitit's local cluster in place of Slurm: real processes, real signals."""

import os
import signal
import sys
import time
from dataclasses import asdict, replace

import pytest

from mnet.errors import ConfigError
from mnet.studies import Trial
from mnet.studies.engines.events import Finished, Progressed, Retrying, Started
from mnet.studies.engines.session import Attempt, Began, Update
from mnet.studies.engines.slurm import SlurmBackend, SlurmEngine, _Reporter
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import read_result

submitit = pytest.importorskip("submitit", reason="submitit is not installed: make EXTRAS=slurm setup")

UNSTABLE = {"train_seconds", "images_per_second", "finished", "revision"}


def same(result):
    return {name: value for name, value in result.items() if name not in UNSTABLE}


@pytest.fixture
def tiny(images, tiny_model) -> Trial:
    return Trial(dataset="imagefolder", data_dir=images, resolution=28, model=tiny_model, batch_size=16, epochs=2)


def test_a_trial_that_slurm_stops_is_queued_again_and_resumes_to_the_same_result(tiny, tmp_path):
    def stopped_once(job, report, /, **options):
        """Real training, which gets Slurm's signal after three steps."""
        from mnet.studies.runs import callbacks, run

        callbacks.REPORT_SECONDS = 0.0
        log = tmp_path / "steps"
        second = log.exists()

        def watched(progress):
            with log.open("a") as stream:
                stream.write(f"{progress.step} ")
            if progress.step == 3 and not second:
                while not (tmp_path / "reported").exists():  # until the engine has read that it began
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGUSR2)
            return report(progress)

        return run.run_job(job, watched, **options)

    events, job = [], Job(tiny, tmp_path / "results", "tiny")

    def collect(event):
        events.append(event)
        (tmp_path / "reported").touch()

    engine = SlurmEngine(folder=tmp_path / "slurm", cluster="local", checkpoint_s=0.0, poll_s=0.2, run_job=stopped_once)
    engine.run([job], collect)
    kinds = [type(event) for event in events if not isinstance(event, Progressed)]
    assert kinds == [Started, Retrying, Started, Finished]
    assert (tmp_path / "steps").read_text().startswith("1 2 3 3 4 ")  # from the checkpoint of step 2
    assert same(read_result(job.folder)) == same(run_job(Job(tiny, tmp_path / "undisturbed", "tiny")))
    assert not list((job.root / ".slurm").glob("*.progress"))


def test_reports_are_read_as_json_and_half_a_file_is_not_read(tiny, tmp_path):
    backend, job = SlurmBackend(SlurmEngine()), Job(tiny, tmp_path, "tiny")
    path = tmp_path / ".slurm" / f"{job.run_id}.progress"
    report = _Reporter(job)
    assert backend._report(job) == []
    report.write(None)
    assert backend._report(job) == [Update(job, Began())]
    assert backend._report(job) == []
    report.write(asdict(Progress(1, 2, 50.0, "top1")))
    assert backend._report(job) == [Update(job, Progress(1, 2, 50.0, "top1"))]
    path.write_text('{"step": 1')
    assert backend._report(job) == []


def test_a_study_is_one_array_job_with_what_was_asked_for(tiny, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (("srun", ""), ("sbatch", f"cp $1 {tmp_path}/script; echo Submitted batch job 7")):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    jobs = [Job(replace(tiny, seed=seed), tmp_path / "results", "tiny") for seed in range(3)]
    engine = SlurmEngine(partition="gpu", gpus=1.0, folder=tmp_path / "slurm")
    backend, attempts = SlurmBackend(engine), [Attempt((job,)) for job in jobs]
    assert backend.submit(attempts) == attempts
    assert [backend.running[job].job_id for job in jobs] == ["7_0", "7_1", "7_2"]
    script = (tmp_path / "script").read_text()
    for line in ("array=0-2%3", "partition=gpu", "time=240", "cpus-per-task=1", "gpus-per-node=1", "mem=4GB"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --signal=USR2@" in script
    submitted = backend.running[jobs[2]].submission()
    assert submitted.args == (jobs[2],)
    assert submitted.function.checkpoint(jobs[2]).args == (jobs[2],)


def test_without_slurm_or_with_gpus_that_it_cannot_give_the_error_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = [Job(tiny, tmp_path, "tiny")]
    with pytest.raises(ConfigError, match=r"Slurm cannot take the jobs: .*srun"):
        SlurmEngine(folder=tmp_path / "slurm").run(jobs, print)
    with pytest.raises(ConfigError, match=r"whole GPUs, not 0\.5"):
        SlurmEngine(gpus=0.5)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnet\[slurm\]'"):
        SlurmEngine().run(jobs, print)
