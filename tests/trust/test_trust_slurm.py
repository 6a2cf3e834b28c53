"""Users who may write into a shared results folder cannot run code in the driver of a Slurm study."""

import pickle
from pathlib import Path

import pytest
from support.attack import Attack

from mnet.errors import ConfigError
from mnet.studies import Trial
from mnet.studies.engines.session import Attempt
from mnet.studies.engines.slurm import SlurmBackend, SlurmEngine
from mnet.studies.runs.job import Job

pytest.importorskip("submitit", reason="submitit is not installed: make EXTRAS=slurm setup")


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(Trial(), tmp_path / "results", "activation")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Fake programs of Slurm: the next job is number 7, and it has ended."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (("srun", ""), ("sbatch", "echo Submitted batch job 7"), ("sacct", "echo 'JobID|State'")):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_pickle_in_the_results_folder_is_never_read(job, slurm, tmp_path):
    marker, planted = tmp_path / "code ran", job.root / ".slurm" / "7"
    planted.mkdir(parents=True)
    (planted / "7_0_result.pkl").write_bytes(pickle.dumps(Attack(marker)))
    (planted.parent / f"{job.run_id}.progress").write_bytes(pickle.dumps(Attack(marker)))
    backend = SlurmBackend(SlurmEngine())
    backend.submit([Attempt((job,))])
    (planted.parent / f"{job.run_id}.progress").write_bytes(pickle.dumps(Attack(marker)))
    backend.poll(0)
    assert not marker.exists()
    assert backend.running[job].paths.folder.is_relative_to(tmp_path / "home")
    assert (tmp_path / "home/.mnet/slurm").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_enter_or_have_made_is_refused_before_anything_is_submitted(
    job, slurm, tmp_path, monkeypatch
):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("shared", "link"):
        with pytest.raises(ConfigError, match=f"{name} must be a folder for this user only"):
            SlurmEngine(folder=tmp_path / name).run([job], print)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="owner 12345"):
        SlurmEngine(folder=tmp_path / "elsewhere").run([job], print)


@pytest.mark.parametrize("content", ['["a"]', "5", '{"step": []}', '{"steps": 3}', "\x00"])
def test_a_report_that_is_none_is_passed_over(content, job):
    path = job.root / ".slurm" / f"{job.run_id}.progress"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert SlurmBackend(SlurmEngine())._report(job) == []
