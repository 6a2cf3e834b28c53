"""Studies of latency: which networks are timed, which claims are judged, what is kept, what is joined."""

import re
from dataclasses import replace
from pathlib import Path

import bench_latency
import latency
import numpy as np
import pandas as pd
import pytest
import torch
from common.sweeps import HERE, SWEEPS, overrides
from common.timing import Plan, keep

import mnet
from mnet.errors import ConfigError
from mnet.files import write_json
from mnet.latency.comparison import Measurement
from mnet.latency.paired import PairedTimes, ratio
from mnet.latency.prepare import prepare
from mnet.latency.runtimes import SIMULATED, make_runtime
from mnet.latency.runtimes.torch_eager import TorchProgram
from mnet.models.network import MobileNet
from mnet.studies.claims.claims import load_claims
from mnet.studies.latency.frontier import frontier_table
from mnet.studies.latency.subjects import Subject, build_module, compose_hswish, identity, list_subjects
from mnet.studies.latency.tables import KEY, claims_table, latency_table, merge_rows
from mnet.studies.options import trial_from
from mnet.studies.runs.store import FORMAT, RESULT, run_folder
from mnet.studies.study import list_studies, load_study

CLAIMS = load_claims(HERE / "claims.yaml")


def study(name: str):
    return load_study(SWEEPS / f"{name}.yaml", overrides(name, "latency", None, {}))


PAPERS_PIXELS = {"mobilenet_v4_conv_medium": 256}
"""Pixels of a model that its paper does not time at 224 px. Source: V4, appendix A."""


@pytest.mark.parametrize("name", [name for name in latency.latency_studies() if (SWEEPS / f"{name}.yaml").exists()])
def test_the_networks_of_every_study_are_the_papers_at_224_px_and_detectors_and_segmenters_at_320(name):
    subjects, _ = list_subjects(study(name), CLAIMS)
    classes, pixels = {"detection": (80, 320), "segmentation": (19, 320)}.get(name, (1000, 224))
    for subject in subjects.values():
        network, resolution, *_ = identity(subject)
        assert (network.num_classes, network.in_channels) == (classes, 3)
        assert name == "resolution" or resolution == PAPERS_PIXELS.get(subject.trial.model, pixels)
    assert len(subjects) >= 2


def test_every_latency_claim_is_judged_in_a_study_of_make_latency():
    wanted = {c.id for c in CLAIMS if c.kind == "latency" and c.study in list_studies(SWEEPS) and not c.untestable}
    judged = {pair.claim.id for name in latency.latency_studies() for pair in list_subjects(study(name), CLAIMS)[1]}
    assert judged == wanted
    assert len(judged) >= 13


def test_a_claim_joins_the_networks_that_it_names():
    subjects, pairs = list_subjects(study("stem"), CLAIMS)
    (stem,) = pairs
    assert subjects[stem.baseline].trial.stem_channels == 32
    assert identity(subjects[stem.variant]) == identity(Subject(trial_from({"model": "mobilenet_v3_large",
                                                                         "dataset": "imagenet"})))  # fmt: skip
    fused = next(pair for pair in list_subjects(study("activation"), CLAIMS)[1] if pair.claim.id == "v3-hswish-fused")
    assert fused.variant == "paper"  # a cell of the study, not an added network


def small(**settings):
    return Subject(trial_from({"model": "mobilenet_v3_small", "dataset": "fashion_mnist", "width": 0.25, **settings}))


@pytest.mark.full("its export takes most of it; the fused operator is counted in test_runtimes.py")
def test_composed_h_swish_is_the_same_function_of_more_operators(tmp_path):
    one, several = build_module(small()), compose_hswish(build_module(small()))
    image = torch.randn(2, 1, 28, 28)
    assert torch.allclose(one(image), several(image), atol=1e-5)
    onnx = make_runtime("onnxruntime", folder=tmp_path)
    ran = [prepare(onnx, net, 28).program.info for net in (one, several)]
    assert sum(ran[1].delegated.values()) > sum(ran[0].delegated.values())
    assert ran[0].file != ran[1].file


