"""The output of the phone as a table of latencies."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mnet.errors import ConfigError, leave_out, unknown
from mnet.files import MEGABYTE, read_limited
from mnet.latency.comparison import COLUMNS
from mnet.latency.paired import MIN_ROUNDS, ratio
from mnet.latency.phone.kit import read_manifest
from mnet.latency.phone.runners import LONGEST_LINE, RUNNERS, Runner

_TROUBLE = re.compile(r"error|fail|abort|denied|not found|no such|cannot|killed|segmentation| F ", re.IGNORECASE)
"""Matches the line that explains why a program failed."""
LARGEST_OUTPUT = 16 * MEGABYTE
"""Most bytes that are read from one file of output; larger ones are left out."""


def import_results(folder: Path, baseline: str | None = None) -> pd.DataFrame:
    """The output of a phone, as a table like that of `compare`.

    Args:
        folder: A kit of `write_kit` whose script has run, to the end or not.
        baseline: A variant; None = the kit's.

    Returns:
        One row per variant: `variant, median_ms, ratio, low, high, rounds, stopped`. A ratio is over the rounds in
        which both ran. `stopped` is baseline; phone; failed, with the first line of output that explains it; no ratio,
        if the baseline failed; or the number of rounds, if there are fewer than `MIN_ROUNDS`: then only `low` and
        `high` are nan.
        `attrs["device"]` has the phone and its state from the first round to the last, `attrs["failed"]` the reason
        of each failed run.

    Raises:
        ConfigError: No kit in the folder, no output yet, or an unknown baseline.
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
        times[name], failed[name] = _read_output(folder / "printed", file, RUNNERS[suffix])
    if not any(times.values()) and not any(failed.values()):
        raise ConfigError(f"{folder}/printed is empty: run {folder / 'run.sh'} with a phone attached")
    rows = [_row(name, baseline, times, failed[name]) for name in names]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs["device"] = _read_device(folder / "printed")
    table.attrs["failed"] = {
        f"{name}, round {i}": reason for name in names for i, reason in sorted(failed[name].items())
    }
    return table


def _read_output(printed: Path, file: str, runner: Runner) -> tuple[dict[int, float], dict[int, str]]:
    """Seconds per inference of a model by round, and the reason of each failed round."""
    times, failed = {}, {}
    for path in printed.glob(f"*-{file}.txt"):
        number = path.name.removesuffix(f"-{file}.txt")
        if not re.fullmatch("[0-9]{1,9}", number):
            continue
        try:
            text = read_limited(path, LARGEST_OUTPUT).decode(errors="replace")
        except OSError as error:
            leave_out(path, error)
            continue
        status = re.search(r"^exit status: (\d+)$", text, re.MULTILINE)
        seconds = runner.seconds(text)
        if status is None or status[1] != "0" or not 0 < seconds < math.inf:
            failed[int(number)] = _failure(text)
        else:
            times[int(number)] = seconds
    return times, failed


def _failure(text: str) -> str:
    """The first line that explains a failure, else the first line."""
    lines = [
        line.strip()[:LONGEST_LINE]
        for line in text.splitlines()
        if line.strip() and not line.startswith("exit status: ")
    ]
    if messages := [line for line in lines if _TROUBLE.search(line)]:
        return messages[0][:200]
    return f"no time after {lines[0][:200]!r}" if lines else "nothing was printed; is it a build without logging?"


def _row(
    name: str, baseline: str, times: Mapping[str, Mapping[int, float]], failed: Mapping[int, str]
) -> dict[str, object]:
    row: dict[str, object] = {"variant": name, "rounds": len(times[name])}
    if not times[name]:
        return {**row, "stopped": f"failed: {failed[min(failed)] if failed else 'it never ran'}"}
    row["median_ms"] = 1000 * float(np.median(list(times[name].values())))
    if name == baseline:
        return {**row, "ratio": 1.0, "low": 1.0, "high": 1.0, "stopped": "baseline"}
    rounds = sorted(times[name].keys() & times[baseline].keys())
    if not rounds:
        return {**row, "stopped": f"no ratio: the baseline {baseline} failed"}
    variant_times, baseline_times = (np.array([times[key][i] for i in rounds]) for key in (name, baseline))
    paired = ratio(variant_times, baseline_times, half_width=0)
    row |= {"rounds": len(rounds), "ratio": paired.value}
    if len(rounds) < MIN_ROUNDS:
        return {**row, "stopped": f"{len(rounds)} rounds; an interval needs {MIN_ROUNDS}"}
    return {**row, "low": paired.low, "high": paired.high, "stopped": "phone"}


def _read_device(printed: Path) -> dict[str, str]:
    """The phone's names, the governors, and the first and last clock and temperature."""
    device = dict(line.split("=", 1) for line in _lines(printed / "device.txt") if "=" in line)
    states = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in _lines(printed / "state.txt")]
    for name in ("governor", "khz", "battery", "zone0"):
        values = [state[name] for state in states if name in state]
        if name == "governor":
            values = list(dict.fromkeys(values))
        if values:
            device[name] = values[0] if len(set(values)) == 1 else f"{values[0]} to {values[-1]}"
    return {name: value.strip() for name, value in device.items()}


def _lines(path: Path) -> list[str]:
    """The lines of a file; empty if it is missing or cannot be read."""
    try:
        lines = read_limited(path, LARGEST_OUTPUT).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        leave_out(path, error)
        return []
    return [line[:LONGEST_LINE] for line in lines]
