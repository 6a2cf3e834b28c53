"""The latency of a study's cells, and of the networks that the papers' latency claims about it compare.

A cell is timed as it would be trained: its network, at its resolution. Weights are drawn, not trained, since dense
kernels take the same time for any; batch norms are settled on random images, so that activations have the size they
have in a trained network and int8 ranges are not empty.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from mnet.errors import ConfigError, text
from mnet.files import write_csv
from mnet.latency.comparison import Measurement
from mnet.latency.machine import machine_facts
from mnet.models.layers import Activate
from mnet.models.network import MobileNet
from mnet.settings import check_names
from mnet.studies.claims.claims import Claim
from mnet.studies.claims.verdicts import ratio_verdict
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.study import Study
from mnet.studies.trial import Trial


CLAIM_COLUMNS = ("id", "paper", "statement", "paper_value", "ours", "low", "high", "n", "verdict", "why", "runtime",
                 "threads", "precision", "baseline", "variant")  # fmt: skip
KEY = ("dataset", "resolution", "runtime", "precision", "threads", "batch", "device")
"""What tells measurements of the same variant apart, beside its settings."""
EXCLUDED_COLUMNS = ("data_dir", "pretrained", "recipe", "epochs", "epoch_steps", "batch_size", "lr", "weight_decay",
          "decay_depthwise", "tested", "seed")  # fmt: skip


def latency_table(study: Study, found: Measurement, subjects: Mapping[str, Subject]) -> pd.DataFrame:
    """One row a variant: study, variant, the trial's settings, what was measured, what ran, and on which machine."""
    rows, machine = [], machine_facts()
    for measured in found.table.to_dict("records"):
        name = str(measured["variant"])
        settings = subjects[name].trial.settings().items()
        told = {key: text(value) if value is None else value for key, value in settings if key not in EXCLUDED_COLUMNS}
        more = {**twin(name, found, subjects), **machine}
        row = {str(key): value for key, value in measured.items()}
        row["file"] = Path(path).name if isinstance(path := row.get("file"), str) else ""
        rows.append({"study": study.name, "variant": name, **told, **row, **more})
    return pd.DataFrame(rows)


def twin(name: str, found: Measurement, subjects: Mapping[str, Subject]) -> dict[str, float]:
    """Of an int8 network the ratio to the same in fp32, where that was timed beside it."""
    columns = "to_fp32", "to_fp32_low", "to_fp32_high"
    network, resolution, precision, composed = identity(subjects[name])
    others = {identity(subject): other for other, subject in reversed(list(subjects.items()))}
    other = others.get((network, resolution, "fp32", composed))
    if precision == "fp32" or found.race is None or other is None or not {name, other} <= found.race.times.keys():
        return dict.fromkeys(columns, math.nan)
    ratio = found.race.ratio(name, other)
    return dict(zip(columns, (ratio.value, ratio.low, ratio.high), strict=True))


def claims_table(pairs: Sequence[Pair], found: Measurement, runtime: str, threads: int) -> pd.DataFrame:
    """One row a claim: the paper's ratio on its phone, ours here with its interval, and the verdict."""
    rows = []
    for pair in pairs:
        claim = pair.claim
        row: dict[str, object] = {"id": claim.id, "paper": claim.paper, "statement": claim.statement}
        value = claim.paper_value if claim.verified and claim.metric == "latency_ratio" else None
        row |= {"paper_value": value, "runtime": runtime, "threads": threads}
        row |= {"baseline": pair.baseline, "variant": pair.variant}
        names = (pair.baseline, pair.variant)
        missing = [name for name in names if found.race is None or name not in found.race.times]
        why = [f"{name}: {found.failed.get(name, 'not timed')}" for name in missing]
        why += [
            f"{name}: {note}" for name in names if name not in missing and (note := found.ready[name].program.ran.note)
        ]
        if why or found.race is None:
            rows.append({**row, "verdict": "not tested here", "why": "; ".join(why)})
            continue
        ratio = found.race.ratio(pair.variant, pair.baseline)
        verdict = ratio_verdict(ratio.low, ratio.high, claim.direction)
        row |= {"ours": ratio.value, "low": ratio.low, "high": ratio.high, "n": ratio.rounds, "verdict": verdict}
        row["precision"] = found.ready[pair.variant].program.ran.precision
        rows.append({**row, "why": f"direction {claim.direction}, on this machine's processor, not a phone's"})
    return pd.DataFrame(rows).reindex(columns=list(CLAIM_COLUMNS))


def merge(path: Path, new: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Lay rows over a file's: those with the same keys are replaced, the others are kept. Written at once.

    Raises:
        ConfigError: The file is none of ours.
    """
    if path.exists():
        old = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [key for key in keys if key not in old.columns]:
            raise ConfigError(f"{path} has no column {missing[0]}; move it away")
        fresh = new.astype(object).where(new.notna(), "").astype(str)
        told = set(map(tuple, fresh[list(keys)].to_numpy()))
        kept = old[[tuple(row) not in told for row in old[list(keys)].to_numpy()]]
        new = pd.concat([kept, fresh], ignore_index=True)
    write_csv(path, new)
    return pd.read_csv(path, keep_default_na=True)
