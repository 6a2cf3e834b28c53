"""Latency on an Android phone: a folder with models and a script for it, and what comes back as a table.

    folder = write_kit({"paper": Path("a.tflite"), "relu": Path("b.tflite")}, Path("results/phone"))
    # sh results/phone/run.sh, with a phone attached
    frame = import_results(folder)

The script (`phone.sh`) calls the benchmark program that each runtime ships. To add a runtime: a line in `RUNNERS`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from mnet.errors import ConfigError, unknown
from mnet.files import write_atomic, write_json
from mnet.latency.comparison import COLUMNS
from mnet.latency.paired import MIN_ROUNDS, ratio

SCRIPT = Path(__file__).with_suffix(".sh")
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A runtime's own benchmark program."""

    runtime: str
    """One of `mnet.latency.runtimes.RUNTIMES`."""
    binary: str
    source: str
    """Where it comes from."""
    arguments: str
    """In the script's shell, which knows $MODEL, $THREADS, $RUNS and $WARMUP."""
    printed: Sequence[tuple[str, float]]
    """Patterns of a time, of one inference or of so many calls, and seconds in its unit; the first pattern that is
    found counts, at its last place."""
    ends: str = ""
    """Without this text it did not come to its end."""
    log: str = ""
    """Tag under which it writes to the phone's log instead."""

    def seconds(self, text: str) -> float:
        """Of one inference; nan where the text does not say."""
        if self.ends not in text:
            return math.nan
        for pattern, unit in self.printed:
            if found := list(re.finditer(pattern, text)):
                last = found[-1].groupdict()
                return float(last["time"]) * unit / max(1, int(last.get("calls", 1)))
        return math.nan


NUMBER = r"(?P<time>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"

RUNNERS: Mapping[str, Runner] = {
    ".tflite": Runner(
        runtime="litert",
        binary="benchmark_model",
        source="LiteRT's, once TFLite's, benchmark tool: 'Performance measurement' of LiteRT's documentation has it "
        "built for Android, as android_aarch64_benchmark_model; rename it",
        arguments="--graph=$MODEL --num_threads=$THREADS --num_runs=$RUNS --warmup_runs=$WARMUP --use_xnnpack=true "
        "--enable_op_profiling=false",
        printed=((rf"count=\d+ .*\bmedian={NUMBER}", 1e-6), (rf"Inference \(avg\): {NUMBER}", 1e-6)),
        ends="Inference timings in us",
    ),
    ".pte": Runner(
        runtime="executorch",
        binary="executor_runner",
        source="ExecuTorch's sources, of the version that exported: cmake --preset android-arm64-v8a "
        "-DEXECUTORCH_BUILD_EXECUTOR_RUNNER=ON -DEXECUTORCH_BUILD_XNNPACK=ON -DEXECUTORCH_ENABLE_LOGGING=ON. It cannot "
        "warm up: its mean has the first call in it, so RUNS should be 50 or more",
        arguments="--model_path=$MODEL --num_executions=$RUNS --cpu_threads=$THREADS",
        printed=((rf"executed successfully (?P<calls>\d+) time\(s\) in {NUMBER} ms", 1e-3),),
        log="ExecuTorch",
    ),
    ".onnx": Runner(
        runtime="onnxruntime",
        binary="onnxruntime_perf_test",
        source="ONNX Runtime's sources: ./build.sh --android --android_abi arm64-v8a --config Release; "
        "libonnxruntime.so beside it if it was built shared",
        arguments="-e cpu -m times -r $RUNS -x $THREADS -y 1 -o 99 -s -I $MODEL",
        printed=(
            (rf"P50 Latency(?::| is) {NUMBER} ?s", 1),
            (rf"Average inference time cost(?: total)?: {NUMBER} ms", 1e-3),
        ),
    ),
}
"""Suffix of a model -> what runs it. Sources of the patterns: LiteRT's documentation and benchmark_model.cc,
executor_runner.cpp of ExecuTorch 1.5, performance_runner.cc of ONNX Runtime."""

TROUBLE = re.compile(r"error|fail|abort|denied|not found|no such|cannot|killed|segmentation| F ", re.IGNORECASE)
"""In the line that tells why a program did not come to its end."""


