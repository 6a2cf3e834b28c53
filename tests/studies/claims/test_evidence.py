"""Which runs test a claim, and the verdict."""

import math
import shutil
from pathlib import Path

import claims as program
import pandas as pd
import pytest
from common import evaluation
from common.evaluation import _latency_claims
from common.timing import keep

from mnet.latency import RUNTIMES
from mnet.studies import Trial
from mnet.studies.claims.claims import Claim, load_claims
from mnet.studies.claims.evidence import COLUMNS, claims_table, count_verdicts, headlines
from mnet.studies.claims.views import latency_claims_table
from mnet.studies.latency.tables import KEY
from mnet.studies.plan import Plan
from mnet.studies.results.archive import read_table
from mnet.studies.results.tables import run_row

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "results/published"
CLAIMS = {claim.id: claim for claim in load_claims(ROOT / "experiments/claims.yaml")}
V3L, V3S, V1 = {"model": "mobilenet_v3_large"}, {"model": "mobilenet_v3_small"}, {"model": "mobilenet_v1"}
NO_LATENCY: dict[str, pd.DataFrame] = {}


def run(study: str, top1: float, **settings) -> dict[str, object]:
    trial = Trial(**settings)
    known = {"epochs": trial.full_recipe().epochs, "resolution": trial.input_spec().resolution, "top1": top1}
    return run_row(study, "a cell", trial, known)


def runs(study: str, tops: list[float], **settings) -> list[dict[str, object]]:
    """One run per seed."""
    return [run(study, top1, seed=seed, **settings) for seed, top1 in enumerate(tops)]


def planned(*rows: dict[str, object]) -> pd.DataFrame:
    commands = [{**row, "command": f"make ablate-{row['study']}"} for row in rows]
    studies = [
        {**run(study, 0), "command": f"make ablate-{study}"} for study in ("se", "width", "last-stage", "versions")
    ]
    return pd.DataFrame([*commands, *studies])


def ask(
    name: str | Claim, rows: list[dict[str, object]], plan: pd.DataFrame | None = None, **latencies
) -> pd.DataFrame:
    claim = CLAIMS[name] if isinstance(name, str) else name
    plan = planned(run(claim.study, 0)) if plan is None else plan
    frame = pd.DataFrame(rows or [run("se", 0, **V1)])
    return claims_table([claim], runs=frame, planned=plan, latencies=latencies)


def test_a_claim_is_answered_by_its_own_networks_paired_by_seed_whatever_they_are_called():
    rows = [
        *runs("se", [90.0, 91.0, 92.0], **V3L),
        *runs("se", [89.0, 90.1, 90.9], **V3L, se=False),
        *runs("se", [50.0, 50.0, 50.0], **V3L, se=False, lr=0.05),  # at another learning rate, so in no pair
        run("width", 0.0, **V3L, seed=7),  # a seed that the other network lacks
    ]
    plan = planned(run("se", 0, **V3L), run("se", 0, **V3L, se=False))
    (row,) = ask("v3-se-accuracy", rows, plan).to_dict("records")
    assert list(row) == list(COLUMNS)
    assert row["ours"] == pytest.approx(1.0)
    assert (row["n"], row["verdict"], row["command"]) == (3, "reproduced", "make ablate-se")
    assert math.isnan(row["paper_value"])  # the paper prints none
    assert row["why"].startswith("the whole interval is above 0; at small scale: fashion_mnist at 28 px, 2 ")
    half = [{**one, "top1": 100.0} if one["seed"] == 1 and one["se"] == "paper" else one for one in rows]
    assert ask("v3-se-accuracy", half, plan)["verdict"].tolist() == ["undecided"]


def test_the_same_network_in_another_spelling_is_the_same_network():
    """V3's paper has 16 filters with h-swish in its stem."""
    rows = runs("stem", [90.0, 90.1], **V3L, stem_channels=16, stem_activation="hswish")
    rows += runs("stem", [90.0, 90.1], **V3L, stem_channels=32, stem_activation="relu")
    assert ask("v3-stem-accuracy", rows)["n"].tolist() == [2]


