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

COMPOSED = "hswish"
"""Of a claim's network, beside settings of a trial: `hswish: composed`."""
SETTLING, CALIBRATION = 8, 16
"""Random images that batch norms are settled and int8 ranges are taken on; where the last map is a pixel, as of small
ones and of SSDLite's extra maps, eight times as many to settle on."""

CLAIM_COLUMNS = ("id", "paper", "statement", "paper_value", "ours", "low", "high", "n", "verdict", "why", "runtime",
                 "threads", "precision", "baseline", "variant")  # fmt: skip
KEY = ("dataset", "resolution", "runtime", "precision", "threads", "batch", "device")
"""What tells measurements of the same variant apart, beside its settings."""
EXCLUDED_COLUMNS = ("data_dir", "pretrained", "recipe", "epochs", "epoch_steps", "batch_size", "lr", "weight_decay",
          "decay_depthwise", "tested", "seed")  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A network to be timed."""

    trial: Trial
    composed: bool = False
    """Whether h-swish is several operators, x * relu6(x + 3) / 6, as before there was one."""

    @property
    def resolution(self) -> int:
        return self.trial.input_spec().resolution


@dataclass(frozen=True)
class Pair:
    """A claim, and the names of the two subjects that it compares."""

    claim: Claim
    baseline: str
    variant: str


def subjects(study: Study, claims: Sequence[Claim]) -> tuple[dict[str, Subject], list[Pair]]:
    """The cells of a study, the baseline first, then what its latency claims need beside them; and the claims' pairs.

    Raises:
        ConfigError: A claim about a network that cannot be built.
    """
    found = {cell.name: Subject(cell.trials[0]) for cell in study.cells}
    data = study.cells[0].trials[0]
    pairs = []
    for claim in claims:
        if claim.study != study.name or not testable(claim):
            continue
        names = []
        for setup in (claim.baseline, claim.variant):
            assert setup is not None
            subject = subject_of(setup, data)
            same = (name for name, one in found.items() if one == subject)
            equal = (name for name, one in found.items() if identity(one) == identity(subject))
            name = next(same, None) or next(equal, None) or setup_name(setup)
            found.setdefault(name, subject)
            names.append(name)
        pairs.append(Pair(claim, *names))
    return found, pairs


def testable(claim: Claim) -> bool:
    """Whether a claim is of latency, about two networks that this family has."""
    return claim.kind == "latency" and claim.baseline is not None and claim.variant is not None


def subject_of(setup: Mapping[str, object], data: Trial) -> Subject:
    """A claim's network on the images of `data`."""
    check_names("setting of a claim", setup, (*PARAMETERS, COMPOSED))
    settings = {name: value for name, value in setup.items() if name != COMPOSED}
    images = {"dataset": data.dataset, "data_dir": data.data_dir, "resolution": data.resolution}
    return Subject(trial_from({**images, **settings}), composed=setup.get(COMPOSED) == "composed")


def identity(subject: Subject) -> tuple[object, ...]:
    """Equal for two spellings of one network at one resolution."""
    trial, data = subject.trial, subject.trial.input_spec()
    precision = "int8" if trial.quantized else "fp32"
    return trial.network(data.num_classes, data.in_channels), data.resolution, precision, subject.composed


def setup_name(setup: Mapping[str, object]) -> str:
    return " ".join(f"{name}={text(value)}" for name, value in setup.items())


def build(subject: Subject, seed: int = 0) -> nn.Module:
    """The module to time: weights drawn by `seed`, batch norms settled; in int8 where the trial says so."""
    trial, data = subject.trial, subject.trial.input_spec()
    random = torch.Generator().manual_seed(seed)

    def images(count: int) -> Tensor:
        return torch.randn(count, data.in_channels, data.resolution, data.resolution, generator=random)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MobileNet(trial.network(data.num_classes, data.in_channels))
    settle(net, images(SETTLING * (8 if data.resolution < 96 or net.head is not None else 1)))
    if subject.composed:
        net = compose(net)
    if not trial.quantized:
        return net
    from mnet.quantization import quantize

    return quantize(net, images(CALIBRATION))


@torch.no_grad()
def settle(net: MobileNet, images: Tensor) -> None:
    """Give batch norms the statistics of `images`, (N, C, H, W), as training would of its own."""
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean
    net.train()
    net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


class ComposedHardSwish(nn.Module):
    """h-swish of primitives. Source: V3 §5.2 and §6.2, "not fused"."""

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.relu6(x + 3) / 6


def compose(net: MobileNet) -> MobileNet:
    """A copy whose h-swish is no operator of its own."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        for name, child in layer.named_children():
            if isinstance(child, Activate) and child.name == "hswish":
                setattr(layer, name, ComposedHardSwish())
    return net


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
