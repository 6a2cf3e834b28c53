"""The kit for a phone end to end, with a fake `adb` that prints what a phone and the runtimes' programs print.

Printed formats: LiteRT's documentation ("Performance measurement") and benchmark_model.cc, executor_runner.cpp of
ExecuTorch 1.5 (through Android's log), performance_runner.cc of ONNX Runtime.
"""

import os
import subprocess
from pathlib import Path

import latency_android
import numpy as np
import pandas as pd
import pytest

from mnet.errors import ConfigError
from mnet.latency import paired
from mnet.latency.comparison import COLUMNS
from mnet.latency.phone import RUNNERS, import_results, write_kit
from mnet.latency.phone.kit import read_manifest
from mnet.latency.runtimes import ExportError, ProgramInfo
from mnet.latency.runtimes.torch_eager import TorchProgram

TFLITE = """STARTING!
Log parameter values verbosely: [0]
Num threads: [1]
Graph: [/data/local/tmp/mnet/models/00-paper.tflite]
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=41 first=18535 curr=14400 min=14200 max=18535 avg=14462.3 std=640{warm}
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=69 first=14410 curr=14523 min=14311 max=15102 avg=14575.2 std=96{timed}
INFO: Inference timings in us: Init: 5685, First inference: 18535, Warmup (avg): 14462.3, Inference (avg): {mean}
exit status: 0
"""
PTE = """--------- beginning of main
11-25 10:00:01.000  4242  4242 I ExecuTorch: Resetting threadpool with num threads = 1
11-25 10:00:01.100  4242  4242 I ExecuTorch: Model file /data/local/tmp/mnet/models/00-paper.pte is loaded.
11-25 10:00:01.500  4242  4242 I ExecuTorch: Model executed successfully 100 time(s) in 345.678000 ms.
exit status: 0
"""
ONNX = """Setting intra_op_num_threads to 1
Session creation time cost: 0.0217932 s
First inference time cost: 19 ms
Total inference time cost: 0.49481 s
Total inference requests: 50
Average inference time cost{total}: 9.8961997 ms
Total inference run time: 0.494854 s
Number of inferences per second: 101.04
Avg CPU usage: 11 %
{p50}exit status: 0
"""


@pytest.mark.parametrize(
    ("suffix", "text", "seconds"),
    [
        (".tflite", TFLITE.format(warm="", timed="", mean="14575.2"), 0.0145752),
        (".tflite", TFLITE.format(warm="", timed="", mean="1.20931e+06"), 1.20931),
        (
            ".tflite",
            TFLITE.format(warm=" p5=1 median=14444 p95=3", timed=" p5=1 median=14512 p95=3", mean=14575),
            0.014512,
        ),
        (".pte", PTE, 0.00345678),
        (
            ".pte",
            "I 00:00:00.2 executorch:runner.cpp:520] Model executed successfully 4 time(s) in 8.0 ms.",
            0.002,
        ),
        (".onnx", ONNX.format(total="", p50=""), 0.0098961997),
        (".onnx", ONNX.format(total=" total", p50="P50 Latency: 0.0095086 s\nP90 Latency: 0.01 s\n"), 0.0095086),
        (".onnx", ONNX.format(total="", p50="P50 Latency is 0.0587108sec\n"), 0.0587108),
        (".tflite", TFLITE.format(warm=" median=14444", timed="", mean="").split("INFO: Inference timings")[0], np.nan),
        (".pte", "I ExecuTorch: Model file a.pte is loaded.\nF ExecuTorch: In function main(), assert failed", np.nan),
        (".pte", "\x00\xff\n\n= median=3", np.nan),
        (".onnx", "", np.nan),
    ],
)
def test_the_output_of_each_program_is_parsed(suffix, text, seconds):
    assert RUNNERS[suffix].seconds(text) == pytest.approx(seconds, nan_ok=True)


