"""The runtimes' benchmark programs for Android: how to call them and how to read their output."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Runner:
    """The benchmark program of a runtime."""

    runtime: str
    """One of `mnet.latency.runtimes.RUNTIMES`."""
    binary: str
    source: str
    """How to get the program."""
    arguments: str
    """Its command line; the script's shell defines $MODEL, $THREADS, $RUNS and $WARMUP."""
    patterns: Sequence[tuple[str, float]]
    """Patterns of a time, each with its unit in seconds; a group `calls` is the number of inferences in that time. The
    last match of the first pattern that matches counts."""
    final_text: str = ""
    """Text in the output of every complete run."""
    log: str = ""
    """Tag under which it writes to the phone's log, if it does not print."""

    def seconds(self, output: str) -> float:
        """Seconds per inference; nan if the output has no time."""
        if self.final_text not in output:
            return math.nan
        lines = [line[:LONGEST_LINE] for line in output.splitlines()]
        for pattern, unit in self.patterns:
            if matches := [match for line in lines for match in re.finditer(pattern, line)]:
                last = matches[-1].groupdict()
                return float(last["time"]) * unit / max(1, int(last.get("calls", 1)))
        return math.nan


LONGEST_LINE = 1000
"""Characters of a line that are searched: the time of a search may grow with their square."""
NUMBER = r"(?P<time>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"

RUNNERS: Mapping[str, Runner] = {
    ".tflite": Runner(
        runtime="litert",
        binary="benchmark_model",
        source="The benchmark tool of LiteRT (formerly TFLite), built for Android as 'Performance measurement' in "
        "LiteRT's documentation describes; rename android_aarch64_benchmark_model",
        arguments="--graph=$MODEL --num_threads=$THREADS --num_runs=$RUNS --warmup_runs=$WARMUP --use_xnnpack=true "
        "--enable_op_profiling=false",
        patterns=((rf"count=\d+ .*\bmedian={NUMBER}", 1e-6), (rf"Inference \(avg\): {NUMBER}", 1e-6)),
        final_text="Inference timings in us",
    ),
    ".pte": Runner(
        runtime="executorch",
        binary="executor_runner",
        source="ExecuTorch's sources, in the version that exported the model: cmake --preset android-arm64-v8a "
        "-DEXECUTORCH_BUILD_EXECUTOR_RUNNER=ON -DEXECUTORCH_BUILD_XNNPACK=ON -DEXECUTORCH_ENABLE_LOGGING=ON. It cannot "
        "warm up, so its mean includes the first call: use RUNS=50 or more",
        arguments="--model_path=$MODEL --num_executions=$RUNS --cpu_threads=$THREADS",
        patterns=((rf"executed successfully (?P<calls>\d+) time\(s\) in {NUMBER} ms", 1e-3),),
        log="ExecuTorch",
    ),
    ".onnx": Runner(
        runtime="onnxruntime",
        binary="onnxruntime_perf_test",
        source="ONNX Runtime's sources: ./build.sh --android --android_abi arm64-v8a --config Release; copy "
        "libonnxruntime.so too if it was built as a shared library",
        arguments="-e cpu -m times -r $RUNS -x $THREADS -y 1 -o 99 -s -I $MODEL",
        patterns=(
            (rf"P50 Latency(?::| is) {NUMBER} ?s", 1),
            (rf"Average inference time cost(?: total)?: {NUMBER} ms", 1e-3),
        ),
    ),
}
"""Suffix of a model -> its benchmark program. Sources of the patterns: LiteRT's documentation and benchmark_model.cc,
executor_runner.cpp of ExecuTorch 1.5, performance_runner.cc of ONNX Runtime."""
