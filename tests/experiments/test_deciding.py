"""Seeds until everything is decided: what is trained next, when it stops, and how a stopped call continues."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ablate
import decide
import numpy as np
import pandas as pd
import pytest
from common.deciding import Comparison, Undecided, compare_with_baseline, read_duration, run_until_decided
from common.driver import RunOptions
from common.summary import print_summary
from common.sweeps import CLAIMS_FILE, PROFILES_FILE, load_sweep

from mnet import ConfigError
from mnet.files import write_json
from mnet.studies import Study, Trial
from mnet.studies.claims.claims import load_claims
from mnet.studies.engines.events import Finished
from mnet.studies.plan import LOOKS, looks_of, make_plan, read_plans
from mnet.studies.results.archive import read_table
from mnet.studies.results.looks import thresholds
from mnet.studies.results.tables import write_tables
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import CLAIMS, RESULT, RUNS, SUMMARY, write_config, write_failure
from mnet.studies.study import studies_of_profile

EFFECTS = {"paper": 0.0, "relu": -2.0, "relu6": 0.0, "hswish": 0.5}
SPREAD = 0.22
"""Chosen so that cells are decided after 3, 5 and 8 seeds; all tables are rewritten after each run."""


def accuracy(trial: Trial) -> float:
    """Accuracy of a cell and a seed, always the same."""
    cell = list(EFFECTS).index("paper" if trial.activation is None else trial.activation)
    noise = np.random.default_rng([cell, trial.seed]).normal(0, SPREAD)
    return 90 + list(EFFECTS.values())[cell] + float(noise)


@dataclass
class Trainer:
    """An engine whose runs end at once, with an accuracy that follows from their trial."""

    top1: Callable[[Trial], float] = accuracy
    stop_after: int | None = None
    """Runs after which it raises KeyboardInterrupt."""
    trained: list[tuple[str, int]] = field(default_factory=list)

    def run(self, jobs, on_event) -> None:
        for job in jobs:
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            name = "paper" if job.trial.activation is None else job.trial.activation
            self.trained.append((name, job.trial.seed))
            write_config(job.trial, job.folder, None)
            result = {"top1": self.top1(job.trial), "params": 1, "madds": 1, "train_seconds": 50.0, "format": 2}
            write_json(job.folder / RESULT, result)
            on_event(Finished(job, result))


@pytest.fixture(scope="module", autouse=True)
def _thresholds_of_fewer_studies() -> Iterator[None]:
    """Fewer simulations suffice: these tests check that decisions agree, not when they are made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnet.studies.results.looks.SIMULATED", 4_000)
        thresholds.cache_clear()
        yield
    thresholds.cache_clear()


def study(seeds: int = LOOKS[-1]) -> Study:
    return load_sweep("activation", "quick", seeds)


def run(root: Path, trainer: Trainer, seeds: int = LOOKS[-1], budget: str | None = None) -> int:
    subject = study(seeds)
    list(make_plan(subject, root, [look for look in LOOKS if look <= seeds], 0.5))
    front = Undecided(subject, root, compare_with_baseline(subject, 0.5))
    return run_until_decided([front], trainer, RunOptions(report=False, workers=2), budget, {})


def summary(root: Path) -> pd.DataFrame:
    return read_table(root / "activation" / SUMMARY).set_index("cell")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Trainer]:
    root, trainer = tmp_path_factory.mktemp("whole"), Trainer()
    assert run(root, trainer) == 0
    return root, trainer


def test_a_decided_comparison_gets_no_more_seeds_and_the_baseline_gets_all(whole):
    root, trainer = whole
    table, seeds = summary(root), Counter(name for name, _ in trainer.trained)
    assert table.loc["relu", "verdict"] == "down"
    assert seeds["relu"] == table.loc["relu", "n"] == table.loc["relu", "look"] <= 5
    assert len({seeds[name] for name in ("relu", "relu6", "hswish")}) == 3
    assert seeds["paper"] == max(seeds.values()) > seeds["relu"]
    assert (table.loc[["relu6", "hswish"], "verdict"] != "undecided").all()
    assert len(set(trainer.trained)) == len(trainer.trained)


def test_a_stopped_call_continues_where_it_was_and_ends_with_the_same_tables(whole, tmp_path):
    root, trainer = whole
    parts = Trainer(stop_after=5), Trainer(stop_after=9), Trainer()
    for part in parts[:2]:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, part)
    assert run(tmp_path, parts[2]) == 0
    assert [run for part in parts for run in part.trained] == trainer.trained
    name = f"activation/{SUMMARY}"
    assert (tmp_path / name).read_bytes() == (root / name).read_bytes()


def test_a_spent_budget_starts_no_run(tmp_path):
    trainer = Trainer()
    assert run(tmp_path, trainer, budget="0.000001") == 0
    assert trainer.trained == []


