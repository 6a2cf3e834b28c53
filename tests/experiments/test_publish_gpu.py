"""Publishing what experiments/gpu.py measured: next to the results of a CPU, never in their place."""

from pathlib import Path

import pandas as pd
import publish
import pytest
from common.readme_tables import NOT_MEASURED, gpu_answers, gpu_seeds, gpu_steps

from mnet.studies.results.archive import read_table, study_table
from mnet.studies.results.loading import load
from mnet.studies.runs.store import LATENCY, LATENCY_CLAIMS

RUN = {"study": "se", "cell": "paper", "model": "mobilenet_v3_small", "dataset": "fashion_mnist", "resolution": 28}
RUN |= {"epochs": 2, "batch_size": 96, "lr": 0.2, "device": "a server", "torch": "2.14.1", "revision": "0123456789ab"}
TIMED = {"variant": "relu", "dataset": "imagenet", "resolution": 224, "threads": 1, "batch": 1, "precision": "fp32"}
TIMED |= {"device": "a server", "stopped": "precise"}
CLAIM = {"id": "v3-relu-latency", "why": "direction down", "threads": 1, "batch": 1, "device": "a server", "n": 36}
RATIOS = {"executorch": {"low": 0.9721, "high": 0.9867}, "eager": {"low": 0.9555, "high": 0.9777}}
STEP = {"what": "throughput, 32 px", "ours": "V3-Small", "theirs": "bare loop", "unit": "ms", "ours_value": 1.0}
STEP |= {"theirs_value": 1.2, "ratio": 1.2, "low": 1.15, "high": 1.25, "rounds": 20, "goal": ">= 1", "verdict": "met"}
ANSWER = {"id": "v3-se-accuracy", "statement": "SE increases accuracy", "paper_value": None, "ours": 0.4, "low": 0.2}
ANSWER |= {"high": 0.6, "n": 16, "verdict": "reproduced", "on": "a GPU", "before": "undecided"}


@pytest.fixture
def into(tmp_path) -> Path:
    """What a processor measured, published: two runs of a study, and another study's latencies on two runtimes."""
    into = tmp_path / "published"
    (into / "se").mkdir(parents=True)
    (into / "activation").mkdir()
    runs = [{**RUN, "run_id": f"c{seed}", "seed": seed, "top1": 88.0 + seed} for seed in (0, 1)]
    pd.DataFrame(runs).to_csv(into / "se/runs.csv", index=False)
    times = [{**TIMED, "runtime": name, **ends, "ratio": 0.97, "median_ms": 3.0} for name, ends in RATIOS.items()]
    pd.DataFrame(times).to_csv(into / "activation" / LATENCY, index=False)
    claims = [{**CLAIM, "runtime": name, **ends, "ours": 0.97, "verdict": "weaker"} for name, ends in RATIOS.items()]
    pd.DataFrame(claims).to_csv(into / "activation" / LATENCY_CLAIMS, index=False)
    return into


@pytest.fixture
def measured(into, tmp_path) -> Path:
    """A results folder of experiments/gpu.py: two tables, the runs of a study, and latencies of another."""
    root = tmp_path / "gpu"
    (root / "answers/se").mkdir(parents=True)
    (root / "activation").mkdir()
    pd.DataFrame([{**STEP, "note": "", "device": "H100", "images_per_second": 123456.7, "peak_gb": 3.21}]).to_csv(
        root / "steps.csv", index=False
    )
    pd.DataFrame([ANSWER]).to_csv(root / "answers.csv", index=False)
    runs = study_table(into, "se")
    runs.assign(run_id="g" + runs["run_id"].str[1:], device="H100").to_csv(root / "answers/se/runs.csv", index=False)
    for name in (LATENCY, LATENCY_CLAIMS):
        table = read_table(into / "activation" / name)
        on_gpu = table[table["runtime"] == "eager"].assign(runtime="cuda-graphs", batch=1, device="H100")
        on_gpu.to_csv(root / "activation" / name, index=False)
    return root


def test_runs_and_tables_get_a_separate_folder_that_claims_read(measured, into):
    ours = study_table(into, "se")
    published = {str(path.relative_to(into)) for path in publish.copy_gpu(measured, into)}
    assert published == {"gpu/steps.csv", "gpu/answers.csv", "gpu/se/runs.csv", "activation/latency.csv"}
    runs = load(into)
    assert len(runs) == 2 * len(ours)
    assert (runs["device"] == "H100").sum() == len(ours)
    later = measured / "answers/se/runs.csv"
    on_gpu = read_table(later)
    on_gpu.assign(run_id="h" + on_gpu["run_id"].str[1:], epochs=9).to_csv(later, index=False)
    list(publish.copy_gpu(measured, into))
    assert sorted(read_table(into / "gpu/se/runs.csv")["epochs"]) == [2] * len(ours) + [9] * len(ours)


def test_latencies_of_a_gpu_join_those_of_the_processor_once(measured, into):
    before = {name: read_table(into / "activation" / name) for name in (LATENCY, LATENCY_CLAIMS)}
    for _ in range(2):
        list(publish.copy_gpu(measured, into))
    for name, table in before.items():
        after = read_table(into / "activation" / name)
        old, new = after[after["runtime"] != "cuda-graphs"], after[after["device"] == "H100"]
        assert old["low"].tolist() == table["low"].tolist()
        assert new["low"].tolist() == [RATIOS["eager"]["low"]]


def test_the_page_shows_what_was_not_measured(measured, into):
    assert [table(into) for table in (gpu_steps, gpu_seeds, gpu_answers)] == [NOT_MEASURED] * 3
    list(publish.copy_gpu(measured, into))
    assert "H100" in gpu_steps(into)
    assert "| throughput, 32 px | V3-Small | bare loop | 123,457 | 3.2 | 1.200 | [1.150, 1.250] |" in gpu_steps(into)
    assert "| SE increases accuracy |  | +0.40 | [+0.20, +0.60] | 16 | undecided | reproduced |" in gpu_answers(into)
    assert gpu_seeds(into) == NOT_MEASURED