def test_one_seed_has_no_interval_and_no_verdict():
    rows = [*runs("se", [90.0], **V3L), *runs("se", [80.0], **V3L, se=False)]
    (row,) = ask("v3-se-accuracy", rows).to_dict("records")
    assert (row["ours"], row["verdict"]) == (10.0, "undecided")
    assert math.isnan(row["low"])
    assert "one seed has no interval" in row["why"]


def test_the_claims_own_model_comes_before_one_that_stands_in():
    small = [*runs("se", [90.0, 91.0], **V3S), *runs("se", [91.0, 92.1], **V3S, se=False)]
    narrow = [*runs("se", [90.0, 91.0], **V3L, width=0.35), *runs("se", [88.0, 89.1], **V3L, width=0.35, se=False)]
    table = ask("v3-se-accuracy", [*small, *narrow])
    assert table["verdict"].tolist() == ["reproduced", "contradicted"]
    assert "0.35 of the width" in table["on"].iloc[0]
    assert "mobilenet_v3_small for mobilenet_v3_large" in table["on"].iloc[1]
    assert headlines(table)["verdict"].tolist() == ["reproduced"]
    assert count_verdicts(table)["contradicted"] == 0
    longer = [*runs("se", [90.0, 91.0], **V3L, width=0.35, epochs=9)]
    longer += runs("se", [90.0, 91.0], **V3L, width=0.35, epochs=9, se=False)
    assert "9 epochs" in ask("v3-se-accuracy", [*small, *narrow, *longer])["on"].iloc[0]


def test_runs_of_every_machine_count_each_compared_on_its_own():
    """A machine that is two points better throughout changes nothing."""

    def on(device: str, level: float, seeds: int) -> list[dict[str, object]]:
        noise = [0.0, 0.05, -0.05][:seeds]
        rows = runs("se", [level + one for one in noise], **V3L)
        rows += runs("se", [level - 1 + one / 2 for one in noise], **V3L, se=False)
        return [{**row, "device": device} for row in rows]

    (alone,) = ask("v3-se-accuracy", on("one", 90, 3)).to_dict("records")
    (both,) = ask("v3-se-accuracy", [*on("one", 90, 3), *on("another", 92, 3)]).to_dict("records")
    assert (alone["n"], both["n"]) == (3, 6)
    assert both["ours"] == pytest.approx(alone["ours"]) == pytest.approx(1.0)
    assert both["high"] - both["low"] < alone["high"] - alone["low"]
    assert both["verdict"] == "reproduced"


def test_a_plan_counts_for_its_own_networks_alone():
    rows = [*runs("se", [90.0, 90.1, 90.2], **V3L), *runs("se", [89.0, 89.1, 89.3], **V3L, se=False)]
    cells = {name: Trial(**V3L, **more).run_id for name, more in (("paper", {}), ("se=false", {"se": False}))}

    def width(*plans_of_study: Plan) -> float:
        plans = {"se": plans_of_study}
        table = claims_table(
            [CLAIMS["v3-se-accuracy"]], runs=pd.DataFrame(rows), planned=planned(), latencies={}, plans=plans
        )
        return float(table["high"].iloc[0] - table["low"].iloc[0])

    first, other = Plan((3, 6, 12), 0.5, cells), Plan((3, 6, 12, 24), 0.5, {"paper": "another"})
    assert width(first) > width()
    assert width(other) == width()
    assert math.isnan(width(Plan((4, 8), 0.5, cells)))  # it has no look at three seeds
    assert width(other, first) == width(first)  # for example one's own quick study next to the published one


def test_no_model_stands_in_for_one_of_another_paper():
    rows = [*runs("width", [90.0, 90.1], **V3S), *runs("width", [88.0, 88.1], **V3S, width=0.75)]
    assert ask("v1-width-075", rows)["verdict"].tolist() == ["not tested here"]
    assert ask("v3-width-075", rows)["verdict"].tolist() == ["reproduced"]


