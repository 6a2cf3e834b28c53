"""The tables of a study's latency: one row per network, one row per latency claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, text
from mnet.files import write_csv
from mnet.latency.comparison import Measurement
from mnet.latency.machine import machine_facts
from mnet.latency.runtimes import GPU_RUNTIMES, Runtime
from mnet.studies.claims.verdicts import judge_latency
from mnet.studies.latency.subjects import ClaimPair, Subject, identity
from mnet.studies.study import Study

CLAIM_COLUMNS = ("id", "paper", "statement", "paper_value", "ours", "low", "high", "n", "verdict", "why", "runtime",
                 "threads", "batch", "precision", "baseline", "variant")  # fmt: skip
CLAIM_KEY = ("id", "runtime", "threads", "batch", "device")
"""Columns that identify the measurement of a claim."""
KEY = ("dataset", "resolution", "runtime", "precision", "threads", "batch", "device")
"""Columns that, with its settings, identify the measurement of a variant."""
UNTIMED_SETTINGS = ("data_dir", "images", "storage", "skip_unreadable", "pretrained", "recipe", "epochs", "epoch_steps",
                    "batch_size", "lr", "weight_decay", "decay_depthwise", "augment", "tested", "seed")  # fmt: skip
"""Settings without influence on latency, which its tables leave out."""


def latency_table(
    study: Study,
    measurement: Measurement,
    subjects: Mapping[str, Subject],
    runtime: Runtime | None = None,
    batch: int = 1,
) -> pd.DataFrame:
    """One row per variant: study, variant, the trial's settings, the measurement, the program that ran, the machine.

    Args:
        study: The study.
        measurement: The measurement of its networks.
        subjects: The networks by name.
        runtime: The runtime that ran them; if given, the rows of networks that failed name it, and the batch.
        batch: Images per call.
    """
    devices = [ready.program.device for ready in measurement.ready.values()]
    rows, machine = [], machine_facts((devices or [runtime.device if runtime else "cpu"])[0])
    asked = {"runtime": runtime.name, "threads": runtime.threads, "batch": batch} if runtime else {}
    for measured in measurement.table.to_dict("records"):
        name = str(measured["variant"])
        trial = subjects[name].trial
        settings = {
            key: text(value) if value is None else value
            for key, value in trial.settings().items()
            if key not in UNTIMED_SETTINGS
        }
        row: dict[str, object] = {str(key): value for key, value in measured.items()}
        if name in measurement.failed and asked:
            _, resolution, precision, _ = identity(subjects[name])
            row |= {**asked, "resolution": resolution, "precision": precision}
        row["file"] = Path(path).name if isinstance(path := row.get("file"), str) else ""
        to_fp32 = _ratio_to_fp32(name, measurement, subjects)
        rows.append({"study": study.name, "variant": name, **settings, **row, **to_fp32, **machine})
    return pd.DataFrame(rows)


def _ratio_to_fp32(name: str, measurement: Measurement, subjects: Mapping[str, Subject]) -> dict[str, float]:
    """The ratio of an int8 network to the same network in fp32; nan unless both were timed together."""
    columns = "to_fp32", "to_fp32_low", "to_fp32_high"
    network, resolution, precision, composed = identity(subjects[name])
    names = {identity(subject): other for other, subject in reversed(list(subjects.items()))}
    twin = names.get((network, resolution, "fp32", composed))
    paired = measurement.paired
    if precision == "fp32" or paired is None or twin is None or not {name, twin} <= paired.times.keys():
        return dict.fromkeys(columns, math.nan)
    ratio = paired.ratio(name, twin)
    return dict(zip(columns, (ratio.value, ratio.low, ratio.high), strict=True))


def claims_table(
    pairs: Sequence[ClaimPair], measurement: Measurement, runtime: str, threads: int, batch: int = 1
) -> pd.DataFrame:
    """One row per claim: the paper's ratio on its phone, the measured one with its interval, and the verdict."""
    rows = []
    paired = measurement.paired
    for pair in pairs:
        claim, names = pair.claim, (pair.baseline, pair.variant)
        row: dict[str, object] = {"id": claim.id, "paper": claim.paper, "statement": claim.statement}
        row |= {"paper_value": claim.printed, "runtime": runtime, "threads": threads, "batch": batch}
        row |= {"baseline": pair.baseline, "variant": pair.variant}
        missing = [name for name in names if paired is None or name not in paired.times]
        reasons = [f"{name}: {measurement.failed.get(name, 'not timed')}" for name in missing]
        reasons += [
            f"{name}: {note}"
            for name in names
            if name not in missing and (note := measurement.ready[name].program.info.note)
        ]
        if reasons or paired is None:
            rows.append({**row, "verdict": "not tested here", "why": "; ".join(reasons)})
            continue
        ratio = paired.ratio(pair.variant, pair.baseline)
        row |= {"ours": ratio.value, "low": ratio.low, "high": ratio.high, "n": ratio.rounds}
        verdict, why = judge_latency(claim, ratio.value, ratio.low, ratio.high, on_gpu=runtime in GPU_RUNTIMES)
        precision = measurement.ready[pair.variant].program.info.precision
        rows.append({**row, "precision": precision, "verdict": verdict, "why": why})
    return pd.DataFrame(rows).reindex(columns=list(CLAIM_COLUMNS))


def merge_rows(
    path: Path, rows: pd.DataFrame, keys: Sequence[str], defaults: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Write rows into a CSV file: they replace those with the same keys, other rows stay.

    Args:
        path: The file.
        rows: The new rows.
        keys: Columns that identify a row.
        defaults: Values of columns that an older file lacks.

    Returns:
        The table in the file.

    Raises:
        ConfigError: The file lacks a key column.
    """
    if path.exists():
        old = pd.read_csv(path, dtype=str, keep_default_na=False)
        old = old.assign(**{name: value for name, value in (defaults or {}).items() if name not in old})
        if missing := [key for key in keys if key not in old.columns]:
            raise ConfigError(f"{path} has no column {missing[0]}; move it away")
        new = rows.astype(object).where(rows.notna(), "").astype(str)
        replaced = set(map(tuple, new[list(keys)].to_numpy()))
        kept = old[[tuple(row) not in replaced for row in old[list(keys)].to_numpy()]]
        rows = pd.concat([kept, new], ignore_index=True)
    write_csv(path, rows)
    return pd.read_csv(path, keep_default_na=True)