def test_the_last_look_ends_comparisons_that_are_still_open(tmp_path, capsys):
    trainer = Trainer()
    assert run(tmp_path, trainer, seeds=3) == 0
    assert Counter(name for name, _ in trainer.trained) == dict.fromkeys(EFFECTS, 3)
    printed = capsys.readouterr().out
    assert "relu6: " in printed
    assert "undecided within 0.5: about " in printed
    assert "95% intervals hold for all rows together" in printed


def test_the_plan_is_written_before_the_first_run_and_looks_are_only_added(tmp_path):
    subject = study(8)
    assert list(make_plan(subject, tmp_path, [3], 0.5)) == []
    (plan,) = read_plans(tmp_path / "activation")
    assert (plan.looks, plan.margin, list(plan.cells)) == ((3,), 0.5, list(EFFECTS))
    assert list(make_plan(subject, tmp_path, [2], 0.5)) == []  # fewer seeds than planned add no look
    (change,) = make_plan(subject, tmp_path, [8], 0.5)
    assert "analysed after 3 seeds before, now also after 8" in change
    (change,) = make_plan(subject, tmp_path, [8], 0.2)
    assert "the margin was 0.5 points, and is 0.2 now" in change
    (plan,) = read_plans(tmp_path / "activation")
    assert plan.looks == (3, 8)
    other = load_sweep("activation", "quick", 3, {"epochs": "9"})
    (change,) = make_plan(other, tmp_path, [5], 0.5)
    assert "for other networks or images" in change
    assert [plan.looks for plan in read_plans(tmp_path / "activation")] == [(3, 8), (5,)]
    assert (looks_of(subject, tmp_path), looks_of(other, tmp_path)) == ((3, 8), (5,))
    (tmp_path / "activation/plan.yaml").write_text("looks: [8, 3]\nmargin: 1\ncells: {}\n")
    with pytest.raises(ConfigError, match="looks must ascend"):
        read_plans(tmp_path / "activation")


def test_seeds_that_finished_without_a_plan_are_a_look(tmp_path):
    subject = study(8)
    Trainer().run([Job(trial, tmp_path, "activation") for _, trial in subject.trials if trial.seed < 4], lambda _: None)
    assert "4 seeds had finished without a plan" in "".join(make_plan(subject, tmp_path, [3, 8], 0.5))
    assert looks_of(subject, tmp_path) == (3, 4, 8)


def test_a_second_look_by_hand_is_part_of_the_interval(tmp_path, capsys):
    """Intervals at eight seeds are wider after a look at three than without one."""
    for name, looks in (("once", [8]), ("twice", [3, 8])):
        subject, root = study(8), tmp_path / name
        Trainer().run([Job(trial, root, "activation") for _, trial in subject.trials], lambda event: None)
        for look in looks:
            list(make_plan(subject, root, [look], 0.5))
        print_summary(subject, write_tables(subject, root), root / "activation", 0.5, {})
    once, twice = summary(tmp_path / "once"), summary(tmp_path / "twice")
    assert (twice["high"] - twice["low"] > once["high"] - once["low"])[1:].all()
    assert "95% intervals hold for all rows and after 3, 8 seeds together" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names",
    [
        ["se", "last-stage"],
        pytest.param(None, marks=pytest.mark.full("the claims of two studies")),
    ],
)
def test_claims_have_the_cells_of_their_networks_in_the_chosen_setting(names):
    every = studies_of_profile(PROFILES_FILE, "decide")
    studies = [load_sweep(name, "decide", 3) for name in names or every]
    claims = [claim for claim in load_claims(CLAIMS_FILE) if claim.study in (names or every)]
    planned = {
        one.claim.id: one for of_study in decide.plan_claims(claims, studies, "decide").values() for one in of_study
    }
    assert planned["v3-se-accuracy"].cells == ("se=false", "paper")
    assert planned["v3-last-stage-accuracy"].cells == ("full", "streamlined")
    assert planned["v3-se-accuracy"].setting.context["total_stride"] == "16"
    trained = {one.id for one in claims if one.pair and one.kind not in ("arithmetic", "latency")}
    elsewhere = {"v3-resolution-beats-width"}  # its networks are in two studies
    elsewhere |= {one.id for one in claims if one.id.startswith(("v4-m-", "v4-l-"))}  # too large for the profile
    assert trained - planned.keys() <= elsewhere