def test_width_and_resolution_are_relative():
    """V1 table 5 at half the width; V3 table 9's 192 of 224 pixels are 24 of 28."""
    rows = runs("shallow", [90.0, 90.1, 90.0], **V1, shallow=True, width=0.5)
    rows += runs("shallow", [91.0, 91.2, 91.0], **V1, width=0.375)
    (row,) = ask("v1-thin-beats-shallow", rows).to_dict("records")
    assert (row["verdict"], "0.5 of the width" in row["why"]) == ("weaker", True)  # 1.1 points, 3.1 in the paper
    rows = [*runs("width", [90.0, 90.1], **V3L, width=0.75), *runs("resolution", [90.6, 90.7], **V3L, resolution=24)]
    plan = planned(run("width", 0, **V3L, width=0.75), run("resolution", 0, **V3L, resolution=24))
    (row,) = ask("v3-resolution-beats-width", rows, plan).to_dict("records")
    assert (row["verdict"], row["command"]) == ("reproduced", "make ablate-width && make ablate-resolution")


def test_user_images_are_distinguished_by_their_folder(tmp_path):
    def on_images(folder: str, tops: list[float], **settings) -> list[dict[str, object]]:
        where = {"dataset": "imagefolder", "data_dir": tmp_path / folder, "resolution": 28}
        return [{**row, "data_dir": str(where["data_dir"])} for row in runs("se", tops, **V3L, **where, **settings)]

    rows = [
        *on_images("cats", [90.0, 91.0]),
        *on_images("cats", [80.0, 81.1], se=False),
        *on_images("dogs", [99.0, 99.0], se=False),
    ]
    (row,) = ask("v3-se-accuracy", rows).to_dict("records")
    assert (row["verdict"], row["ours"]) == ("reproduced", pytest.approx(9.95))
    assert "imagefolder at 28 px" in row["why"]


@pytest.mark.parametrize(("images", "scale"), [(40, "at small scale: coco"), (5_000, "; coco")])
def test_images_of_ones_own_in_the_format_of_coco_are_not_the_papers(images: int, scale: str) -> None:
    where = {**V3L, "dataset": "coco", "head": "ssdlite", "images": "abc", "resolution": 64}
    rows = [
        {**run("detection", 0, seed=seed, **where, **toggles), "map": 20.0 + seed / 10, "test_images": images}
        for toggles in ({}, {"reduced_tail": True})
        for seed in (0, 1, 2)
    ]
    rows = [{name: value for name, value in row.items() if name != "top1"} for row in rows]
    (row,) = ask("v3-reduced-tail-map", rows).to_dict("records")
    assert scale in row["why"]


def test_the_effect_of_int8_is_what_remains_after_the_same_difference_in_float():
    hard, soft = {**V3L, "activation": "hswish"}, {**V3L, "activation": "swish", "se_gate": "sigmoid"}
    rows = [*runs("quantization", [90.0, 91.0], **hard), *runs("quantization", [91.0, 92.1], **soft)]
    rows += [*runs("quantization", [89.9, 90.9], **hard, precision="int8")]
    rows += [*runs("quantization", [89.0, 90.0], **soft, precision="int8")]
    (row,) = ask("v3-quantization-friendly", rows).to_dict("records")
    assert row["ours"] == pytest.approx((0.9 - -1.0 + 0.9 - -1.1) / 2)


def test_an_untested_claim_names_the_command_that_tests_it_or_the_reason():
    plan = planned(run("se", 0, **V3L), {**run("se", 0, **V3L, se=False)})
    (row,) = ask("v3-se-accuracy", [], plan).to_dict("records")
    assert (row["verdict"], row["why"]) == ("not tested here", "not trained yet; run make ablate-se")
    assert ask("v2-detection-map", [], planned())["why"].tolist() == ["there is no study detection yet"]
    assert ask("v4-two-stage-search-accuracy", [])["why"].str.startswith("it needs a search with shared weights").all()
    assert ask("v1-near-vgg16", [], planned())["why"].tolist() == ["VGG16 is not of the family"]
    assert ask("v3-se-latency", [])["command"].tolist() == ["make latency-se"]