def test_a_network_is_built_alike_in_every_process_and_its_activations_neither_vanish_nor_explode():
    first, again = (build_module(small(se=True)) for _ in range(2))
    assert isinstance(first, MobileNet)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    features = first.forward_features(torch.randn(4, 1, 28, 28))
    assert 0.05 < features.std() < 20


def measurement(times: dict[str, float], subjects) -> Measurement:
    noise = np.random.default_rng(0).lognormal(0, 0.01, (len(times), 40))
    raced = {name: value * noise[i] for i, (name, value) in enumerate(times.items())}
    one = prepare(make_runtime("eager"), build_module(small()), 28)
    ready = dict.fromkeys(times, one)
    return Measurement(
        tuple(subjects), ready, next(iter(subjects)), {"composed": "no"}, PairedTimes(raced, 0.01, {}, True, 0), ()
    )


def test_a_claim_gets_the_ratio_of_its_pair_or_the_reason_why_it_was_not_timed():
    plan = study("hswish-placement")
    subjects, pairs = list_subjects(plan, CLAIMS)
    names = list(subjects)
    times = dict.fromkeys(names, 0.01) | {"activation=hswish": 0.012, "hswish_from=16": 0.012}
    del times["hswish_from=112"]
    shown = claims_table(pairs, measurement(times, subjects), "eager", 1).set_index("id")
    slower = shown.loc["v3-hswish16-latency"]
    assert slower["ours"] == pytest.approx(1.2, rel=0.02)
    assert (slower["verdict"], slower["paper_value"], slower["n"]) == ("stronger", 1.041, 40)
    flat = [replace(pair, claim=replace(pair.claim, direction="flat", margin=0.5)) for pair in pairs]
    wide = claims_table(flat, measurement(times, subjects), "eager", 1).set_index("id")
    assert wide.loc["v3-hswish16-latency", "verdict"] == "reproduced"  # 1.2 is within the claim's own margin
    missing = shown.loc["v3-hswish112-latency"]
    assert missing["verdict"] == "not tested here"
    assert missing["why"].startswith("hswish_from=112")


def test_a_claim_about_int8_is_not_judged_where_int8_is_simulated():
    subjects, pairs = list_subjects(study("quantization"), CLAIMS)
    one = next(pair for pair in pairs if pair.claim.id == "v3-int8-large-latency")
    measured = measurement({one.baseline: 2.0, one.variant: 1.0}, subjects)
    floats = measured.ready[one.baseline]
    program = TorchProgram(floats.program.module, replace(floats.program.info, precision="int8", note=SIMULATED))
    measured = replace(measured, ready={one.baseline: floats, one.variant: replace(floats, program=program)})
    row = claims_table([one], measured, "eager", 1).iloc[0]
    assert row["verdict"] == "not tested here"
    assert "simulated in float" in row["why"]


def test_where_int8_is_simulated_no_network_is_timed_for_a_claim_about_int8_alone():
    def timed(name: str, runtime: str) -> tuple[set[str], set[str]]:
        plan = Plan(study(name), *list_subjects(study(name), CLAIMS))
        kept = plan.on(make_runtime(runtime))
        left_out = {claim.claim.id for claim in plan.pairs} - {claim.claim.id for claim in kept.pairs}
        return plan.subjects.keys() - kept.subjects.keys(), left_out

    networks, claims = timed("versions", "eager")
    assert {"model=mobilenet_v2 precision=int8", "model=mobilenet_v4_conv_small precision=int8"} <= networks
    assert all("int8" in name for name in networks)
    assert "v4-s-vs-v2-latency" in claims
    assert "v2-vs-v1-latency" not in claims
    assert timed("versions", "onnxruntime") == (set(), set())
    networks, claims = timed("quantization", "eager")  # its own cells in int8 stay: someone asked for them
    assert claims == {"v3-int8-swish-latency"}
    assert not networks & {cell.name for cell in study("quantization").cells}