def test_the_program_trains_what_a_claim_needs_and_judges_it(images, tmp_path, capsys, monkeypatch):
    claims = [claim for claim in load_claims(CLAIMS_FILE) if claim.study == "se"]  # judging all of them takes seconds
    monkeypatch.setattr("common.evaluation.load_claims", lambda path: claims)
    arguments = [f"--out={tmp_path}", "--only=se", "--dataset=imagefolder", f"--data_dir={images}", "--resolution=28"]
    arguments += ["--width=0.1", "--total_stride=paper", "--batch_size=16", "--epochs=1", "--seeds=3", "--workers=1"]
    assert decide.main([*arguments, "--report=false"]) == 0
    runs = read_table(tmp_path / "se" / RUNS)
    assert Counter(runs["cell"]) == {"paper": 3, "se=false": 3}
    table = read_table(tmp_path / CLAIMS)
    printed = capsys.readouterr().out
    assert "  v3-se-accuracy: not analysed yet" in printed
    counts = table["verdict"].value_counts()
    assert all(f"{count} {verdict}" in printed.splitlines()[-1] for verdict, count in counts.items())
    (judged,) = table[table["id"] == "v3-se-accuracy"].to_dict("records")
    assert (judged["n"], judged["on"]) == (3, "imagefolder at 28 px, 1 epochs, 0.1 of the width")


def test_values_are_compared_within_their_networks_until_each_is_decided(tmp_path):
    subject = load_sweep("precision", "quick", 8)
    list(make_plan(subject, tmp_path, LOOKS[:5], 0.5))
    comparisons = compare_with_baseline(subject, 0.5)
    assert [len({cell.partition("model=")[2] for cell in one.cells}) for one in comparisons] == [1, 1]
    noise = np.random.default_rng(0).normal(90, 0.05, (2, 2, 8))
    trainer = Trainer(lambda trial: float(noise[int(trial.precision == "bf16"), int(trial.width is None), trial.seed]))
    front = Undecided(subject, tmp_path, comparisons)
    assert run_until_decided([front], trainer, RunOptions(report=False, workers=2), None, {}) == 0
    assert [one.verdict for one in comparisons] == ["flat", "flat"]
    assert front.look == 3


def test_a_cell_whose_trainings_all_fail_is_closed_and_the_others_are_decided(tmp_path):
    class Diverging(Trainer):
        def run(self, jobs, on_event) -> None:
            for job in jobs:
                if job.trial.activation == "hswish":
                    write_failure(job.folder, "NotFinite: the loss is nan", {})
            super().run([job for job in jobs if job.trial.activation != "hswish"], on_event)

    trainer = Diverging()
    assert run(tmp_path, trainer) == 0
    assert summary(tmp_path).loc["relu", "verdict"] == "down"
    assert max(seed for _, seed in trainer.trained) < LOOKS[-1] - 1


def test_seeds_that_the_plan_does_not_reach_are_asked_for(tmp_path):
    subject = study(8)
    list(make_plan(subject, tmp_path, [40], 0.5))
    with pytest.raises(ConfigError, match="planned for 40 seeds, not 8; give SEEDS=40"):
        Undecided(subject, tmp_path, compare_with_baseline(subject, 0.5))
    assert ablate.looks(study(7), ablate.Options(until="decided", seeds=7)) == (3, 4, 5, 6, 7)


def test_an_equality_is_decided_far_from_its_margin_only():
    equality = next(claim for claim in load_claims(CLAIMS_FILE) if claim.direction == "flat")
    numbers = {"delta": -0.45, "se": 0.1, "low": -0.8, "high": -0.1}
    on_the_margin = Comparison("equality", ("a", "b"), equality, **numbers)
    assert on_the_margin.chance(10, 12) < 0.01 < 0.9 < Comparison("effect", ("a", "b"), **numbers).chance(10, 12)


def test_what_is_likely_to_be_decided_soon_comes_first():
    near = Comparison("near", ("a", "b"), delta=-1.0, se=0.3, low=-2.2, high=0.2)
    far = Comparison("far", ("a", "b"), delta=-0.25, se=0.3, low=-1.45, high=0.95)
    assert near.chance(3, 4) > 2 * far.chance(3, 4)
    assert 0 <= far.chance(3, 4) <= near.chance(3, 32) <= 1
    assert far.chance(3, 32) > far.chance(3, 4)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("2h", 7200), ("600", 600), ("1.5h", 5400), ("30s", 30)])
def test_a_budget_is_a_time(text, seconds):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "two hours", "-1h", "0", "nan", "2d"])
def test_any_other_text_is_refused_as_a_budget(text):
    with pytest.raises(ConfigError, match="budget must be a time such as 90m, 2h or 600"):
        read_duration(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["se", "--until=maybe"], "unknown until 'maybe'; one of seeds, decided"),
        (["se", "--budget=2h"], "budget=2h needs until=decided"),
        (["se", "--until=decided", "--budget=2d"], "budget must be a time"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_written(arguments, message, tmp_path, capsys):
    assert ablate.main([*arguments, f"--out={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
