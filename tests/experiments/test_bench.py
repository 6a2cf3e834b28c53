"""The benchmarks and the page about scaling, in seconds instead of minutes."""

import functools
from concurrent.futures import ThreadPoolExecutor

import bench
import bench_decide
import pandas as pd
import publish
import pytest
import scaling
import torch
from benchmarks import decisions, images, parts, processes, switches
from benchmarks.goals import throughput_row, time_row

from mnet.data.decoded import Images
from mnet.latency import Ratio
from mnet.models import kernels

MET, MISSED = "met", "NOT MET"


@pytest.fixture
def ratio_of_2(monkeypatch):
    """Every sample is taken once, and every measured ratio is 2."""

    def measure(samples, baseline, **settings):
        assert all(sample() > 0 for sample in samples.values())
        ratio = Ratio(value=2.0, low=1.9, high=2.1, rounds=9, ms=6.0, baseline_ms=3.0, precise=True)
        return {name: ratio for name in samples if name != baseline}

    monkeypatch.setattr(parts, "paired_ratios", measure)


@pytest.fixture
def small_parts(monkeypatch):
    """Fewer and smaller images and networks, and threads instead of processes, which would import torch first."""

    class Garments(images.ColourGarments):
        def read(self):
            pixels = torch.randint(256, (24, 3, 28, 28), dtype=torch.uint8)
            return (Images(pixels, torch.arange(24) % 10),) * 2

    def garments(data_dir, resolution, batch_size):
        data = Garments(data_dir=data_dir, batch_size=batch_size, resolution=resolution, val_size=8)
        data.setup("fit")
        return data

    write, small = images.write_photographs, parts.SEED_NETWORKS[0][0]
    monkeypatch.setattr(images, "write_photographs", lambda folder, size, count: write(folder, (64, 48), 8))
    networks = {"SEED_NETWORKS": [(small, 0.25)], "SWITCH_NETWORKS": [(small, 0.25)]}
    networks["SAME_NETWORKS"] = {small: parts.SAME_NETWORKS[small]}
    sizes = {"garments": garments, "default_workers": lambda: 1, "BATCH": 4, "STEPS": 1, "SEEDS": 2}
    for name, value in {**networks, **sizes}.items():
        monkeypatch.setattr(parts, name, value)
    for name, value in {"IMAGES": 8, "BATCH": 4, "ProcessPoolExecutor": ThreadPoolExecutor}.items():
        monkeypatch.setattr(switches, name, value)
    monkeypatch.setattr(processes, "ProcessPoolExecutor", ThreadPoolExecutor)
    for owner, name in ((kernels, "SMALL_MAP"), (kernels.LeanReLU6, "apply")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # restores what the part `switches` sets


@pytest.mark.parametrize(
    ("part", "verdicts"),
    [
        ("training", [MET, MISSED, MET] * 2),  # goals: 0.95, 5 and 1 times the other loop's throughput
        ("switches", [MET] * 5),
        ("seeds", [MET]),
        ("reading", [MISSED] * 2),  # goal: 10 times the throughput of the other loader
        ("latency", [MISSED] * 4),  # goal: 1.02 times the other network's time
    ],
)
@pytest.mark.usefixtures("ratio_of_2", "small_parts")
def test_every_row_has_both_values_and_the_verdict_that_follows_from_its_ratio(part, verdicts, tmp_path, capsys):
    assert bench.main([f"--only={part}", f"--out={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "bench.csv", keep_default_na=False)
    assert list(table["verdict"]) == verdicts
    values = (6, 3) if part == "latency" else (3, 6)  # of times, theirs is the baseline; of throughputs, ours
    assert set(zip(table["ours_value"], table["theirs_value"], strict=True)) == {values}
    assert set(zip(table["ratio"], table["low"], table["high"], strict=True)) == {(2, 1.9, 2.1)}
    assert (table["revision"] != "").all()
    printed = capsys.readouterr().out
    assert all(f"{row.what}: 2.000 [1.900, 2.100] {row.verdict}" in printed for row in table.itertuples())


@pytest.mark.filterwarnings("ignore:Degrees of freedom")  # a study with too few pairs at its first look
def test_simulated_studies_have_a_row_for_each_scenario_and_rule(tmp_path, capsys):
    assert bench_decide.main(["--studies=20", f"--out={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "bench-decide.csv")
    scenarios = [scenario.name for scenario in decisions.SCENARIOS]
    assert list(zip(table["studies"], table["rule"], strict=True)) == [
        (name, rule) for name in scenarios for rule in decisions.RULES
    ]
    assert (table["n"] == 20).all()
    first = table.iloc[0]
    assert f"no effect, decide: wrong in {first['wrong']:.1%}" in capsys.readouterr().out
    decided = table[table["rule"] == "decide"].set_index("studies")
    assert decided.loc["effect of 1 point", "seeds"] < decided.loc["effect of 0.5 points", "seeds"]


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
    ratio = Ratio(value=1.0, low=low, high=high, rounds=9, ms=1.0, baseline_ms=2.0, precise=True)
    row = time_row("forward", "a", "b", ratio, at_most=1.02)
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
