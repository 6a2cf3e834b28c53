"""experiments/gpu.py rehearsed: every part runs on the CPU, continues where it stopped, and fails alone."""

from pathlib import Path

import gpu
import pandas as pd
import pytest
from benchmarks.goals import at_least_verdict
from benchmarks.gpu import answers, seeds, steps

from mnet.errors import ConfigError

DATA = Path(__file__).parents[2] / "data"
PARTS = [part for part in gpu.SHARES if part != "answers" or (DATA / "FashionMNIST").is_dir()]
"""The part `answers` trains on Fashion-MNIST, which any study downloads; the other parts need no file."""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gpu")
    assert gpu.main(["--rehearse", f"--out={out}", f"--data_dir={DATA}", f"--parts={','.join(PARTS)}"]) == 0
    return out


def test_every_part_writes_its_table(rehearsal):
    tests = pd.read_csv(rehearsal / "correct.csv")
    assert set(tests["outcome"]) == {"passed"}
    assert {"quick-fp32]", "quick-auto]", "v3-off]"} < set(tests["test"].str.rpartition("[")[2])
    assert len(tests) == 4
    steps = pd.read_csv(rehearsal / "steps.csv")
    assert {"a study in bf16", "bare loop, CUDA graphs, NCHW", "torchvision's loop"} <= set(steps["theirs"])
    assert (steps["low"] <= steps["ratio"]).all()
    assert (steps[["images_per_second", "ours_images_per_second"]] > 0).all(axis=None)
    seeds = pd.read_csv(rehearsal / "seeds.csv")
    assert {"2 seeds as one", "a study's pack of 2", "2 processes"} <= set(seeds["ours"])
    table = pd.read_csv(rehearsal / "se/latency.csv")
    assert (set(table["batch"]), set(table["resolution"]), len(table)) == ({2}, {32}, 2)
    assert (table["median_ms"] > 0).all()
    claims = pd.read_csv(rehearsal / "versions/latency-claims.csv")
    assert (claims["id"].tolist(), claims["batch"].tolist()) == (["v3-large-vs-v2-latency"], [1])
    assert claims["ours"].notna().all()
    assert {"device", "torch", "revision"} <= set(steps.columns) & set(seeds.columns) & set(tests.columns)


@pytest.mark.skipif(
    "answers" not in PARTS, reason="needs Fashion-MNIST in data/: make ablate-activation SEEDS=1 EPOCHS=1 downloads it"
)
def test_an_open_claim_is_trained_and_judged(rehearsal):
    (row,) = pd.read_csv(rehearsal / "answers.csv").to_dict("records")
    assert list(row) == list(answers.COLUMNS)
    assert (row["id"], row["n"]) == (answers.REHEARSED, 2)
    assert row["low"] <= row["ours"] <= row["high"]
    assert not list(rehearsal.rglob("weights.pt"))


def test_a_second_call_measures_nothing_again(rehearsal):
    parts = [part for part in PARTS if part not in ("correct", "answers")]  # answers: in test_gpu_answers.py
    before = {path: path.read_bytes() for path in rehearsal.glob("*/latency.csv")}
    before |= {path: path.read_bytes() for path in rehearsal.glob("s*.csv")}
    assert gpu.main(["--rehearse", f"--out={rehearsal}", f"--data_dir={DATA}", f"--parts={','.join(parts)}"]) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_part_that_dies_or_takes_too_long_is_reported(rehearsal):
    options = gpu.Options(rehearse=True, out=rehearsal)
    assert gpu.run_process("missing", 5, options) == "died with exit code 1"
    assert gpu.run_process("steps", -gpu.PATIENCE_S, options) == "stopped: it took longer than its share"


def test_the_shares_fit_the_budget_and_the_last_part_gets_what_is_left(monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "run_process", lambda part, seconds, options: asked.append((part, seconds)) or "done")
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    outcomes = dict(gpu.run_parts(gpu.Options(budget=360, parts="correct,steps,answers")))
    shares = [gpu.SHARES[part] for part in ("correct", "steps", "answers")]
    assert [part for part, _ in asked] == list(outcomes) == ["correct", "steps", "answers"]
    assert [seconds for _, seconds in asked[:2]] == pytest.approx([360 * share / sum(shares) for share in shares[:2]])
    assert asked[2][1] == pytest.approx(360, abs=1)
    assert gpu.BUDGET == 720


def test_without_a_gpu_the_error_names_the_rehearsal(capsys):
    if gpu.torch.cuda.is_available():
        pytest.skip("this machine has a GPU; hide it with CUDA_VISIBLE_DEVICES= to run this test")
    assert gpu.main([]) == 2
    assert "torch finds no NVIDIA GPU; --rehearse runs every part on the CPU" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"unknown part 'step'.*Did you mean steps"):
        gpu.Options(parts="step")


def test_only_variants_with_the_same_result_and_our_own_have_goals():
    assert [steps.goal_of(name) for name in ("bare loop", "bare loop, CUDA graphs", "a study in bf16")] == [
        1.0,
        0.9,
        None,
    ]
    goals = [
        seeds.goal_of(variant, over_processes=False)
        for variant in (seeds.Bare(16), seeds.Bare(8, "bf16"), seeds.InStudy(1), seeds.ParallelProcesses(8))
    ]
    assert goals == [4.0, 1.0, None, None]
    assert at_least_verdict(1.1, 1.2, None) == ("", "")
