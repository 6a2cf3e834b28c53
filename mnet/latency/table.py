"""The latency of networks that were never run: parts are timed once at several channel counts, then interpolated.

Between measurements, the time of a part is assumed linear in the channels of its expansion and in those at its ends;
without an expansion, in its multiply-adds. Every part adds the cost of a call and keeps its weights in caches, so a
network takes an offset plus a multiple of the sum of its parts, both fitted to whole networks timed in the same rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.latency.blocks import WHOLE, network_parts
from mnet.latency.comparison import disturbances, program_sample
from mnet.latency.machine import machine_facts, pinned
from mnet.latency.paired import time_in_rounds
from mnet.latency.runtimes import Program, make_runtime
from mnet.latency.timing import Sample
from mnet.models.network import MobileNet
from mnet.models.parts import Part, part_costs
from mnet.models.resolved import resolve_blocks
from mnet.models.spec import Network, round_channels

EXPANSIONS, BOTTLENECKS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.5)
"""Shares of a network's channels; parts are timed with every pair of them."""
FACTS = ("runtime", "threads", "resolution", "device", "version")


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a network's parts at various numbers of channels."""

    rows: pd.DataFrame
    """`block, expanded, ends` (channels in plus out), `madds, ms, network`, and `FACTS`. The block `whole` is the whole
    network, with the sum of its parts as `sum_ms`."""

    def __call__(self, network: Network) -> float:
        """Milliseconds of a network that differs from the table's only in channels.

        Raises:
            ConfigError: The network has other parts.
        """
        scale, offset = self.line
        return offset + scale * self.sum_of(network)

    def __str__(self) -> str:
        facts = self.rows.iloc[0]
        return f"{facts['runtime']} {facts['version']}, {facts['threads']} thread(s), at {facts['resolution']} px"

    def sum_of(self, network: Network) -> float:
        """Milliseconds of the network's parts together."""
        shapes = part_shapes(network, self.resolution)
        if set(shapes["block"]) != set(self.parts):
            raise ConfigError(f"{network.name} has different parts from the table: {', '.join(shapes['block'])}")
        return sum(self.part(*shape) for shape in shapes.itertuples(index=False, name=None))

    def part(self, block: str, expanded: int, ends: int, madds: int) -> float:
        """Milliseconds of a part; `expanded` is 0 if it has no expansion."""
        rows = self.parts[block]
        if not expanded:
            return interpolate(rows["madds"], rows["ms"], madds)
        levels = rows.groupby("ends")
        times = [interpolate(level["expanded"], level["ms"], expanded) for _, level in levels]
        return interpolate([float(str(size)) for size in levels.groups], times, ends)

    @cached_property
    def parts(self) -> dict[str, pd.DataFrame]:
        """Rows of each part."""
        return {str(block): rows for block, rows in self.rows.groupby("block", sort=False) if block != WHOLE}

    @cached_property
    def wholes(self) -> pd.DataFrame:
        """Rows of the whole networks: `ms`, and `sum_ms` of their parts."""
        return self.rows[self.rows["block"] == WHOLE]

    @cached_property
    def line(self) -> tuple[float, float]:
        """Scale and offset with the least relative error over `wholes`."""
        sums, times = self.wholes[["sum_ms", "ms"]].to_numpy(float).T
        return fit_line(sums, times)

    @cached_property
    def errors(self) -> np.ndarray:
        """(networks,): relative error of each of `wholes`, predicted by the line fitted to the others."""
        sums, times = self.wholes[["sum_ms", "ms"]].to_numpy(float).T
        errors = []
        for i in range(len(sums)):
            scale, offset = fit_line(np.delete(sums, i), np.delete(times, i))
            errors.append((offset + scale * sums[i]) / times[i] - 1)
        return np.array(errors)

    @property
    def resolution(self) -> int:
        return int(self.rows["resolution"].iloc[0])

    def measured_with(self, **facts: object) -> bool:
        """Whether the table was measured under these conditions, a subset of `FACTS`."""
        return all(str(self.rows[name].iloc[0]) == str(value) for name, value in facts.items())

    def save(self, path: Path) -> None:
        write_csv(path, self.rows)


def read_latency_table(path: Path) -> LatencyTable:
    """
    Raises:
        ConfigError: The file is missing or not such a table.
    """
    try:
        return LatencyTable(pd.read_csv(path, float_precision="round_trip"))  # a resumed search repeats its decisions
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a table of latencies: {error}") from None