ADB = """#!/bin/sh
# A fake phone. $PHONE has its files, and switches for failures.
case $1 in
    start-server) echo "* daemon not running; starting now" >&2 ;;
    get-state)
        [ ! -f "$PHONE/gone" ] || { echo "error: no devices/emulators found" >&2; exit 1; }
        echo device ;;
    push) mkdir -p "$PHONE/$(basename "$3")" && cp -r "$2" "$PHONE/$(basename "$3")" ;;
    logcat) case $2 in -c) : >"$PHONE/log" ;; *) cat "$PHONE/log" ;; esac ;;
    shell)
        case $2 in
            "getprop ro.product.model") printf 'Pixel 8\\r\\n' ;;
            "getprop ro.soc.model") echo "Tensor G3" ;;
            getprop*) echo x ;;
            *scaling_governor*) echo sched_pixel ;;
            *cpu7*scaling_cur_freq*) echo 2914000 ;;
            *scaling_cur_freq* | *thermal_zone0*) exit 1 ;; # unreadable
            "dumpsys battery")
                printf '  level: 80\\n  temperature: 2%s\\n' "$(cat "$PHONE/count" 2>/dev/null || echo 80)" ;;
            *taskset*)
                echo "$2" >>"$PHONE/calls"
                count=$(($(cat "$PHONE/count" 2>/dev/null || echo 10) + 1))
                echo $count >"$PHONE/count"
                [ "$count" != "$(cat "$PHONE/disconnect_at" 2>/dev/null)" ] || { touch "$PHONE/gone"; exit 1; }
                case $2 in
                    *silent*) ;; # a build without logging
                    *broken*) echo "INFO: Loaded"; echo "ERROR: Failed to load the model" >&2; exit 1 ;;
                    *executor_runner*)
                        case $2 in *relu*) count=$((count + 10)) ;; esac
                        echo "I ExecuTorch: Model executed successfully 50 time(s) in $count.0 ms." >>"$PHONE/log" ;;
                    *) echo "INFO: count=50 first=9 median=5 p95=9"
                       echo "INFO: Inference timings in us: Init: 1, Warmup (avg): 2, Inference (avg): 9" ;;
                esac ;;
        esac ;;
esac
"""


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """The folder of a fake phone, with its `adb` first on the path."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "adb").write_text(ADB)
    (tools / "adb").chmod(0o755)
    (tmp_path / "phone").mkdir()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(tmp_path / "phone"))
    monkeypatch.setenv("PAUSE", "0")
    return tmp_path / "phone"


def models(folder: Path, *names: str) -> dict[str, Path]:
    """Write a file for each of `names`, `variant.suffix`; return variant -> file."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        (folder / f"{i}{Path(name).suffix}").write_text(name)
    return {str(Path(name).stem): folder / f"{i}{Path(name).suffix}" for i, name in enumerate(names)}


def kit(folder: Path, *names: str, **settings) -> Path:
    write_kit(models(folder.parent / "exported", *names), folder, **settings)
    for runner in RUNNERS.values():
        (folder / "bin" / runner.binary).write_text("")
    return folder


def run(folder: Path, **settings: str) -> subprocess.CompletedProcess:
    command = ["sh", str(folder / "run.sh")]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)


def test_a_kit_runs_on_a_phone_and_its_output_becomes_a_table(phone, tmp_path):
    names = ("paper.pte", "relu.pte", "broken.pte", "silent.pte", "se=true, se_ratio='0.5' $(reboot).tflite")
    folder = kit(tmp_path / "kit", *names)
    assert subprocess.run(["sh", "-n", str(folder / "run.sh")]).returncode == 0
    done = run(folder, ROUNDS="10")
    assert done.returncode == 0, done.stderr
    assert "round 10 of 10" in done.stdout
    frame = import_results(folder)
    assert list(frame.columns) == list(COLUMNS)
    paper, relu, broken, silent, named = frame.to_dict("records")
    assert (paper["ratio"], paper["stopped"], paper["rounds"]) == (1, "baseline", 10)
    assert relu["stopped"] == "phone"
    assert 1 < relu["low"] <= relu["ratio"] <= relu["high"]
    assert broken["stopped"] == "failed: ERROR: Failed to load the model"
    assert np.isnan(broken["ratio"])
    assert silent["stopped"] == "failed: nothing was printed; is it a build without logging?"
    assert named["variant"] == "se=true, se_ratio='0.5' $(reboot)"
    assert named["median_ms"] == pytest.approx(0.005)
    device = frame.attrs["device"]
    assert (device["model"], device["soc"]) == ("x Pixel 8", "Tensor G3 x")
    assert (device["governor"], device["khz"], device["threads"]) == ("sched_pixel", "2914000", "1")
    assert device["battery"] == "280 to 260"
    assert b"\r" not in (folder / "printed/device.txt").read_bytes()
    assert "zone0" not in device
    assert len(frame.attrs["failed"]) == 20


