"""Latency by block: the parts of a network as separate programs, all timed in the same paired rounds.

A part runs on the input that it gets in the network. Its weights and input stay in the processor's caches, unlike in
the whole network, and each part adds the cost of a call. Together the parts take a tenth to a quarter less time than a
large network, and more than a tiny one. `attrs` of `block_latency`'s table has both times.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mnet.errors import ConfigError, unknown
from mnet.latency.comparison import disturbances, program_sample
from mnet.latency.machine import pinned
from mnet.latency.paired import PairedTimes, time_in_rounds
from mnet.latency.runtimes import Program, make_runtime
from mnet.models.network import MobileNet
from mnet.models.parts import Part, cut, example_images
from mnet.quantization import fuse

WHOLE = "whole"
UNFUSED = ("eager", "cuda-eager", "cuda-graphs")
"""Runtimes that run batch norms as layers; for the others they are folded before the network is split."""


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
        net: A float classifier whose batch norm statistics are set.
        runtime: One of `mnet.latency.RUNTIMES`; the parts are exported to a temporary folder.
        resolution: Height and width of the images.
        threads: Threads per part.
        budget_s: Seconds to spend on rounds; at least `MIN_ROUNDS` rounds are run.
        batch: Images per call.
        seed: Seed of the images and of the order within rounds.

    Returns:
        One row per part, in the order of execution: `block, kind, resolution` (of its output), `in_channels,
        out_channels, madds, params, ms, low, high` (from the 95% interval of its ratio to the whole network), `share`
        and `madds_share` (of the sum of all parts), `delegated, undelegated` (number of operators; 0 if the runtime
        does not delegate). `attrs`: `whole_ms`, `sum_ms`, `rounds`, and `notes` on disturbances.

    Raises:
        ConfigError: Not a float classifier of this family, an unknown runtime, or a number out of range.
        ExportError: The runtime cannot run a part.
    """
    timed = _time_parts({"": net}, "", runtime, resolution, threads, budget_s, batch, seed)
    whole = _key("", WHOLE)
    whole_ms = timed.paired.ms(whole)
    rows = []
    for part in timed.parts[""]:
        key = _key("", part.block)
        ratio, info = timed.paired.ratio(key, whole), timed.programs[key].info
        rows.append(
            {
                **part.row(),
                "ms": ratio.value * whole_ms,
                "low": ratio.low * whole_ms,
                "high": ratio.high * whole_ms,
                "share": 0.0,
                "madds_share": 0.0,
                "delegated": sum(info.delegated.values()),
                "undelegated": sum(info.undelegated.values()),
            }
        )
    table = pd.DataFrame(rows)
    table["share"] = table["ms"] / table["ms"].sum()
    table["madds_share"] = table["madds"] / table["madds"].sum()
    table.attrs |= {"whole_ms": whole_ms, "sum_ms": float(table["ms"].sum()), **timed.attrs(whole)}
    return table


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
    """Differences in latency between variants, part by part, all timed in the same rounds.

    Args:
        nets: Variants with the same number of parts, by name.
        baseline: One of them.
        runtime, resolution, threads, budget_s, batch, seed: As for `block_latency`.

    Returns:
        One row per variant and part, the last part being the whole network: `variant, block, kind, resolution,
        baseline_ms, ms, ratio, low, high, us, us_low, us_high`. `us` is the difference to the baseline's part in
        microseconds: (ratio - 1) times the baseline's median, likewise for the ends of the 95% interval over rounds.
        `attrs`: `rounds` and `notes`.

    Raises:
        ConfigError: Unknown baseline, nothing to compare, variants with different numbers of parts, or as
            `block_latency`.
        ExportError: The runtime cannot run a part.
    """
    if baseline not in nets:
        raise unknown("baseline", baseline, nets)
    if len(nets) < 2:
        raise ConfigError(f"nothing to compare {baseline!r} with")
    timed = _time_parts(nets, baseline, runtime, resolution, threads, budget_s, batch, seed)
    rows = []
    for name in nets:
        if name == baseline:
            continue
        whole = {"block": WHOLE, "kind": "", "resolution": resolution}
        for row in [*(part.row() for part in timed.parts[name]), whole]:
            key, baseline_key = _key(name, str(row["block"])), _key(baseline, str(row["block"]))
            ratio, baseline_ms = timed.paired.ratio(key, baseline_key), timed.paired.ms(baseline_key)
            rows.append(
                {
                    "variant": name,
                    **{column: row[column] for column in ("block", "kind", "resolution")},
                    "baseline_ms": baseline_ms,
                    "ms": timed.paired.ms(key),
                    "ratio": ratio.value,
                    "low": ratio.low,
                    "high": ratio.high,
                    "us": 1000 * baseline_ms * (ratio.value - 1),
                    "us_low": 1000 * baseline_ms * (ratio.low - 1),
                    "us_high": 1000 * baseline_ms * (ratio.high - 1),
                }
            )
    table = pd.DataFrame(rows)
    table.attrs |= timed.attrs(_key(baseline, WHOLE))
    return table


def network_parts(net: MobileNet, resolution: int, *, runtime: str, batch: int = 1, seed: int = 0) -> list[Part]:
    """The whole network and its parts, as `runtime` would run them, on random images.

    Raises:
        ConfigError: Not a float classifier of this family.
    """
    images = example_images(net, resolution, batch, seed)
    whole = Part(block=WHOLE, kind="", module=net, example=images, layers=())
    return [whole, *cut(net if runtime in UNFUSED else fuse(net), images)]


@dataclass(frozen=True)
class _TimedParts:
    """The parts of networks, and their times."""

    parts: Mapping[str, list[Part]]
    programs: Mapping[str, Program]
    paired: PairedTimes
    pinning_error: str

    def attrs(self, baseline: str) -> dict[str, object]:
        notes = [self.pinning_error] if self.pinning_error else []
        return {"rounds": len(self.paired.times[baseline]), "notes": (*notes, *disturbances(self.paired, baseline))}


def _key(network: str, block: str) -> str:
    return f"{network}/{block}"


def _time_parts(
    nets: Mapping[str, MobileNet],
    baseline: str,
    runtime: str,
    resolution: int,
    threads: int,
    budget_s: float,
    batch: int,
    seed: int,
) -> _TimedParts:
    """Whole networks and all their parts, in the same rounds.

    Raises:
        ConfigError, ExportError: As `compare_blocks`.
    """
    for name, value in (("budget_s", budget_s), ("batch", batch), ("resolution", resolution)):
        if not value > 0:
            raise ConfigError(f"{name} must be above 0, not {value}")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        pinning_error = stack.enter_context(pinned(threads))
        engine = make_runtime(runtime, threads=threads, folder=Path(folder))
        programs, samples, parts = {}, {}, {}
        for name, net in nets.items():
            whole, *parts[name] = network_parts(net, resolution, runtime=runtime, batch=batch, seed=seed)
            first = next(iter(nets))
            if len(parts[name]) != len(parts[first]):
                raise ConfigError(f"{name} has {len(parts[name])} parts, {first} has {len(parts[first])}")
            for part in (whole, *parts[name]):
                key = _key(name, part.block)
                programs[key] = engine.prepare(part.module, part.example)
                samples[key] = program_sample(programs[key], part.example)
        paired = time_in_rounds(samples, _key(baseline, WHOLE), budget_s=budget_s, seed=seed)
    return _TimedParts(parts, programs, paired, pinning_error)
