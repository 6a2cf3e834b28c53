"""A backend whose attempts follow a script, on its own clock."""

from collections.abc import Sequence

from mnet.studies.engines.session import Attempt, Update
from mnet.studies.runs.job import Job


class ScriptedBackend:
    """A backend for `Session`.

    Args:
        scripts: Seed -> what each attempt at its job reports: one item per second; a number is seconds of silence.
        places: Jobs that run side by side.
        isolated: As `Backend.isolated`.
    """

    lost = "its machine was lost"

    def __init__(self, scripts: dict[int, Sequence[Sequence[object]]], *, places: int = 9, isolated: bool = False):
        self.scripts = {seed: [list(attempt) for attempt in attempts] for seed, attempts in scripts.items()}
        self.places, self.isolated = places, isolated
        self.now = 0.0
        self.running: dict[Job, list[object]] = {}
        self.attempts: list[Attempt] = []
        self.started: list[tuple[float, int]] = []
        self.stops = 0

    def submit(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        submitted = []
        for attempt in attempts:
            if len(self.running) < self.places and not (attempt.alone and self.running):
                self.running |= {job: self.scripts[job.trial.seed].pop(0) for job in attempt.jobs}
                self.started += [(self.now, job.trial.seed) for job in attempt.jobs]
                submitted.append(attempt)
        self.attempts += submitted
        return submitted

    def poll(self, timeout_s: float) -> list[Update]:
        assert self.running, "nothing to wait for"
        self.sleep(timeout_s)
        updates = []
        for job, script in list(self.running.items()):
            if isinstance(script[0], int):
                script[0] -= 1
                if not script[0]:
                    script.pop(0)
                continue
            content = script.pop(0)
            updates.append(Update(job, content))
            if not script:
                del self.running[job]
        return updates

    def stop(self) -> None:
        self.stops += 1

    def sleep(self, seconds: float) -> None:
        self.now += seconds