@pytest.mark.parametrize(
    ("name", "ours", "verdict", "size"),
    [
        ("v1-width-madds", -527.7, "reproduced", "exact to the printed digits"),
        ("v1-separable-madds", -4298.6, "reproduced", "counted 4867.3 and 568.74: at most 0.046% off"),
        ("v1-pointwise-share", 94.857, "reproduced", "0.16% off"),
        ("v3-last-stage-madds", -34.318, "contradicted", "counted -34.318: 14% off"),
        ("v3-large-madds", 216.59, "reproduced", "1.1% off"),
        ("v3-se-params", 1.5123, "reproduced", "the paper prints no number"),
        ("v4-conv-l-madds", 6.3762, "contradicted", "8.1% off; as printed if counted in other units: 5.938"),
        ("v4-v3-large-05-cost", 2.6895, "reproduced", "exact to the printed digits"),
        ("v4-v2-15-cost", 9.2894, "reproduced", "at most 1.6% off"),
        ("v4-same-head", 58.86, "reproduced", "counted 7.7088 and 66.57"),
        ("v4-early-madds", 6.6458, "reproduced", "the paper prints no number"),
        ("v4-extradw-begins", 100, "reproduced", "exact to the printed digits"),
        ("v4-extradw-cheap", 2.854, "reproduced", "counted 184.93 and 187.79"),
    ],
)
def test_an_arithmetic_claim_is_counted_and_its_error_reported(name, ours, verdict, size):
    (row,) = ask(name, [], planned(run("separable", 0), run("uib", 0))).to_dict("records")
    assert row["ours"] == pytest.approx(ours, rel=1e-4)
    assert (row["verdict"], size in row["why"]) == (verdict, True)


def test_a_latency_claim_has_a_row_a_runtime_the_papers_own_first():
    measured = {"threads": 1, "precision": "fp32", "n": 30, "device": "a server", "fell_back": "", "why": ""}
    rows = [
        {"id": "v3-se-latency", "runtime": "onnxruntime", "ours": 1.15, "low": 1.14, "high": 1.16, **measured},
        {"id": "v3-se-latency", "runtime": "litert", "ours": 1.01, "low": 1.0, "high": 1.02, **measured},
        {"id": "v3-se-latency", "runtime": "eager", **measured, "ours": math.nan, "why": "simulated"},
    ]
    rows[1]["fell_back"] = "HARD_SWISH:21"
    table = ask("v3-se-latency", [], se=pd.DataFrame(rows))
    assert table["verdict"].tolist() == ["reproduced", "contradicted", "not tested here"]
    assert table["on"].iloc[0] == "litert fp32, 1 thread, a server"
    assert table["command"].iloc[0] == "make latency-se RUNTIME=litert THREADS=1"
    assert "HARD_SWISH:21" in table["why"].iloc[0]
    assert table["why"].iloc[2] == "simulated"


def test_every_runtime_has_its_place_among_the_latency_claims():
    measured = {"threads": 1, "precision": "fp32", "n": 30, "device": "x", "fell_back": "", "why": "", "ours": 1.0}
    row = {"id": "v3-se-latency", **measured, "low": 1.0, "high": 1.0}
    table = ask("v3-se-latency", [], se=pd.DataFrame([{**row, "runtime": name} for name in sorted(RUNTIMES)]))
    assert [on.split()[0] for on in table["on"]] == list(RUNTIMES)
    assert list(latency_claims_table(table).columns) == ["claim", "paper", *RUNTIMES]


def test_a_latency_claim_is_first_answered_one_image_at_a_time_and_a_gpu_has_no_threads():
    measured = {"threads": 1, "precision": "fp32", "n": 30, "fell_back": "", "why": "", "ours": 1.01, "low": 1.0,
                "high": 1.02, "id": "v3-se-latency"}  # fmt: skip
    gpu = {**measured, "runtime": "cuda-graphs", "device": "NVIDIA H200"}
    rows = [{**gpu, "batch": 32}, {**gpu, "batch": 1}, {**measured, "runtime": "eager", "device": "a server"}]
    rows[2] |= {"batch": 1, "threads": 2}
    table = ask("v3-se-latency", [], se=pd.DataFrame(rows))
    assert table["on"].tolist() == [
        "eager fp32, 2 threads, a server",
        "cuda-graphs fp32, NVIDIA H200",
        "cuda-graphs fp32, batch 32, NVIDIA H200",
    ]
    assert table["command"].tolist()[1:] == [
        "make latency-se RUNTIME=cuda-graphs",
        "make latency-se RUNTIME=cuda-graphs BATCH=32",
    ]
    assert table["why"].iloc[0].endswith("on a server's processor instead of a phone's")
    assert table["why"].iloc[1].endswith("on a GPU instead of a phone's processor")
    shown = latency_claims_table(table.assign(ours=[1.01, 1.02, 1.03]))
    assert list(shown.columns) == ["claim", "paper", "eager", "cuda-graphs"]
    assert shown.frame()["cuda-graphs"].iloc[0].startswith("1.020")


