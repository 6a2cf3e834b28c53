"""The local engine's processes, with stand-ins for training: memory, deaths, and how they end."""

import os
import signal
import time
from pathlib import Path

import pytest

from mnet.studies import Trial
from mnet.studies.engines.estimate import trial_bytes
from mnet.studies.engines.events import Failed, Finished, Retrying, Started
from mnet.studies.engines.local import LocalBackend, LocalEngine, default_workers
from mnet.studies.engines.session import Attempt, Session
from mnet.studies.runs.job import Job

TRIAL = Trial(width=0.25)
GUARD_S = 300
"""Seconds after which a waiting stand-in gives up; this ends one that hangs, and is no test of speed."""


def jobs_in(root: Path, count: int) -> list[Job]:
    return [Job(Trial(width=0.25, seed=seed), root, "study") for seed in range(count)]


def run(jobs, run_job, **settings) -> dict[int, list]:
    """Events by seed."""
    events = {job.trial.seed: [] for job in jobs}
    LocalEngine(run_job=run_job, **settings).run(jobs, lambda event: events[event.job.trial.seed].append(event))
    return events


def touch(job: Job, name: str) -> Path:
    path = job.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def running(job: Job) -> list[Path]:
    return list((job.root / "running").glob("*"))


def at_once(job, report, **_):
    return {"top1": 1.0}


def killed_beside_another(job, report, **_):
    """Seed 1 is killed while another runs, as the system does when memory runs out."""
    mark, deadline = touch(job, f"running/{job.trial.seed}"), time.monotonic() + GUARD_S
    if job.trial.seed == 1 and not (job.root / "killed").exists():
        while len(running(job)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        touch(job, "killed")
        mark.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    while job.trial.seed == 0 and not (job.root / "killed").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    beside = len(running(job)) - 1
    mark.unlink()
    return {"top1": 1.0, "beside": beside}


def test_a_trial_that_was_killed_is_tried_once_more_with_nothing_beside_it(tmp_path):
    events = run(jobs_in(tmp_path, 4), killed_beside_another, workers=2)
    assert [type(event) for event in events[1]] == [Started, Retrying, Started, Finished]
    assert events[1][1].reason == "its process died (exit code -9)"
    assert events[1][-1].result["beside"] == 0
    assert all([type(event) for event in events[seed]] == [Started, Finished] for seed in (0, 2, 3))


def crashing(job, report, **_):
    if job.trial.seed == 0:
        os._exit(3)
    return {"top1": 1.0}


def test_a_process_that_dies_is_replaced(tmp_path):
    events = run(jobs_in(tmp_path, 2), crashing, workers=1)
    assert events[0][-1] == Failed(events[0][-1].job, "its process died (exit code 3)")
    assert isinstance(events[1][-1], Finished)


class NoProcess:
    """Replaces a worker: takes an attempt and keeps it."""

    def __init__(self, *_: object) -> None:
        self.jobs, self.attempt = [], Attempt(())

    def submit(self, attempt: Attempt) -> None:
        self.attempt, self.jobs = attempt, list(attempt.jobs)


@pytest.mark.parametrize(("room", "expected"), [(0.5, 1), (1.5, 1), (3.5, 3), (9.0, 4)])
def test_as_many_trials_run_as_memory_and_workers_have_room_for(tmp_path, monkeypatch, room, expected):
    monkeypatch.setattr("mnet.studies.engines.local.Worker", NoProcess)
    attempts = [Attempt((job,)) for job in jobs_in(tmp_path, 6)]
    backend = LocalBackend(LocalEngine(workers=4, memory=int(room * trial_bytes(TRIAL))), len(attempts))
    assert backend.submit(attempts) == attempts[:expected]


def test_memory_decides_which_attempts_begin(tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.engines.local.Worker", NoProcess)
    small, large = Trial(width=0.25), Trial(model="mobilenet_v2", total_stride=8)
    attempts = {
        name: Attempt((Job(trial, tmp_path, "study"),), alone=name == "alone")
        for name, trial in {"large": large, "next": large, "small": small, "alone": small}.items()
    }
    room = trial_bytes(large) + trial_bytes(small)
    backend = LocalBackend(LocalEngine(workers=4, memory=room), attempts=4)
    assert backend.submit(list(attempts.values())) == [attempts["large"], attempts["small"]]  # the small one overtakes
    backend.workers[0].jobs = []
    assert backend.submit([attempts["alone"]]) == []  # small still runs
    backend.workers[1].jobs = []
    assert backend.submit([attempts["alone"], attempts["next"]]) == [attempts["alone"]]


def test_there_is_a_worker_for_every_core_but_not_more_than_attempts(monkeypatch):
    monkeypatch.setattr("mnet.studies.engines.local.Worker", NoProcess)
    assert default_workers() >= 1
    assert len(LocalBackend(LocalEngine(workers=3), attempts=5).workers) == 3
    assert len(LocalBackend(LocalEngine(workers=3), attempts=2).workers) == 2
    assert LocalBackend(LocalEngine(workers=3), attempts=1).isolated


def test_idle_workers_end_by_themselves(tmp_path):
    """They release what they hold, such as the semaphores of a compiler."""
    jobs = jobs_in(tmp_path, 3)
    backend = LocalBackend(LocalEngine(workers=2, run_job=at_once), len(jobs))
    Session(backend, lambda event: None, poll_s=1.0, locked_s=1.0).run(jobs)
    assert [worker.process.exitcode for worker in backend.workers] == [0, 0]
