"""Which block takes the time? Every part of a network as a program of its own, timed in the same paired rounds.

A part runs on the input that it has in the network. Its weights and its input stay in the processor's caches, which
they do not in the whole network, and each part pays for a call: together the parts take a tenth to a quarter less than
a large network and more than a tiny one. `attrs` says how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from torch import Tensor

from mnet.errors import ConfigError, unknown
from mnet.latency.comparison import disturbances, program_sample
from mnet.latency.machine import pinned
from mnet.latency.paired import Race, race
from mnet.latency.runtimes import Program, make_runtime
from mnet.models.network import MobileNet
from mnet.models.parts import Part, cut, example_images
from mnet.quantization import fuse

WHOLE = "whole"
UNFUSED = ("eager", "cuda-graphs")
"""Runtimes that run batch norms as layers; for the others they are folded before the network is cut."""


def block_latency(
    net: MobileNet,
    *,
    runtime: str = "eager",
    resolution: int = 224,
    threads: int = 1,
    budget_s: float = 20,
    batch: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """The latency of every part of a network.

    Args:
        net: In float, its batch norms settled.
        runtime: One of `mnet.latency.RUNTIMES`; the parts are exported to a folder that does not stay.
        resolution: Height and width of the images.
        threads: That a part may use.
        budget_s: Seconds of rounds; at least `MIN_ROUNDS` rounds are run.
        batch: Images at a time.
        seed: Of the images and the order within rounds.

    Returns:
        One row a part, in the order of execution: `block, kind, resolution` (height of its output), `in_channels,
        out_channels, madds, params, ms, low, high` (with the 95% interval of its ratio to the whole network beside
        it), `share` and `madds_share` (of the sum of all parts), `delegated, undelegated` (operators; 0 where the
        runtime has one way only). `attrs`: `whole_ms`, `sum_ms`, `rounds`, `notes` on what disturbed the measurement.

    Raises:
        ConfigError: Not a float network of this family, or an unknown runtime or number of threads.
        ExportError: The runtime cannot take a part.
    """
    timed = time_parts({"": net}, "", runtime, resolution, threads, budget_s, batch, seed)
    whole = timed.key("", WHOLE)
    whole_ms = timed.ms(whole)
    rows = []
    for part in timed.parts[""]:
        key = timed.key("", part.block)
        found, ran = timed.race.ratio(key, whole), timed.programs[key].ran
        rows.append(
            {
                **part.row(),
                "ms": found.value * whole_ms,
                "low": found.low * whole_ms,
                "high": found.high * whole_ms,
                "share": 0.0,
                "madds_share": 0.0,
                "delegated": sum(ran.delegated.values()),
                "undelegated": sum(ran.undelegated.values()),
            }
        )
    frame = pd.DataFrame(rows)
    frame["share"] = frame["ms"] / frame["ms"].sum()
    frame["madds_share"] = frame["madds"] / frame["madds"].sum()
    frame.attrs |= {"whole_ms": whole_ms, "sum_ms": float(frame["ms"].sum()), **timed.told(whole)}
    return frame


def compare_blocks(
    nets: Mapping[str, MobileNet],
    baseline: str,
    *,
    runtime: str = "eager",
    resolution: int = 224,
    threads: int = 1,
    budget_s: float = 30,
    batch: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Where variants differ in latency, part by part, all timed in the same rounds.

    Args:
        nets: Variants with equally many blocks, by name.
        baseline: One of them.
        runtime, resolution, threads, budget_s, batch, seed: As for `block_latency`.

    Returns:
        One row a variant and part, the last being the whole network: `variant, block, kind, resolution, baseline_ms,
        ms, ratio, low, high, us, us_low, us_high`. `us` is what the part takes more than the baseline's, in
        microseconds: the ratio and its 95% interval, over rounds, times the baseline's median. `attrs` as of
        `block_latency`, sums apart.

    Raises:
        ConfigError: Unknown baseline, nothing to compare, variants whose parts differ in number, or as
            `block_latency`.
        ExportError: The runtime cannot take a part.
    """
    if baseline not in nets:
        raise unknown("baseline", baseline, nets)
    if len(nets) < 2:
        raise ConfigError(f"nothing to compare {baseline!r} with")
    timed = time_parts(nets, baseline, runtime, resolution, threads, budget_s, batch, seed)
    rows = []
    for name in nets:
        if name == baseline:
            continue
        whole = {"block": WHOLE, "kind": "", "resolution": resolution}
        for row in [*(part.row() for part in timed.parts[name]), whole]:
            one, other = timed.key(name, str(row["block"])), timed.key(baseline, str(row["block"]))
            found, before = timed.race.ratio(one, other), timed.ms(other)
            rows.append(
                {
                    "variant": name,
                    **{column: row[column] for column in ("block", "kind", "resolution")},
                    "baseline_ms": before,
                    "ms": timed.ms(one),
                    "ratio": found.value,
                    "low": found.low,
                    "high": found.high,
                    "us": 1000 * before * (found.value - 1),
                    "us_low": 1000 * before * (found.low - 1),
                    "us_high": 1000 * before * (found.high - 1),
                }
            )
    frame = pd.DataFrame(rows)
    frame.attrs |= timed.told(timed.key(baseline, WHOLE))
    return frame


@dataclass(frozen=True)
class Timed:
    """The parts of networks, and what a race of them found."""

    parts: Mapping[str, tuple[Part, ...]]
    programs: Mapping[str, Program]
    race: Race
    refused: str

    @staticmethod
    def key(name: str, block: str) -> str:
        return f"{name}/{block}"

    def ms(self, key: str) -> float:
        return 1000 * float(np.median(self.race.times[key]))

    def told(self, baseline: str) -> dict[str, object]:
        notes = [self.refused] if self.refused else []
        return {"rounds": len(self.race.times[baseline]), "notes": (*notes, *disturbances(self.race, baseline))}


def time_parts(
    nets: Mapping[str, MobileNet],
    baseline: str,
    runtime: str,
    resolution: int,
    threads: int,
    budget_s: float,
    batch: int,
    seed: int,
) -> Timed:
    """Whole networks and all their parts, in the same rounds.

    Raises:
        ConfigError, ExportError: As `compare_blocks`.
    """
    for name, value in (("budget_s", budget_s), ("batch", batch), ("resolution", resolution)):
        if not value > 0:
            raise ConfigError(f"{name} must be above 0, not {value}")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        refused = stack.enter_context(pinned(threads))
        machine = make_runtime(runtime, threads=threads, folder=Path(folder))
        programs, samples, parts = {}, {}, {}
        for name, net in nets.items():
            images = example_images(net, resolution, batch, seed)
            parts[name] = tuple(runtime_parts(net, runtime, images))
            if (count := len(parts[name])) != (wanted := len(next(iter(parts.values())))):
                raise ConfigError(f"{name} has {count} parts and {next(iter(nets))} {wanted}: no part is another's")
            whole = Part(block=WHOLE, kind="", module=net, example=images, layers=())
            for part in (whole, *parts[name]):
                key = Timed.key(name, part.block)
                programs[key] = machine.prepare(part.module, part.example)
                samples[key] = program_sample(programs[key], part.example)
        found = race(samples, Timed.key(baseline, WHOLE), budget_s=budget_s, seed=seed)
    return Timed(parts, programs, found, refused)


def runtime_parts(net: MobileNet, runtime: str, images: Tensor) -> Iterator[Part]:
    """As `cut`; batch norms are folded first unless the runtime is one of `UNFUSED`."""
    folded = isinstance(net, MobileNet) and runtime not in UNFUSED
    return cut(fuse(net) if folded else net, images)