def test_every_machine_is_evidence_for_a_latency_claim_and_the_one_that_measured_last_heads_it(tmp_path):
    claim = {"id": "v3-se-latency", "variant": "se", "runtime": "litert", "threads": 1, "batch": 1, "n": 5, "why": ""}
    claim |= {"precision": "fp32"}
    for device, low in (("a server", 1.1), ("a laptop", 1.2), ("a server", 1.3)):
        times = pd.DataFrame([{**dict.fromkeys(KEY, ""), **claim, "undelegated_ops": device, "device": device}])
        keep(tmp_path / "se", times.assign(stopped="", median_ms=1, ratio=1, low=1, high=1),
             pd.DataFrame([{**claim, "ours": 1.2, "low": low, "high": 1.4, "verdict": ""}]))  # fmt: skip
    table = ask("v3-se-latency", [], se=_latency_claims(tmp_path, "se"))
    assert table["on"].tolist() == ["litert fp32, 1 thread, a server", "litert fp32, 1 thread, a laptop"]
    assert table["low"].tolist() == [1.3, 1.2]
    assert [why.split(": ")[-1] for why in table["why"]] == ["a server", "a laptop"]  # outside its fast kernels


def test_the_claims_of_a_study_name_the_device_of_each_runtime(tmp_path):
    (tmp_path / "se").mkdir()
    claims = pd.DataFrame({"id": "v3-se-latency", "variant": "paper", "runtime": ["eager", "cuda-graphs"]})
    claims.assign(threads=1, ours=1.0, low=0.9, high=1.1, n=5, verdict="", why="").to_csv(
        tmp_path / "se/latency-claims.csv", index=False
    )  # from before the column `batch`
    times = {"variant": "paper", "runtime": ["eager", "cuda-graphs", "cuda-graphs"], "batch": [1, 1, 32]}
    devices = ["a server", "a GPU", "another GPU"]
    times = pd.DataFrame({**times, "threads": 1, "undelegated_ops": ["slow:1", "", ""], "device": devices})
    times.assign(stopped="", median_ms=1.0, ratio=1.0, low=1.0, high=1.0).to_csv(
        tmp_path / "se/latency.csv", index=False
    )
    rows = _latency_claims(tmp_path, "se").set_index("runtime")
    assert rows["device"].to_dict() == {"eager": "a server", "cuda-graphs": "a GPU"}
    assert (rows["batch"].tolist(), rows["fell_back"].tolist()) == ([1, 1], ["slow:1", ""])


def test_a_number_from_memory_is_never_printed_as_the_papers():
    claim = Claim(**{**vars(CLAIMS["v3-relu-accuracy"]), "verified": False})
    assert ask(claim, [])["paper_value"].isna().all()
    assert ask("v3-relu-accuracy", [])["paper_value"].tolist() == [-0.7]
    assert ask("v3-stem-latency", [])["paper_value"].isna().all()  # the paper prints milliseconds, ours is a ratio
    assert ask("v1-resolution", [])["paper_value"].tolist() == [-6.2]


