"""The local engine, with stand-ins for training: what it does where trials die, hang, or need more than there is."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mnet.studies import Trial
from mnet.studies.engines import Event
from mnet.studies.engines.estimate import memory_bytes
from mnet.studies.engines.local import LocalEngine, Session, default_workers
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import Busy, lock, read_failure

TRIAL = Trial(width=0.25)


def jobs_in(root: Path, count: int) -> list[Job]:
    return [Job(Trial(width=0.25, seed=seed), root, "study") for seed in range(count)]


def run(jobs, run_job, **settings):
    """Kinds of events by seed, and all events."""
    events = []
    LocalEngine(run_job=run_job, **settings).run(jobs, events.append)
    kinds = {job.trial.seed: [event.kind for event in events if event.job == job] for job in jobs}
    return kinds, events


def mark(job, name: str) -> Path:
    path = job.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def with_company(job, report, **_):
    """Says when it ran; seed 1 is killed while another runs, as the system does where memory ends."""
    with (job.root / "log").open("a") as log:
        log.write(f"{job.trial.seed} {time.monotonic()}\n")
    if job.trial.seed == 1 and not (job.root / "once").exists():
        mark(job, "once")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    with (job.root / "log").open("a") as log:
        log.write(f"{job.trial.seed} {time.monotonic()}\n")
    return {"top1": 1.0}


def test_a_trial_that_ran_out_of_memory_is_tried_once_more_alone(tmp_path):
    kinds, _ = run(jobs_in(tmp_path, 4), with_company, workers=2)
    assert kinds[1] == ["started", "retrying", "started", "finished"]
    assert all(kinds[seed] == ["started", "finished"] for seed in (0, 2, 3))
    spans: dict[str, list[float]] = {}
    for line in (tmp_path / "log").read_text().splitlines():
        seed, when = line.split()
        spans.setdefault(seed, []).append(float(when))
    assert max(when for seed in "023" for when in spans[seed]) <= spans["1"][-2]  # all others had ended


def without_memory(job, report, **_):
    if job.trial.seed == 0:
        raise MemoryError("no more")
    return {"top1": 1.0}


def test_one_that_runs_out_of_memory_alone_too_has_failed_with_its_reason(tmp_path):
    jobs = jobs_in(tmp_path, 3)
    kinds, events = run(jobs, without_memory, workers=2)
    assert kinds[0] == ["started", "retrying", "started", "failed"]
    assert kinds[1] == kinds[2] == ["started", "finished"]
    assert events[-1].content == read_failure(jobs[0].folder) == "MemoryError: no more"


def crashing(job, report, **_):
    if job.trial.seed == 0:
        os._exit(3)
    return {"top1": 1.0}


def test_a_process_that_dies_is_named_and_replaced(tmp_path):
    kinds, events = run(jobs_in(tmp_path, 3), crashing, workers=1)
    assert kinds == {0: ["started", "failed"], 1: ["started", "finished"], 2: ["started", "finished"]}
    assert next(event for event in events if event.kind == "failed").content == "its process died (exit code 3)"


def hanging(job, report, **_):
    report(Progress(7, 10, 50.0))
    time.sleep(3.5 if job.trial.seed == 0 else 0)
    return {"top1": 1.0}


def test_a_trial_without_a_sign_of_life_is_named(tmp_path):
    kinds, events = run(jobs_in(tmp_path, 2), hanging, workers=2, stalled_s=1.0)
    begun = [kinds[seed][kinds[seed].index("started") :] for seed in (0, 1)]  # a worker may be slow to start
    assert begun[0] == ["started", "progress", "stalled", "stalled", "finished"]  # after 1 s and 2 s
    assert begun[1] == ["started", "progress", "finished"]
    assert all(event.content >= 1 for event in events if event.kind == "stalled")


def counting(job, report, **_):
    """Waits for as much company as there may be, since processes are slow to start, then for any beyond that."""
    mine, reached = mark(job, f"running/{job.trial.seed}"), job.root / "reached"
    most, until = int((job.root / "most").read_text()), time.monotonic() + 10
    while not reached.exists() and time.monotonic() < until:
        if len(list(mine.parent.iterdir())) >= most:
            reached.touch()
        time.sleep(0.01)
    time.sleep(0.4)
    together = len(list(mine.parent.iterdir()))
    mine.unlink()
    return {"top1": 1.0, "together": together}


@pytest.mark.parametrize(("room", "most"), [(1.5, 1), (3.5, 3)])
def test_as_many_trials_run_as_memory_has_room_for(tmp_path, room, most):
    (tmp_path / "most").write_text(str(most))
    _, events = run(jobs_in(tmp_path, 6), counting, workers=4, memory=int(room * memory_bytes(TRIAL)))
    assert max(event.content["together"] for event in events if event.kind == "finished") == most


def elsewhere(job, report, **_):
    with lock(job.root, job.run_id):
        return {"top1": 1.0}


def test_a_run_that_another_process_holds_is_waited_for(tmp_path):
    jobs = jobs_in(tmp_path, 2)
    events, held = [], lock(tmp_path, jobs[0].run_id)
    held.__enter__()

    def tell(event):
        events.append(event)
        if event.kind == "locked" and len(events) > 4:
            held.__exit__(None, None, None)

    LocalEngine(run_job=elsewhere, workers=1).run(jobs, tell)
    kinds = [event.kind for event in events if event.job == jobs[0]]
    assert kinds[:3] == ["started", "locked", "started"]
    assert kinds[-1] == "finished"
    with lock(tmp_path, "x"), pytest.raises(Busy), lock(tmp_path, "x"):
        pass


def asked(job, report, **_):
    for step in range(600):
        if report(Progress(step, 600, 0.0)):
            mark(job, "stopped")
            raise RuntimeError("stopped")
        time.sleep(0.05)


def test_ctrl_c_lets_running_trials_stop_where_they_can_go_on(tmp_path):
    def tell(event):
        if event.kind == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalEngine(run_job=asked, workers=1).run(jobs_in(tmp_path, 1), tell)
    assert (tmp_path / "stopped").exists()


def test_there_is_a_worker_for_every_core():
    assert default_workers() >= 1


def test_what_is_told_of_a_pack_is_not_told_of_its_members_that_are_finished(tmp_path):
    """Else they would be counted twice in the time left."""
    jobs, told = jobs_in(tmp_path, 2), []
    session, worker = (
        SimpleNamespace(tell=told.append, single=False, team=[1, 2]),
        SimpleNamespace(jobs=list(jobs), given=jobs),
    )
    for kind, job in (("progress", 0), ("finished", 0), ("progress", 0), ("progress", 1)):
        Session.hear(session, worker, Event(kind, jobs[job]))
    assert [(event.kind, event.job.trial.seed) for event in told] == [("progress", 0), ("finished", 0), ("progress", 1)]


def at_once(job, report, **_):
    return {"top1": 1.0}


def test_idle_workers_end_by_themselves(tmp_path):
    """Whatever they hold is given back, as the semaphores of a compiler are."""
    session = Session(LocalEngine(run_job=at_once, workers=2), jobs_in(tmp_path, 3), lambda event: None)
    session.run()
    assert [worker.process.exitcode for worker in session.team] == [0, 0]