def test_int8_is_also_compared_with_its_own_network_in_fp32():
    networks = {"float": small(), "other": small(width=0.5), "int8": small(precision="int8")}
    table = latency_table(study("stem"), measurement({"float": 2.0, "other": 9.0, "int8": 1.0}, networks), networks)
    rows = table.set_index("variant")
    assert rows.loc["int8", "to_fp32"] == pytest.approx(0.5, rel=0.02)
    assert rows.loc[["float", "other"], "to_fp32"].isna().all()
    assert {"revision", "device", "governor", "load", "sha256", "undelegated_ops", "kernels"} <= set(table.columns)


TINY = ["--model=mobilenet_v2", "--width=0.1", "--resolution=32", "--runtime=eager", "--half_width=0.5", "--budget=2"]


@pytest.mark.full("another test runs make latency, and rows are merged in a test of their own")
def test_make_latency_keeps_what_other_runtimes_measured(tmp_path, capsys):
    call = ["shortcut", *TINY, f"--out={tmp_path}"]
    assert latency.main(call) == 0
    assert latency.main([*call, "--runtime=onnxruntime", "--shortcut=bottleneck,none", "--workers=1"]) == 0
    table = pd.read_csv(tmp_path / "shortcut/latency.csv")
    assert table.groupby("runtime").size().to_dict() == {"eager": 3, "onnxruntime": 2}
    assert latency.main([*call, "--batch=2"]) == 0
    assert len(pd.read_csv(tmp_path / "shortcut/latency.csv")) == 8
    assert (tmp_path / "shortcut/latency.png").stat().st_size > 5_000
    assert len(list((tmp_path / "exported").glob("*.onnx"))) == 2
    assert "onnxruntime" in capsys.readouterr().out
    rounds = pd.read_csv(tmp_path / "shortcut/latency-rounds/onnxruntime-batch1-threads1.csv")
    row = table[(table["runtime"] == "onnxruntime") & (table["variant"] == "none")].iloc[0]
    assert row["ratio"] == pytest.approx(ratio(rounds["none"].to_numpy(), rounds["bottleneck"].to_numpy(), 0.5).value)
    assert (tmp_path / "exported" / row["file"]).stat().st_size == row["file_bytes"]


@pytest.mark.usefixtures("clock")
def test_accuracy_of_trained_runs_is_joined_to_latency_at_the_same_settings(tmp_path, capsys):
    network = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1)
    model = tmp_path / "short.yaml"
    mnet.write_network(replace(network, blocks=network.blocks[3:5]), model)
    call = ["shortcut", "--profile=quick", f"--model={model}", "--width=0.1", "--runtime=eager",
            "--half_width=0.5", "--budget=2", f"--out={tmp_path}"]  # fmt: skip
    assert latency.main(call) == 2  # nothing was trained
    assert "make ablate-shortcut first" in capsys.readouterr().err
    plan = load_study(
        SWEEPS / "shortcut.yaml", overrides("shortcut", "quick", 4, {"model": str(model), "width": "0.1"})
    )
    for i, (_, trial) in enumerate(plan.trials):
        result = {"top1": 80.0 + i % 3 + trial.seed / 10, "params": 1, "madds": 1, "format": FORMAT}
        write_json(run_folder(tmp_path, "shortcut", trial.run_id) / RESULT, result)
    assert latency.main(call) == 0
    table = pd.read_csv(tmp_path / "shortcut/frontier.csv")
    assert list(table["cell"]) == ["bottleneck", "expansion", "none"]
    # Means of four seeds, one more than the file has.
    assert list(table["top1_mean"]) == pytest.approx([80.15, 81.15, 82.15])
    assert (table["resolution"] == 28).all()
    assert (table["median_ms"] > 0).all()
    assert (tmp_path / "shortcut/frontier.png").exists()


def test_rows_measured_again_replace_those_of_the_same_keys_and_no_others(tmp_path):
    path, keys = tmp_path / "latency.csv", ["variant", "runtime"]
    rows = pd.DataFrame({"variant": ["paper", "relu"], "runtime": "eager", "ms": [1.0, 2.0], "note": [None, "slow"]})
    merge_rows(path, rows, keys)
    again = pd.DataFrame({"variant": "paper", "runtime": ["eager", "litert"], "ms": [3.0, 4.0], "note": None})
    table = merge_rows(path, again, keys)
    assert table.set_index(keys)["ms"].to_dict() == {
        ("relu", "eager"): 2.0,
        ("paper", "eager"): 3.0,
        ("paper", "litert"): 4.0,
    }
    with pytest.raises(ConfigError, match="has no column threads"):
        merge_rows(path, again, ["threads"])