def test_a_folder_that_cannot_be_read_is_one_error(tmp_path, capsys, monkeypatch):
    of_se = tuple(claim for claim in CLAIMS.values() if claim.study == "se")
    monkeypatch.setattr(evaluation, "load_claims", lambda path: of_se)
    monkeypatch.setattr(evaluation, "PROFILES", ("quick", evaluation.DECIDING))
    assert program.main([f"--out={tmp_path / 'nowhere'}"]) == 2
    assert "error: no folder" in capsys.readouterr().err
    (tmp_path / "se").mkdir()
    shutil.copy(PUBLISHED / "se/runs.csv", tmp_path / "se/runs.csv")  # claims can be judged, no page can be written
    assert program.main([f"--out={tmp_path}"]) == 2
    message = capsys.readouterr()
    assert message.err.startswith("error: no study has results in")
    assert "v3-se-accuracy" in message.out
    assert set(read_table(tmp_path / "claims.csv")["id"]) == {claim.id for claim in of_se}


def test_runs_from_pretrained_weights_are_paired_only_with_each_other(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"of which only the hash counts here")
    start = {"pretrained": str(tmp_path / "weights.pth")}
    without = runs("se", [90.0, 91.0, 92.0], **V3L)
    started = runs("se", [70.0, 71.0, 72.0], **V3L, **start)
    lost = runs("se", [69.0, 70.1, 70.9], **V3L, se=False, **start)
    plan = planned(run("se", 0, **V3L), run("se", 0, **V3L, se=False))
    (row,) = ask("v3-se-accuracy", [*without, *started, *lost], plan).to_dict("records")
    assert row["n"] == 3
    assert row["ours"] == pytest.approx((1.0 + 0.9 + 1.1) / 3)
    assert f"from {start['pretrained']}" in row["on"]
    (row,) = ask("v3-se-accuracy", [*without, *lost], plan).to_dict("records")
    assert row["verdict"] == "not tested here"


def test_dead_kernels_are_judged_by_whether_most_died_in_the_published_model():
    name = "v1-dead-depthwise-kernels"

    def died(shares, **settings) -> list[dict[str, object]]:
        return [
            {**run("dead-kernels", 80, seed=i, **V1, **settings), "dead_kernels": one} for i, one in enumerate(shares)
        ]

    (row,) = ask(name, died([0.0, 0.1, 0.2])).to_dict("records")
    assert (row["verdict"], row["n"], row["ours"]) == ("contradicted", 3, pytest.approx(0.1))
    assert row["high"] < 50
    strong = died([90.0, 92.0, 94.0], weight_decay=0.5)
    other = died([99.0, 99.0, 99.0], activation="hswish")  # not the published V1
    first, second = ask(name, [*strong, *other, *died([0.0, 0.1, 0.2])]).to_dict("records")
    assert (first["verdict"], second["verdict"]) == ("contradicted", "reproduced")  # the recipe's own decay first
    assert "weight_decay=0.5" in second["on"]
    (row,) = ask(name, died([20.0, 60.0, 80.0])).to_dict("records")
    assert row["verdict"] == "undecided"
    (row,) = ask(name, runs("width", [80.0, 81.0], **V1)).to_dict("records")  # trained before dead kernels were counted
    assert (row["verdict"], row["why"]) == ("not tested here", "not trained yet; run make ablate-dead-kernels")


def test_netadapt_is_judged_against_the_scaled_network_of_the_same_cost():
    claim = CLAIMS["v3-netadapt"]

    def judge(low: float, high: float) -> dict[str, object]:
        cells = {"cell": ["width=0.5", "model=network.yaml"], "pairs": [None, 5], "delta": [None, (low + high) / 2]}
        table = pd.DataFrame({**cells, "low": [None, low], "high": [None, high]})
        plan, frame = planned(run("se", 0)), pd.DataFrame([run("se", 0, **V1)])
        result = claims_table([claim], runs=frame, planned=plan, latencies={}, searches={"netadapt-x": table})
        return result.iloc[0].to_dict()

    row = judge(0.2, 0.6)
    assert (row["verdict"], row["n"], row["ours"], row["command"]) == ("reproduced", 5, 0.4, "make search")
    assert (row["baseline"], row["variant"]) == ("width=0.5", "model=network.yaml")
    assert judge(-0.6, -0.2)["verdict"] == "contradicted"
    assert judge(-0.1, 0.6)["verdict"] == "undecided"
    (row,) = ask(claim, []).to_dict("records")
    assert (row["verdict"], row["why"]) == ("not tested here", "not searched yet; run make search")
