"""The loop that all engines share, on a scripted backend and its clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.scripted_backend import ScriptedBackend

from mnet.studies import Trial
from mnet.studies.engines.events import Failed, Finished, Locked, Progressed, Retrying, Stalled, Started
from mnet.studies.engines.session import Began, Session
from mnet.studies.runs.job import Job, Outcome
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import read_failure

BEGAN = Began()
PROGRESS = Progress(7, 10, 50.0)
FINISHED = Outcome("finished", result={"top1": 1.0})
LOCKED = Outcome("locked", reason="another process works on run x")
OUT_OF_MEMORY = Outcome("out_of_memory", reason="MemoryError: no more")
FAILED = Outcome("failed", reason="ValueError: no such layer", trace="Traceback: …")


def jobs_in(root: Path, seeds: int, pack_size: int = 1) -> list[Job]:
    return [Job(Trial(width=0.25, seed=seed), root, "study", pack_size) for seed in range(seeds)]


def run(backend: ScriptedBackend, jobs: list[Job], on_event: Callable[[object], object] = lambda event: None) -> dict:
    """Events by seed."""
    events: dict[int, list] = {job.trial.seed: [] for job in jobs}

    def collect(event) -> None:
        events[event.job.trial.seed].append(event)
        on_event(event)

    clock = {"clock": lambda: backend.now, "sleep": backend.sleep}
    Session(backend, collect, poll_s=1.0, locked_s=10.0, stalled_s=60.0, **clock).run(jobs)
    return events


def test_each_job_is_reported_from_its_start_to_its_end_and_a_failure_stops_no_other(tmp_path):
    jobs = jobs_in(tmp_path, 2)
    backend = ScriptedBackend({0: [[BEGAN, PROGRESS, FINISHED]], 1: [[BEGAN, FAILED]]})
    events = run(backend, jobs)
    assert events[0] == [Started(jobs[0]), Progressed(jobs[0], PROGRESS), Finished(jobs[0], {"top1": 1.0})]
    assert events[1] == [Started(jobs[1]), Failed(jobs[1], "ValueError: no such layer")]
    assert read_failure(jobs[1].folder) == "ValueError: no such layer"
    assert "Traceback" in (jobs[1].folder / "failure.json").read_text()
    assert not jobs[0].folder.exists()
    assert backend.stops == 1


def test_jobs_begin_in_their_order_as_places_become_free(tmp_path):
    backend = ScriptedBackend({seed: [[BEGAN, length, FINISHED]] for seed, length in enumerate((5, 1, 1, 1))}, places=2)
    run(backend, jobs_in(tmp_path, 4))
    assert [seed for _, seed in backend.started] == [0, 1, 2, 3]
    assert [when for when, _ in backend.started][:2] == [0.0, 0.0]
    assert backend.started[2][0] == 3.0  # job 1: started, a second without a report, finished


def test_a_start_that_was_not_reported_is_reported_before_what_follows_it(tmp_path):
    jobs = jobs_in(tmp_path, 2)
    events = run(ScriptedBackend({0: [[PROGRESS, FINISHED]], 1: [[FAILED]]}), jobs)
    assert events[0][:2] == [Started(jobs[0]), Progressed(jobs[0], PROGRESS)]
    assert [type(event) for event in events[1]] == [Started, Failed]


def test_a_job_that_begins_again_was_lost(tmp_path):
    jobs = jobs_in(tmp_path, 1)
    events = run(ScriptedBackend({0: [[BEGAN, PROGRESS, BEGAN, FINISHED]]}), jobs)
    retrying = Retrying(jobs[0], "its machine was lost")
    assert events[0] == [
        Started(jobs[0]),
        Progressed(jobs[0], PROGRESS),
        retrying,
        Started(jobs[0]),
        Finished(jobs[0], {"top1": 1.0}),
    ]


def test_out_of_memory_is_tried_once_more_alone_after_the_others(tmp_path):
    jobs = jobs_in(tmp_path, 3)
    backend = ScriptedBackend(
        {0: [[BEGAN, OUT_OF_MEMORY], [BEGAN, FINISHED]], 1: [[BEGAN, 5, FINISHED]], 2: [[BEGAN, FINISHED]]}
    )
    events = run(backend, jobs)
    assert [type(event) for event in events[0]] == [Started, Retrying, Started, Finished]
    assert events[0][1].reason == "MemoryError: no more"
    assert [attempt.alone for attempt in backend.attempts] == [False, False, False, True]
    assert backend.started[-1] == (7.0, 0)  # when job 1 has ended


def test_out_of_memory_alone_has_failed(tmp_path):
    jobs = jobs_in(tmp_path, 1)
    events = run(ScriptedBackend({0: [[BEGAN, OUT_OF_MEMORY], [BEGAN, OUT_OF_MEMORY]]}), jobs)
    assert [type(event) for event in events[0]] == [Started, Retrying, Started, Failed]
    assert read_failure(jobs[0].folder) == "MemoryError: no more"
    isolated = run(ScriptedBackend({0: [[BEGAN, OUT_OF_MEMORY]]}, isolated=True), jobs)
    assert [type(event) for event in isolated[0]] == [Started, Failed]


def test_a_run_that_another_process_trains_is_tried_again_later(tmp_path):
    backend = ScriptedBackend({0: [[BEGAN, LOCKED], [BEGAN, LOCKED], [BEGAN, FINISHED]]})
    events = run(backend, jobs_in(tmp_path, 1))
    assert [type(event) for event in events[0]] == [Started, Locked] * 2 + [Started, Finished]
    assert [when for when, _ in backend.started] == [0.0, 12.0, 24.0]  # 10 seconds after each answer
    assert not any(attempt.alone for attempt in backend.attempts)


def test_a_stall_is_reported_after_a_minute_and_at_every_doubling(tmp_path):
    backend = ScriptedBackend({0: [[BEGAN, 250, PROGRESS, 70, FINISHED]], 1: [[BEGAN, *[PROGRESS] * 300, FINISHED]]})
    events = run(backend, jobs_in(tmp_path, 2))
    assert [event.seconds for event in events[0] if isinstance(event, Stalled)] == [60.0, 120.0, 240.0, 60.0]
    assert not any(isinstance(event, Stalled) for event in events[1])


def test_seeds_that_are_planned_as_one_network_are_one_attempt(tmp_path):
    jobs = jobs_in(tmp_path, 4, pack_size=3)
    backend = ScriptedBackend({seed: [[BEGAN, FINISHED]] for seed in range(4)})
    run(backend, jobs)
    assert [[job.trial.seed for job in attempt.jobs] for attempt in backend.attempts] == [[0, 2], [1, 3]]


def test_a_pack_out_of_memory_is_retried_one_by_one_and_a_locked_one_together(tmp_path):
    jobs = jobs_in(tmp_path, 2, pack_size=2)
    backend = ScriptedBackend(
        {seed: [[BEGAN, OUT_OF_MEMORY], [BEGAN, LOCKED], [BEGAN, FINISHED]] for seed in (0, 1)}, places=2
    )
    backend.isolated = True  # the pack's jobs still share its memory
    run(backend, jobs)
    assert [[job.trial.seed for job in attempt.jobs] for attempt in backend.attempts[:3]] == [[0, 1], [0], [1]]
    backend = ScriptedBackend({seed: [[BEGAN, LOCKED], [BEGAN, FINISHED]] for seed in (0, 1)})
    run(backend, jobs)
    assert [len(attempt.jobs) for attempt in backend.attempts] == [2, 2]


def test_progress_of_a_pack_is_not_reported_for_its_jobs_that_have_ended(tmp_path):
    """They would be counted twice in the time left."""
    jobs = jobs_in(tmp_path, 2, pack_size=2)
    backend = ScriptedBackend({0: [[BEGAN, FINISHED, PROGRESS, PROGRESS]], 1: [[BEGAN, PROGRESS, PROGRESS, FINISHED]]})
    events = run(backend, jobs)
    assert [type(event) for event in events[0]] == [Started, Finished]
    assert [type(event) for event in events[1]] == [Started, Progressed, Progressed, Finished]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whatever_ends_the_loop_the_backend_is_stopped(tmp_path, error):
    def interrupt(event) -> None:
        if isinstance(event, Progressed):
            raise error

    backend = ScriptedBackend({0: [[BEGAN, PROGRESS, FINISHED]]})
    with pytest.raises(error):
        run(backend, jobs_in(tmp_path, 1), interrupt)
    assert backend.stops == 1