def measure_table(
    network: Network,
    *,
    runtime: str,
    resolution: int,
    threads: int = 1,
    budget_s: float = 20,
    seed: int = 0,
    report_progress: Callable[[int, int], object] = lambda done, count: None,
) -> LatencyTable:
    """Time the parts of a network at `EXPANSIONS` x `BOTTLENECKS` of its channels, and the whole networks, all in the
    same rounds.

    Args:
        network: A classifier.
        runtime: One of `mnet.latency.RUNTIMES`.
        resolution: Height and width of the images.
        threads: Threads per part.
        budget_s: Seconds of rounds.
        seed: Seed of the images and of the order within rounds.
        report_progress: Called with the number of prepared programs and their total.

    Raises:
        ConfigError, ExportError: As `block_latency`.
    """
    shares = list(itertools.product(EXPANSIONS, BOTTLENECKS))
    nets = [MobileNet(scale_channels(network, *share)).eval() for share in shares]
    parts = [network_parts(net, resolution, runtime=runtime, seed=seed) for net in nets]
    count = len({_identity(part, number) for number, net_parts in enumerate(parts) for part in net_parts})
    programs: dict[str, Program] = {}
    samples: dict[str, Sample] = {}
    rows: list[dict[str, object]] = []
    baseline = _identity(parts[0][0], 0)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        pinning_error = stack.enter_context(pinned(threads))
        engine = make_runtime(runtime, threads=threads, folder=Path(folder))
        for number, (net, net_parts) in enumerate(zip(nets, parts, strict=True)):
            shapes = part_shapes(net.network, resolution).set_index("block").to_dict("index")
            for part in net_parts:
                key = _identity(part, number)
                if key not in programs:
                    programs[key] = engine.prepare(part.module, part.example)
                    samples[key] = program_sample(programs[key], part.example)
                    report_progress(len(programs), count)
                shape = cast(dict[str, object], shapes.get(part.block, {}))
                rows.append({"block": part.block, **shape, "network": number, "key": key})
        paired = time_in_rounds(samples, baseline, budget_s=budget_s, seed=seed)
    table = pd.DataFrame(rows)
    table["ms"] = [paired.ms(key) for key in table.pop("key")]
    sums = table[table["block"] != WHOLE].groupby("network")["ms"].sum()
    table["sum_ms"] = table["network"].map(sums).where(table["block"] == WHOLE)
    notes = [*([pinning_error] if pinning_error else []), *disturbances(paired, baseline)]
    first = next(iter(programs.values()))
    facts = {
        "runtime": runtime,
        "threads": threads,
        "resolution": resolution,
        "version": first.info.version,
        "rounds": len(paired.times[baseline]),
        **machine_facts(first.device),
        "notes": "; ".join(notes),
    }
    return LatencyTable(table.assign(**cast(dict[str, str], facts)))


def _identity(part: Part, number: int) -> str:
    """A key, equal for parts with the same layers in any of the networks: they are timed only once."""
    if part.block == WHOLE:
        return str((WHOLE, number))
    return str((part.kind, *(replace(layer, layer="") for layer in part.layers)))


def scale_channels(network: Network, expansions: float, bottlenecks: float) -> Network:
    """The network with shares of its channels; blocks joined by shortcuts stay equally wide."""
    rows = tuple(
        replace(
            row,
            expansion=row.expansion and round_channels(expansions * row.expansion),
            out_channels=round_channels(bottlenecks * row.out_channels),
        )
        for row in network.blocks
    )
    stem = replace(network.stem, out_channels=round_channels(bottlenecks * network.stem.out_channels))
    return replace(network, stem=stem, blocks=rows)


def part_shapes(network: Network, resolution: int) -> pd.DataFrame:
    """One row per part: `block, expanded, ends, madds`; `expanded` is 0 for parts without an expansion."""
    parts = part_costs(network, resolution)
    expansions = {f"blocks.{i}": block.row.expansion or 0 for i, block in enumerate(resolve_blocks(network))}
    return pd.DataFrame(
        {
            "block": parts["block"],
            "expanded": [expansions.get(block, 0) for block in parts["block"]],
            "ends": parts["in_channels"] + parts["out_channels"],
            "madds": parts["madds"],
        }
    )


def interpolate(xs: ArrayLike, ys: ArrayLike, x: float) -> float:
    """Linear between points, and beyond them through the nearest two; points with the same x are averaged."""
    points = pd.Series(np.asarray(ys, float)).groupby(np.asarray(xs, float)).mean()
    positions, values = points.index.to_numpy(), points.to_numpy()
    if len(positions) == 1:
        return float(values[0])
    i = int(np.clip(np.searchsorted(positions, x), 1, len(positions) - 1))
    slope = (values[i] - values[i - 1]) / (positions[i] - positions[i - 1])
    return float(values[i - 1] + slope * (x - positions[i - 1]))


def fit_line(sums: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """Scale and offset from sums of parts to times of whole networks, with the least relative error."""
    terms = np.stack([sums, np.ones_like(sums)], 1) / times[:, None]
    (scale, offset), *_ = np.linalg.lstsq(terms, np.ones_like(times), rcond=None)
    return float(scale), float(offset)
