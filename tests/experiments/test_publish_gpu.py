"""Publishing what experiments/gpu.py measured: next to the results of a CPU, never in their place."""

import shutil
from pathlib import Path

import pandas as pd
import publish
import pytest
from common.readme_tables import NOT_MEASURED, gpu_answers, gpu_seeds, gpu_steps

from mnet.studies.results.archive import read_table, study_table
from mnet.studies.results.loading import load
from mnet.studies.runs.store import LATENCY, LATENCY_CLAIMS

PUBLISHED = Path(__file__).parents[2] / "results/published"
STEP = {"what": "throughput, 32 px", "ours": "V3-Small", "theirs": "bare loop", "unit": "ms", "ours_value": 1.0}
STEP |= {"theirs_value": 1.2, "ratio": 1.2, "low": 1.15, "high": 1.25, "rounds": 20, "goal": ">= 1", "verdict": "met"}
ANSWER = {"id": "v3-se-accuracy", "statement": "SE increases accuracy", "paper_value": None, "ours": 0.4, "low": 0.2}
ANSWER |= {"high": 0.6, "n": 16, "verdict": "reproduced", "on": "a GPU", "before": "undecided"}


@pytest.fixture
def measured(tmp_path) -> Path:
    """A results folder of experiments/gpu.py: two tables, the runs of a study, and latencies of another."""
    root = tmp_path / "gpu"
    (root / "answers/se").mkdir(parents=True)
    (root / "activation").mkdir()
    pd.DataFrame([{**STEP, "note": "", "device": "H100", "images_per_second": 123456.7, "peak_gb": 3.21}]).to_csv(
        root / "steps.csv", index=False
    )
    pd.DataFrame([ANSWER]).to_csv(root / "answers.csv", index=False)
    runs = study_table(PUBLISHED, "se")
    runs.assign(run_id="g" + runs["run_id"].str[1:], device="H100").to_csv(root / "answers/se/runs.csv", index=False)
    for name in (LATENCY, LATENCY_CLAIMS):
        table = read_table(PUBLISHED / "activation" / name)
        on_gpu = table[table["runtime"] == "eager"].assign(runtime="cuda-graphs", batch=1, device="H100")
        on_gpu.to_csv(root / "activation" / name, index=False)
    return root


def test_runs_and_tables_get_a_folder_of_their_own_that_claims_read(measured, tmp_path):
    into = tmp_path / "published"
    shutil.copytree(PUBLISHED / "se", into / "se")
    published = {str(path.relative_to(into)) for path in publish.copy_gpu(measured, into)}
    assert published == {"gpu/steps.csv", "gpu/answers.csv", "gpu/se/runs.csv", "activation/latency.csv"}
    runs = load(into)
    ours = study_table(PUBLISHED, "se")
    assert len(runs) == 2 * len(ours)
    assert (runs["device"] == "H100").sum() == len(ours)
    later = measured / "answers/se/runs.csv"
    on_gpu = read_table(later)
    on_gpu.assign(run_id="h" + on_gpu["run_id"].str[1:], epochs=9).to_csv(later, index=False)
    list(publish.copy_gpu(measured, into))
    assert sorted(read_table(into / "gpu/se/runs.csv")["epochs"]) == [2] * len(ours) + [9] * len(ours)


def test_latencies_of_a_gpu_join_those_of_the_processor_once(measured, tmp_path):
    into = tmp_path / "published"
    shutil.copytree(PUBLISHED / "activation", into / "activation")
    for _ in range(2):
        list(publish.copy_gpu(measured, into))
    for name in (LATENCY, LATENCY_CLAIMS):
        before, after = (read_table(folder / "activation" / name) for folder in (PUBLISHED, into))
        before = before[before["runtime"] != "cuda-graphs"]  # in case those of a GPU have been published
        old, new = after[after["runtime"] != "cuda-graphs"], after[after["device"] == "H100"]
        assert old["low"].tolist() == before["low"].tolist()
        assert new["low"].tolist() == before.loc[before["runtime"] == "eager", "low"].tolist()


def test_the_page_says_what_was_not_measured(measured, tmp_path):
    into = tmp_path / "published"
    assert [table(into) for table in (gpu_steps, gpu_seeds, gpu_answers)] == [NOT_MEASURED] * 3
    list(publish.copy_gpu(measured, into))
    assert "H100" in gpu_steps(into)
    assert "| throughput, 32 px | V3-Small | bare loop | 123,457 | 3.2 | 1.200 | [1.150, 1.250] |" in gpu_steps(into)
    assert "| SE increases accuracy |  | +0.40 | [+0.20, +0.60] | 16 | undecided | reproduced |" in gpu_answers(into)
    assert gpu_seeds(into) == NOT_MEASURED