def test_every_round_has_each_model_once_in_a_random_order_on_the_big_cores(phone, tmp_path):
    folder = kit(tmp_path / "kit", "paper.tflite", "relu.onnx", "hswish.pte", threads=2)
    assert run(folder, ROUNDS="9", BIG_CORES="80").returncode == 0
    calls = (phone / "calls").read_text().splitlines()
    assert len(calls) == 27
    rounds = [tuple(call.split("/bin/")[1].split()[0] for call in calls[i : i + 3]) for i in range(0, 27, 3)]
    assert all(set(programs) == {"benchmark_model", "onnxruntime_perf_test", "executor_runner"} for programs in rounds)
    assert len(set(rounds)) > 2
    assert all("taskset 80 " in call for call in calls)
    (flags,) = {call.split("benchmark_model ")[1] for call in calls if "benchmark_model" in call}
    assert flags == (
        "--graph=/data/local/tmp/mnet/models/00-paper.tflite --num_threads=2 --num_runs=50 --warmup_runs=10 "
        "--use_xnnpack=true --enable_op_profiling=false"
    )
    assert sorted(path.name for path in (phone / "models").iterdir()) == [
        "00-paper.tflite",
        "01-relu.onnx",
        "02-hswish.pte",
    ]


def test_a_disconnected_phone_costs_one_round(phone, tmp_path):
    folder = kit(tmp_path / "kit", "paper.pte", "relu.pte")
    (phone / "disconnect_at").write_text("16")  # in round 3
    stopped = run(folder, ROUNDS="9")
    assert (stopped.returncode, stopped.stderr) == (
        1,
        "error: the phone was disconnected in round 3; attach it and run this again\n",
    )
    few = import_results(folder).set_index("variant").loc["relu"]
    assert few["stopped"] == "2 rounds; an interval needs 9"
    assert few["ratio"] > 1
    assert np.isnan(few["low"])
    (phone / "gone").unlink()
    assert run(folder, ROUNDS="9").returncode == 0
    assert len((phone / "calls").read_text().splitlines()) == 2 * 9 + 2
    assert set(import_results(folder)["stopped"]) == {"baseline", "phone"}
    changed = run(folder, ROUNDS="9", THREADS="2")
    assert "printed/ has results of another phone or setting" in changed.stderr


@pytest.mark.parametrize(
    ("settings", "broken", "message"),
    [
        ({"PATH": "/usr/bin:/bin"}, "", "adb is not installed"),
        ({}, "gone", "no phone is ready (adb: error: no devices/emulators found)"),
        ({}, "binary", "bin/executor_runner is missing; the head of run.sh"),
        ({"BIG_CORES": "f0; reboot"}, "", "BIG_CORES must be a hexadecimal mask such as f0"),
        ({"ROUNDS": "many"}, "", "ROUNDS, RUNS, WARMUP, THREADS and PAUSE must be whole numbers, not 'many'"),
        ({"REMOTE": "/x; reboot"}, "", "REMOTE must be a plain path"),
    ],
)
def test_the_script_fails_with_one_line(phone, tmp_path, settings, broken, message):
    folder = kit(tmp_path / "kit", "paper.pte")
    if broken == "binary":
        (folder / "bin/executor_runner").unlink()
    elif broken:
        (phone / broken).touch()
    done = run(folder, **settings)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (phone / "calls").exists()


def printed(folder: Path, **milliseconds: list[float | str]) -> None:
    """Write the output of a phone by model and round: a time in ms, or another text."""
    (folder / "printed").mkdir()
    names = {file.split(".")[0][3:]: file for file in read_manifest(folder)["models"]}
    for name, times in milliseconds.items():
        for i, value in enumerate(times, 1):
            line = f"Model executed successfully 1 time(s) in {value} ms.\nexit status: 0\n"
            text = value if isinstance(value, str) else line
            (folder / f"printed/{i}-{names[name]}.txt").write_text(text)


def test_the_ratio_is_paired_by_round(tmp_path):
    folder = kit(tmp_path / "kit", "paper.pte", "relu.pte")
    speed = np.linspace(1, 3, 12)  # a phone that slows down threefold, which pairing cancels
    paper, relu = 5 * speed, 5.5 * speed * np.exp(np.random.default_rng(0).normal(0, 0.002, 12))
    killed = "Model executed successfully 1 time(s) in 99.0 ms.\nKilled \nexit status: 137\n"
    printed(folder, paper=list(paper), relu=[*relu[:10], killed, "\x00\xff garbage"])
    row = import_results(folder).set_index("variant").loc["relu"]
    expected = paired.ratio(relu[:10], paper[:10], 0.01)
    values = (expected.value, expected.low, expected.high)
    assert (row["ratio"], row["low"], row["high"]) == pytest.approx(values, rel=1e-6)
    assert row["rounds"] == 10
    assert row["high"] - row["low"] < 0.01
    failed = {"relu, round 11": "Killed", "relu, round 12": r"no time after '\x00ÿ garbage'"}
    assert import_results(folder).attrs["failed"] == failed
    inverse = import_results(folder, baseline="relu").set_index("variant").loc["paper"]
    assert inverse["ratio"] == pytest.approx(1 / row["ratio"])


