"""The bench and the page about scaling, in seconds instead of minutes."""

import functools

import bench
import pandas as pd
import publish
import pytest
import scaling
from benchmarks import loops as bench_loops
from benchmarks import processes as bench_processes

from mnet.latency import paired_ratios

SMALL = {"mobilenet_v3_small": "v3", "mobilenet_v1": "v1"}


@pytest.fixture
def short(monkeypatch):
    def brief(samples, baseline, **settings):
        return paired_ratios(samples, baseline, **{**settings, "budget_s": 0.1})

    monkeypatch.setattr(bench, "paired_ratios", brief)


def test_every_row_has_both_values_a_goal_and_a_verdict(short, tmp_path, monkeypatch, capsys):
    whole = bench_loops.write_photographs
    monkeypatch.setattr(bench_loops, "write_photographs", lambda folder, size, count: whole(folder, (64, 48), 8))
    assert bench.main(["--only=reading", f"--out={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "bench.csv")
    assert len(table) == 2
    assert (table[["ours_value", "theirs_value", "ratio"]] > 0).all().all()
    assert table["verdict"].isin(["met", "NOT MET", "unclear"]).all()
    assert table["revision"].notna().all()
    assert table["verdict"].iloc[0] in capsys.readouterr().out


def test_seeds_together_and_apart_are_as_many_steps_of_the_same_network():
    case = ("mobilenet_v3_small", 0.25, 3, 28, 8, "cpu")
    apart, together = (bench_processes.seed_steps(*case, whole) for whole in (False, True))
    assert (len(apart), len(together)) == (3, 1)
    assert bench_processes.steps_of_seeds(*case, True) > 0


def test_a_goal_that_is_missed_says_why():
    found = functools.partial(bench.Ratio, rounds=9, ms=1.0, baseline_ms=1.0, precise=True)
    missed = bench.row("throughput, 2 processes", "a", "b", found(0.9, 0.89, 0.91), at_least=1.3, inverse=True)
    assert missed.verdict == "NOT MET"
    assert missed.note
    assert not bench.row("throughput, 2 processes", "a", "b", found(1.5, 1.4, 1.6), at_least=1.3).note


def test_the_page_about_scaling_is_written_from_measured_throughput(tmp_path, monkeypatch, capsys):
    page = tmp_path / "scaling.md"
    page.write_text(
        "".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in ("speeds", "imagenet", "spread"))
    )
    monkeypatch.setattr(scaling, "SECONDS", 0.0)
    monkeypatch.setattr(scaling, "SIDE", 64)
    monkeypatch.setattr(scaling, "ROOT", tmp_path)
    monkeypatch.setattr(scaling, "DOCUMENT", page)
    published = publish.HERE.parent / "results/published"
    (tmp_path / "results").mkdir()
    (tmp_path / "results/published").symlink_to(published)
    assert scaling.main(["--write", "--batch_size=2"]) == 0
    written = page.read_text()
    for model in scaling.PAPERS:
        assert f"| {model} |" in written
    assert "| 1024 |" in written
    assert scaling.main(["--batch_size=0"]) == 2
    assert "batch_size must be at least 1" in capsys.readouterr().err


def test_more_workers_end_sooner_until_the_longest_run_is_left():
    table = scaling.spread_table([100.0, 10.0, 10.0], [60.0] * 4)
    ends = [row.split("|")[2].strip() for row in table.splitlines()[2:]]
    assert ends[:3] == ["120.0", "100.0", "100.0"]