def test_claims_are_kept_by_batch_and_those_of_before_batches_are_of_one_image(tmp_path):
    path, claims = tmp_path / "latency-claims.csv", {"id": "v3-se-latency", "runtime": "eager", "threads": 1}
    pd.DataFrame([{**claims, "ours": 1.0}]).to_csv(path, index=False)
    times = pd.DataFrame([{"variant": "paper", **dict.fromkeys(KEY, "")}])
    for batch, ours in ((32, 3.2), (1, 0.1), (32, 3.3)):
        keep(tmp_path, times, pd.DataFrame([{**claims, "batch": batch, "ours": ours}]))
    assert pd.read_csv(path).set_index("batch")["ours"].to_dict() == {1: 0.1, 32: 3.3}


def test_a_network_that_no_program_ran_is_kept_with_its_runtime_and_batch(tmp_path):
    subjects, pairs = list_subjects(study("se"), CLAIMS)
    failed = Measurement(tuple(subjects), {}, next(iter(subjects)), dict.fromkeys(subjects, "no memory"), None, ())
    runtime = make_runtime("eager")
    table = latency_table(study("se"), failed, subjects, runtime, 32)
    keep(tmp_path, table, claims_table(pairs, failed, "eager", 1, 32))
    rows = pd.read_csv(tmp_path / "latency.csv")
    assert set(zip(rows["runtime"], rows["batch"], rows["stopped"], strict=True)) == {
        ("eager", 32, "failed: no memory")
    }
    claims = pd.read_csv(tmp_path / "latency-claims.csv")
    assert (claims["batch"].tolist(), claims["verdict"].tolist()) == ([32], ["not tested here"])


def test_the_chart_names_the_smallest_batch_that_was_timed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(latency, "save_png", lambda chart, path: drawn.append(chart.to_dict()["title"]))
    row = {"variant": "paper", "runtime": "eager", "device": "a server", "median_ms": 1.0, "low": 1.0, "high": 1.0}
    table = pd.DataFrame([{**row, "ratio": 1.0, "batch": batch} for batch in (32, 8)])
    latency.finish(Plan(study("se"), {}, ()), tmp_path, table, None, 1)
    assert "latency at batch 8" in str(drawn)


def test_the_frontier_is_of_cells_that_no_other_beats():
    summary = pd.DataFrame({"cell": list("abc"), "n": 3, "top1_mean": [90.0, 91.0, 89.0]})
    times = pd.DataFrame({"study": "s", "variant": list("abc"), "runtime": "eager", "median_ms": [1.0, 2.0, 1.5]})
    assert list(frontier_table(summary, times)["best"]) == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["activaton"], "unknown study 'activaton'.*Did you mean activation"),
        (["stem", "--runtime=eager,tflight"], "unknown runtime 'tflight'"),
        (["stem", "--threads=999"], "threads must be 1 to"),
        (["stem", "--batch=0"], "batch must be whole numbers above 0"),
        (["stem", "--budgte=3"], "Did you mean budget"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(arguments, message, capsys, tmp_path):
    assert latency.main([*arguments, f"--out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.usefixtures("clock")
def test_the_benchmark_reports_both_rates_and_finds_a_planted_slowdown(tiny_model, tmp_path, capsys):
    call = ["--runtime=eager", "--trials=1", "--slow_trials=2", "--slowdown=0.5", "--half_width=0.5", "--budget=1"]
    call.append(f"--model={tiny_model}")
    assert bench_latency.main([*call, f"--out={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "bench-latency.csv")
    assert list(table["planted"]) == [0, 0.5, 0.5]
    assert (table["ratio"][1:] > 1.2).all()
    assert abs(table["ratio"][0] - 1) < 0.2
    assert "called different" in capsys.readouterr().out
    assert bench_latency.main(["--trials=0", f"--out={tmp_path}"]) == 2