def test_without_the_baseline_a_phone_still_has_medians(tmp_path):
    folder = kit(tmp_path / "kit", "paper.pte", "relu.pte")
    printed(folder, paper=["error: closed\nexit status: 255\n"] * 9, relu=[4.0] * 9)
    paper, relu = import_results(folder).to_dict("records")
    assert paper["stopped"] == "failed: error: closed"
    assert (relu["stopped"], relu["median_ms"]) == ("no ratio: the baseline paper failed", 4)


def test_invalid_arguments_raise_one_line(tmp_path):
    given = models(tmp_path / "exported", "paper.pte", "relu.pte")
    for programs, settings, message in (
        ({}, {}, "no models"),
        ({"a": tmp_path / "missing.pte"}, {}, "the model of 'a' is missing"),
        ({"a": tmp_path / "net.tflit"}, {}, "unknown suffix of a model '.tflit'.*Did you mean .tflite"),
        (given, {"baseline": "papr"}, "unknown baseline 'papr'.*Did you mean paper"),
        (given, {"rounds": 8}, "rounds is 8; an interval needs at least 9"),
        (given, {"threads": 0}, "threads must be at least 1, not 0"),
        (given, {"big_cores": "f0; reboot"}, "hexadecimal mask of cores"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_kit(programs, tmp_path / "kit", **settings)
    assert not (tmp_path / "kit").exists()
    with pytest.raises(ConfigError, match=r"is not a kit for a phone: it has no manifest\.json"):
        import_results(tmp_path)
    folder = kit(tmp_path / "kit", "paper.pte", "relu.pte")
    with pytest.raises(ConfigError, match=r"printed is empty: run .*run\.sh with a phone"):
        import_results(folder)
    with pytest.raises(ConfigError, match="unknown baseline 'rel'"):
        import_results(folder, baseline="rel")
    printed(folder, paper=[1.0])
    write_kit(given, folder, rounds=20)  # the same models keep their results
    with pytest.raises(ConfigError, match="results of other models"):
        write_kit(dict(list(given.items())[:1]), folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        import_results(folder)


class FakeRuntime:
    """Writes the shape of the example to a file, and refuses ReLU6."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder

    def prepare(self, module, example):
        name = module.network.stem.activation
        if name == "relu6":
            raise ExportError("no relu6 here")
        self.folder.mkdir(exist_ok=True)
        file = self.folder / f"{name}.pte"
        file.write_text(str(tuple(example.shape)))
        facts = {"runtime": self.name, "version": "1", "kernels": "", "precision": "fp32", "threads": 1}
        return TorchProgram(module, ProgramInfo(**facts, file=str(file)))


def test_a_study_becomes_a_kit_and_its_output_a_csv(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latency_android, "make_runtime", FakeRuntime)
    arguments = ["activation", "--runtime=executorch", "--width=0.25", "--resolution=40", f"--out={tmp_path}"]
    arguments += ["--activation=paper,relu6,relu", "--profile=quick"]
    assert latency_android.main(arguments) == 1
    folder = tmp_path / "latency-android/activation/executorch"
    captured = capsys.readouterr()
    assert captured.err == "relu6 is left out: no relu6 here\n"
    assert f"sh {folder}/run.sh" in captured.out
    assert [model["variant"] for model in read_manifest(folder)["models"].values()] == ["paper", "relu"]
    assert (folder / "models/01-relu.pte").read_text() == "(1, 1, 40, 40)"
    printed(folder, paper=[4.0] * 9, relu=[3.0] * 9)
    assert latency_android.main([f"--import={folder}"]) == 0
    assert "0.750" in capsys.readouterr().out
    assert list(pd.read_csv(folder / "latency.csv")["ratio"]) == pytest.approx([1, 0.75])
    for wrong in ([f"--import={tmp_path}"], ["activation", "--runtime=eager"], []):
        assert latency_android.main(wrong) == 2
    captured = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in captured] == ["error"] * 3
    assert "unknown runtime for a phone 'eager'; one of litert, executorch, onnxruntime." in captured[1]
