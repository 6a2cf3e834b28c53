"""The latency part of the GPU job: what it times, and what remains when a network fails."""

import pandas as pd
from benchmarks.gpu import latency
from benchmarks.gpu.part import Settings


def test_the_networks_of_a_gpu_are_those_that_fp32_claims_compare_classifiers_first(tmp_path):
    plans = list(latency.list_plans(rehearse=False))
    names = [plan.study.name for plan in plans]
    assert names[-2:] == ["detection", "segmentation"]
    assert "quantization" not in names
    versions = plans[names.index("versions")]
    assert next(iter(versions.subjects)) == "model=mobilenet_v2"
    assert len(versions.subjects) == 5  # V3-Large at width 0.35 is in no claim
    assert len(versions.pairs) == 3


def test_one_failing_network_leaves_the_others_measured(tmp_path, capsys, monkeypatch):
    prepare = latency.prepare

    def broken(runtime, net, resolution, *, batch):
        if net.network.stem.out_channels == stems[1]:
            raise RuntimeError("out of memory\nand a trace")
        return prepare(runtime, net, resolution, batch=batch)

    plan = next(plan for plan in latency.list_plans(rehearse=True) if plan.study.name == "stem")
    networks = latency.Networks()
    stems = [networks[subject].network.stem.out_channels for subject in plan.subjects.values()]
    monkeypatch.setattr(latency, "prepare", broken)
    settings = Settings(out=tmp_path, data_dir=tmp_path, device="cpu", seconds=1, rehearse=True)
    latency.take(latency.Step(plan, latency.make_runtime("eager"), 1), networks, settings, 1.0)
    assert "failed: RuntimeError: out of memory" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "stem/latency.csv").set_index("variant")
    first, second = plan.subjects
    assert rows.loc[first, "median_ms"] > 0
    assert rows.loc[second, "stopped"] == "failed: RuntimeError: out of memory"
    assert set(rows["runtime"]) == {"eager"}
    claims = pd.read_csv(tmp_path / "stem/latency-claims.csv")
    assert claims["verdict"].tolist() == ["not tested here"]