def write_kit(
    programs: Mapping[str, Path],
    folder: Path,
    *,
    baseline: str | None = None,
    threads: int = 1,
    rounds: int = 15,
    runs: int = 50,
    warmup: int = 10,
    big_cores: str = "f0",
    seed: int = 0,
) -> Path:
    """Write the models and `run.sh`, which times them on a phone.

    Args:
        programs: Exported models by variant; the suffix tells the runtime, one of `RUNNERS`.
        folder: Where to; of a kit that was run before, its results stay if the models are the same.
        baseline: A variant; None = the first.
        threads: A model may use.
        rounds: In which each variant runs once; at least `MIN_ROUNDS`.
        runs: Inferences a process.
        warmup: Inferences before, where the benchmark program can.
        big_cores: Mask of the cores to run on, hexadecimal.
        seed: Of the order within rounds.

    Returns:
        The script.

    Raises:
        ConfigError: No model, a missing one, an unknown suffix or baseline, a number that is out of range, or a folder
            with results of other models.
    """
    baseline = check_kit(programs, baseline, rounds, big_cores, threads=threads, runs=runs, warmup=warmup)
    contents = {name: path.read_bytes() for name, path in programs.items()}
    models = {
        f"{i:02d}-{slug(name)}{path.suffix}": {
            "variant": name,
            "runtime": RUNNERS[path.suffix].runtime,
            "sha256": hashlib.sha256(contents[name]).hexdigest(),
        }
        for i, (name, path) in enumerate(programs.items())
    }
    if any((folder / "printed").glob("*.txt")) and read_manifest(folder)["models"] != models:
        raise ConfigError(f"{folder}/printed has results of other models; import them, then move the folder away")
    for file, model in models.items():
        content = contents[model["variant"]]
        write_atomic(folder / "models" / file, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    for stale in {path.name for path in (folder / "models").iterdir()} - models.keys():
        (folder / "models" / stale).unlink()  # of a kit that was never run; the script would copy it
    (folder / "bin").mkdir(exist_ok=True)
    write_json(folder / MANIFEST, {"baseline": baseline, "models": models})
    random = np.random.default_rng(seed)
    schedule = [" ".join(random.permutation(list(models))) for _ in range(rounds)]
    write_atomic(
        folder / "schedule.txt", lambda stream: stream.write("".join(f"{line}\n" for line in schedule).encode())
    )
    used = {path.suffix: RUNNERS[path.suffix] for path in programs.values()}
    numbers = {"ROUNDS": rounds, "RUNS": runs, "WARMUP": warmup, "THREADS": threads, "BIG_CORES": big_cores}
    script = script_for(used, {name: shlex.quote(str(value)) for name, value in numbers.items()})
    write_atomic(folder / "run.sh", lambda stream: stream.write(script.encode()))
    (folder / "run.sh").chmod(0o755)
    return folder / "run.sh"


def check_kit(programs: Mapping[str, Path], baseline: str | None, rounds: int, big_cores: str, **counts: int) -> str:
    """
    Returns:
        The baseline.

    Raises:
        ConfigError: As `write_kit`.
    """
    if not programs:
        raise ConfigError("no models to write for the phone")
    for name, path in programs.items():
        if path.suffix not in RUNNERS:
            raise unknown("suffix of a model", path.suffix, RUNNERS)
        if not path.is_file():
            raise ConfigError(f"the model of {name!r} is missing: {path}")
    if baseline is not None and baseline not in programs:
        raise unknown("baseline", baseline, programs)
    if rounds < MIN_ROUNDS:
        raise ConfigError(f"rounds is {rounds}; an interval needs at least {MIN_ROUNDS}")
    for name, value in counts.items():
        if value < (name != "warmup"):
            raise ConfigError(f"{name} must be at least {int(name != 'warmup')}, not {value}")
    if not re.fullmatch("[0-9a-fA-F]+", big_cores) or not int(big_cores, 16):
        raise ConfigError(f"big_cores is a hexadecimal mask of cores as f0, not {big_cores!r}")
    return next(iter(programs)) if baseline is None else baseline


def slug(variant: str) -> str:
    """What is left of a name in the name of a file: nothing that a shell reads."""
    return re.sub("[^a-z0-9._]+", "-", variant.lower())[:40].strip("-._") or "model"


def script_for(used: Mapping[str, Runner], numbers: Mapping[str, str]) -> str:
    """`phone.sh` with the programs that are needed."""
    lines = {
        "SOURCES": "\n".join(f"#   bin/{one.binary}\n{comment(one.source)}" for one in used.values()),
        "BINARIES": " ".join(shlex.quote(one.binary) for one in used.values()),
        "COMMANDS": "\n".join(
            f'        *{suffix}) COMMAND="{one.binary} {one.arguments}" LOG={shlex.quote(one.log)} ;;'
            for suffix, one in used.items()
        ),
        "MIN_ROUNDS": str(MIN_ROUNDS),
        **numbers,
    }
    return re.sub("@([A-Z_]+)@", lambda found: lines[found[1]], SCRIPT.read_text())


def comment(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent="#       ", subsequent_indent="#       ", break_on_hyphens=False)


def import_results(folder: Path, baseline: str | None = None) -> pd.DataFrame:
    """What the phone printed, as the table of `compare`.

    Args:
        folder: Of `write_kit`, after its script has run there, to the end or not.
        baseline: A variant; None = the kit's.

    Returns:
        One row a variant: `variant, median_ms, ratio, low, high, rounds, stopped`. A ratio is over the rounds in which
        both ran. `stopped` is baseline, phone, failed with the first line that says why, or, where fewer than
        `MIN_ROUNDS` rounds allow no interval, how many there are; then `low` and `high` are nan and the ratio is kept.
        `attrs["device"]` says what the phone was and its state from the first round to the last, `attrs["failed"]`
        what single runs failed of.

    Raises:
        ConfigError: No kit in the folder, nothing printed yet, or an unknown baseline.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    names = [model["variant"] for model in manifest["models"].values()]
    baseline = manifest["baseline"] if baseline is None else baseline
    if baseline not in names:
        raise unknown("baseline", baseline, names)
    times: dict[str, dict[int, float]] = {}
    failed: dict[str, dict[int, str]] = {}
    for file, model in manifest["models"].items():
        name, suffix = model["variant"], Path(file).suffix
        times[name], failed[name] = read_printed(folder / "printed", file, RUNNERS[suffix])
    if not any(times.values()) and not any(failed.values()):
        raise ConfigError(f"{folder}/printed is empty: run {folder / 'run.sh'} with a phone attached")
    rows = [row(name, baseline, times, failed[name]) for name in names]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["device"] = read_device(folder / "printed")
    frame.attrs["failed"] = {f"{name}, round {i}": why for name in names for i, why in sorted(failed[name].items())}
    return frame


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    Raises:
        ConfigError: There is none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        known = all(Path(file).suffix in RUNNERS and model["variant"] for file, model in manifest["models"].items())
        if not known or "baseline" not in manifest:
            raise KeyError("models")
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no kit for a phone: it has no {MANIFEST}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); write the kit again") from None
    return cast(dict[str, Any], manifest)


def read_printed(printed: Path, file: str, runner: Runner) -> tuple[dict[int, float], dict[int, str]]:
    """Of one model by round: seconds an inference, and why there is none."""
    times, failed = {}, {}
    for path in printed.glob(f"*-{file}.txt"):
        number = path.name.removesuffix(f"-{file}.txt")
        if not number.isdecimal():
            continue
        text = path.read_text(errors="replace")
        status = re.search(r"^exit status: (\d+)$", text, re.MULTILINE)
        seconds = runner.seconds(text)
        if status is None or status[1] != "0" or not 0 < seconds < math.inf:
            failed[int(number)] = trouble(text)
        else:
            times[int(number)] = seconds
    return times, failed


def trouble(text: str) -> str:
    """The first line that says what went wrong, or what was printed instead."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("exit status: ")]
    said = [line for line in lines if TROUBLE.search(line)]
    if said:
        return said[0][:200]
    return f"no time after {lines[0][:200]!r}" if lines else "nothing was printed; is it a build without logging?"


def row(
    name: str, baseline: str, times: Mapping[str, Mapping[int, float]], failed: Mapping[int, str]
) -> dict[str, object]:
    own = times[name]
    found: dict[str, object] = {"variant": name, "rounds": len(own)}
    if not own:
        return {**found, "stopped": f"failed: {failed[min(failed)] if failed else 'it never ran'}"}
    found["median_ms"] = 1000 * float(np.median(list(own.values())))
    if name == baseline:
        return {**found, "ratio": 1.0, "low": 1.0, "high": 1.0, "stopped": "baseline"}
    both = sorted(own.keys() & times[baseline].keys())
    if not both:
        return {**found, "stopped": f"no ratio: the baseline {baseline} failed"}
    mine, others = (np.array([times[one][i] for i in both]) for one in (name, baseline))
    paired = ratio(mine, others, half_width=0)
    found |= {"rounds": len(both), "ratio": paired.value}
    if len(both) < MIN_ROUNDS:
        return {**found, "stopped": f"{len(both)} rounds; an interval needs {MIN_ROUNDS}"}
    return {**found, "low": paired.low, "high": paired.high, "stopped": "phone"}


def read_device(printed: Path) -> dict[str, str]:
    """What the script wrote down of the phone: its names, the governors seen, first and last clock and temperature."""
    device = dict(line.split("=", 1) for line in lines_of(printed / "device.txt") if "=" in line)
    states = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines_of(printed / "state.txt")]
    for name in ("governor", "khz", "battery", "zone0"):
        seen = [state[name] for state in states if name in state]
        if name == "governor":
            seen = list(dict.fromkeys(seen))
        if seen:
            device[name] = seen[0] if len(set(seen)) == 1 else f"{seen[0]} to {seen[-1]}"
    return {name: value.strip() for name, value in device.items()}


def lines_of(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []
