"""The benchmark and the page about scaling, in seconds instead of minutes."""

import functools

import bench
import pandas as pd
import publish
import pytest
import scaling
from benchmarks import images, processes
from benchmarks.goals import throughput_row, time_row

from mnet.latency import Ratio, paired_ratios

SMALL = {"mobilenet_v3_small": "v3", "mobilenet_v1": "v1"}


@pytest.fixture
def short(monkeypatch):
    def brief(samples, baseline, **settings):
        return paired_ratios(samples, baseline, **{**settings, "budget_s": 0.1})

    monkeypatch.setattr("benchmarks.parts.paired_ratios", brief)


def test_every_row_has_both_values_a_goal_and_a_verdict(short, tmp_path, monkeypatch, capsys):
    whole = images.write_photographs
    monkeypatch.setattr(images, "write_photographs", lambda folder, size, count: whole(folder, (64, 48), 8))
    assert bench.main(["--only=reading", f"--out={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "bench.csv")
    assert len(table) == 2
    assert (table[["ours_value", "theirs_value", "ratio"]] > 0).all().all()
    assert table["verdict"].isin(["met", "NOT MET", "unclear"]).all()
    assert table["revision"].notna().all()
    assert table["verdict"].iloc[0] in capsys.readouterr().out


def test_seeds_together_and_apart_are_as_many_steps_of_the_same_network():
    case = processes.SeedCase("mobilenet_v3_small", 0.25, 3, 28, 8)
    apart, together = (processes.seed_steps(case, whole) for whole in (False, True))
    assert (len(apart), len(together)) == (3, 1)
    assert processes.seconds_per_seed(case, True) > 0


def test_a_missed_goal_has_a_reason():
    ratio = functools.partial(Ratio, rounds=9, ms=1.0, baseline_ms=2.0, precise=True)
    missed = throughput_row("throughput, 2 processes", "a", "b", ratio(0.9, 0.89, 0.91), at_least=1.3)
    assert missed.verdict == "NOT MET"
    assert missed.goal == ">= 1.3"
    assert missed.note
    met = throughput_row("throughput, 2 processes", "a", "b", ratio(1.5, 1.4, 1.6), at_least=1.3)
    assert (met.verdict, met.note, met.ours_value, met.theirs_value) == ("met", "", 2.0, 1.0)


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.9, 1.0, "met"), (1.03, 1.1, "NOT MET"), (1.0, 1.1, "unclear")])
def test_a_goal_is_judged_by_the_whole_interval(low, high, verdict):
    row = time_row("forward", "a", "b", Ratio(1.0, low, high, 9, 1.0, 2.0, True), at_most=1.02)
    assert (row.verdict, row.ours_value, row.theirs_value) == (verdict, 1.0, 2.0)


def test_the_page_about_scaling_is_written_from_measured_throughput(tmp_path, monkeypatch, capsys):
    page = tmp_path / "scaling.md"
    page.write_text(
        "".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in ("speeds", "imagenet", "spread"))
    )
    monkeypatch.setattr(scaling, "MEASURE_SECONDS", 0.0)
    monkeypatch.setattr(scaling, "RESOLUTION", 64)
    monkeypatch.setattr(scaling, "ROOT", tmp_path)
    monkeypatch.setattr(scaling, "DOCUMENT", page)
    published = publish.HERE.parent / "results/published"
    (tmp_path / "results").mkdir()
    (tmp_path / "results/published").symlink_to(published)
    assert scaling.main(["--write=true", "--batch_size=2"]) == 0
    written = page.read_text()
    for model in scaling.PAPERS:
        assert f"| {model} |" in written
    assert "| 1024 |" in written
    assert scaling.main(["--batch_size=0"]) == 2
    assert "batch_size must be above 0" in capsys.readouterr().err


def test_more_workers_end_sooner_until_the_longest_run_is_left():
    table = scaling.spread_table([100.0, 10.0, 10.0], [60.0] * 4)
    ends = [row.split("|")[2].strip() for row in table.splitlines()[2:]]
    assert ends[:3] == ["120.0", "100.0", "100.0"]
