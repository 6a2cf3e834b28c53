"""The part of experiments/gpu.py that decides open claims: what it trains, in which order, and when it stops."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from benchmarks.gpu import answers, part
from common.sweeps import CLAIMS_FILE

from mnet.files import write_json
from mnet.studies.claims.claims import load_claims
from mnet.studies.engines.estimate import workload
from mnet.studies.engines.events import Finished, Progressed, Retrying, Started
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import RESULT, write_config

DATA = Path(__file__).parents[2] / "data"
IDS = ("v3-small-minimalistic-accuracy", "v3-small-vs-v2-accuracy", "v3-small-vs-thin-large", "v1-width-075")
CLAIMS = [claim for claim in load_claims(CLAIMS_FILE) if claim.id in IDS]
CELLS = [  # name, millions of multiply-adds, and claims that are decided once it is trained
    ("model=mobilenet_v2 width=0.35", 3.96, ()),
    ("model=mobilenet_v3_large, width=0.35", 3.25, ()),
    ("model=mobilenet_v3_small", 4.93, IDS[1:3]),
    ("model=mobilenet_v3_small se=false activation=relu kernel=3", 4.17, IDS[:1]),
    ("model=mobilenet_v1, width=0.35", 5.64, ()),
    ("model=mobilenet_v1, width=0.2625", 3.13, IDS[3:]),
]
SECOND_PER_MADD = 1e-6


class TimedEngine:
    """Trains nothing, but advances a clock by the time that the arithmetic of the runs takes."""

    def __init__(self, clock: SimpleNamespace, largest_pack: int = 99, noise: int = 0) -> None:
        self.clock, self.largest_pack, self.noise = clock, largest_pack, noise
        self.cells: list[str] = []
        """Network and pack size of each call."""

    def run(self, jobs, on_event) -> None:
        trial = jobs[0].trial
        self.cells.append(f"{trial.model} {trial.width} {jobs[0].pack_size}")
        if jobs[0].pack_size > self.largest_pack:
            on_event(Retrying(jobs[0], "out of memory"))
        for step in range(10):
            self.clock.now += workload(trial).madds * SECOND_PER_MADD * len(jobs) / 10
            for job in jobs:
                on_event(Progressed(job, Progress(step, 10, 50.0)) if step else Started(job))
        for job in jobs:
            accuracy = 90.0 + (job.trial.activation == "relu")
            accuracy += self.noise * (job.trial.seed % 2) * (job.trial.width == 0.2625)
            result = {"top1": accuracy, "epochs": 2, "resolution": 28, "params": 1, "madds": 1, "train_seconds": 1.0}
            write_config(job.trial, job.folder, None)
            write_json(job.folder / RESULT, {**result, "format": 2})
            on_event(Finished(job, result))


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Calls the part on the claims of `IDS`, with three seeds first, on a clock that starts at 0."""
    monkeypatch.setattr(answers, "SEEDS", (3, 4))
    monkeypatch.setattr(answers, "LOOKS", (3, 4))
    monkeypatch.setattr(answers, "open_claims", lambda rehearse: CLAIMS)
    monkeypatch.setattr(answers, "read_data", lambda jobs: {})
    monkeypatch.setattr(answers, "start_worker_server", lambda: None)

    def call(seconds: float, **behaviour: int) -> tuple[float, list[str]]:
        clock = SimpleNamespace(now=0.0)
        engine = TimedEngine(clock, **behaviour)
        monkeypatch.setattr(part, "time", SimpleNamespace(monotonic=lambda: clock.now))
        monkeypatch.setattr(answers, "make_engine", lambda name, **settings: engine)
        answers.run(part.Settings(out=tmp_path, data_dir=DATA, device="cpu", seconds=seconds, started=0.0))
        return clock.now, engine.cells

    return call


def test_the_cheapest_claims_come_first_and_share_their_networks(tmp_path):
    settings = part.Settings(out=tmp_path, data_dir=DATA, device="cpu", seconds=1.0)
    order = answers.plan_cells(CLAIMS, answers.load_studies(CLAIMS, settings, 16))
    found = [(planned.cell.name, round(planned.work.madds / 1e6, 2), planned.decides) for planned in order]
    assert found == CELLS
    assert {trial.seed for planned in order for trial in planned.cell.trials} == set(range(16))


def test_cells_that_would_not_end_in_time_are_left_out_and_a_second_call_trains_only_them(start, tmp_path, capsys):
    seconds = sum(3 * madds for _, madds, _ in CELLS[:4])
    ended, cells = start(seconds + answers.RESERVE_S + 5)
    assert len(cells) == 4
    assert ended == pytest.approx(seconds, rel=0.01)
    assert capsys.readouterr().out.count("left out, it needs about") == 2
    table = pd.read_csv(tmp_path / "answers.csv").set_index("id")
    assert set(table.index) == set(IDS[:3])
    assert table.loc[IDS[0], ["ours", "n", "verdict"]].tolist() == [pytest.approx(1), 3, "contradicted"]
    assert "total_stride=16" in table.loc[IDS[0], "on"]
    _, cells = start(10_000)
    assert len(cells) == 2
    assert set(pd.read_csv(tmp_path / "answers.csv")["id"]) == set(IDS)
    assert start(10_000) == (0.0, [])


def test_only_what_is_still_undecided_gets_more_seeds(start, tmp_path, capsys):
    _, cells = start(10_000, noise=3)
    assert "answers: 1 open claim, 3 cells, 4 seeds" in capsys.readouterr().out
    assert cells[len(CELLS) :] == ["mobilenet_v3_large 0.35 3", "mobilenet_v1 0.35 3", "mobilenet_v1 0.2625 3"]


def test_training_stops_in_time_where_nothing_tells_how_long_it_takes(start, tmp_path, capsys):
    ended, cells = start(answers.RESERVE_S + 5)  # the first cell takes 9.9 s
    assert (len(cells), ended) == (1, pytest.approx(5, abs=1))
    assert "stopped, the time has run out" in capsys.readouterr().out
    assert not (tmp_path / "answers.csv").exists()


def test_seeds_that_do_not_fit_in_memory_together_train_in_smaller_packs(start):
    _, cells = start(answers.RESERVE_S + 12, largest_pack=1)
    assert cells[:2] == ["mobilenet_v2 0.35 3", "mobilenet_v2 0.35 1"]
