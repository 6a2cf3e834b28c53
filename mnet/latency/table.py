"""The latency of networks that were never run: a table of parts with other channels, timed once, and interpolated.

A part's time is taken to be linear, between measurements, in the channels of its expansion and in those at its ends;
without an expansion, in its multiply-adds. A network's is an offset and the sum of its parts at a scale, both fitted
to whole networks timed in the same rounds: a part pays for a call of its own, and keeps its weights in caches.
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
from torch import Tensor

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.latency.blocks import WHOLE, runtime_parts
from mnet.latency.comparison import disturbances, program_sample
from mnet.latency.machine import machine_facts, pinned
from mnet.latency.paired import Sample, race
from mnet.latency.runtimes import Program, make_runtime
from mnet.models.network import MobileNet
from mnet.models.parts import Part, example_images, part_costs
from mnet.models.spec import Network, resolve_blocks, round_channels

EXPANSIONS, BOTTLENECKS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.5)
"""Shares of a network's channels that parts are timed with, every pair of them."""
FACTS = ("runtime", "threads", "resolution", "device", "version")


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of the parts of one network with other channels."""

    rows: pd.DataFrame
    """`block, expanded, ends` (channels in and out together), `madds, ms, network`; the block `whole` is a network's
    own, with its `sum_ms`. Beside it `FACTS`."""

    def __call__(self, network: Network) -> float:
        """Milliseconds of a network with the same rows but for their channels.

        Raises:
            ConfigError: It has other blocks.
        """
        scale, offset = self.line
        return offset + scale * self.sum_of(network)

    def __str__(self) -> str:
        facts = self.rows.iloc[0]
        return f"{facts['runtime']} {facts['version']}, {facts['threads']} thread(s), at {facts['resolution']} px"

    def sum_of(self, network: Network) -> float:
        """Milliseconds of its parts together."""
        shapes = shapes_of(network, self.resolution)
        if set(shapes["block"]) != set(self.parts):
            raise ConfigError(f"{network.name} has other parts than the table: {', '.join(shapes['block'])}")
        return sum(self.part(*shape) for shape in shapes.itertuples(index=False, name=None))

    def part(self, block: str, expanded: int, ends: int, madds: int) -> float:
        """Milliseconds of a part; `expanded` = 0 where it has no expansion."""
        known = self.parts[block]
        if not expanded:
            return along(known["madds"], known["ms"], madds)
        levels = known.groupby("ends")
        times = [along(own["expanded"], own["ms"], expanded) for _, own in levels]
        return along([float(str(size)) for size in levels.groups], times, ends)

    @cached_property
    def parts(self) -> dict[str, pd.DataFrame]:
        return {str(block): own for block, own in self.rows.groupby("block", sort=False) if block != WHOLE}

    @cached_property
    def wholes(self) -> pd.DataFrame:
        """Of the networks that were timed whole: `ms`, and `sum_ms` of their parts."""
        return self.rows[self.rows["block"] == WHOLE]

    @cached_property
    def line(self) -> tuple[float, float]:
        """Scale and offset, of least relative error over `wholes`."""
        known = self.wholes[["sum_ms", "ms"]].to_numpy(float)
        return fitted(known[:, 0], known[:, 1])

    @cached_property
    def errors(self) -> np.ndarray:
        """(networks,): what is predicted for each of `wholes` by the line through the others, over what was measured,
        less 1."""
        sums, times = self.wholes[["sum_ms", "ms"]].to_numpy(float).T
        found = []
        for i in range(len(sums)):
            scale, offset = fitted(np.delete(sums, i), np.delete(times, i))
            found.append((offset + scale * sums[i]) / times[i] - 1)
        return np.array(found)

    @property
    def resolution(self) -> int:
        return int(self.rows["resolution"].iloc[0])

    def of(self, **facts: object) -> bool:
        """Whether it was measured so."""
        return all(str(self.rows[name].iloc[0]) == str(value) for name, value in facts.items())

    def save(self, path: Path) -> None:
        write_csv(path, self.rows)


def read_latency_table(path: Path) -> LatencyTable:
    """
    Raises:
        ConfigError: There is no such table.
    """
    try:
        return LatencyTable(pd.read_csv(path, float_precision="round_trip"))  # a search that goes on decides alike
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
    told: Callable[[int, int], object] = lambda done, of: None,
) -> LatencyTable:
    """Time the parts of a network with `EXPANSIONS` x `BOTTLENECKS` of its channels, and those networks whole, all in
    the same rounds.

    Args:
        network: A classifier.
        runtime: One of `mnet.latency.RUNTIMES`.
        resolution: Height and width of the images.
        threads: That a part may use.
        budget_s: Seconds of rounds.
        seed: Of images and order.
        told: How many of the programs are ready.

    Raises:
        ConfigError, ExportError: As `block_latency`.
    """
    shares = list(itertools.product(EXPANSIONS, BOTTLENECKS))
    nets = [MobileNet(scaled(network, *share)).eval() for share in shares]
    programs: dict[object, Program] = {}
    samples: dict[str, Sample] = {}
    rows: list[dict[str, object]] = []
    images = example_images(nets[0], resolution, seed=seed)
    parts = [[whole(net, images), *runtime_parts(net, runtime, images)] for net in nets]
    keys = {identity(part, number) for number, own in enumerate(parts) for part in own}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        refused = stack.enter_context(pinned(threads))
        machine = make_runtime(runtime, threads=threads, folder=Path(folder))
        for number, (net, own) in enumerate(zip(nets, parts, strict=True)):
            shapes = shapes_of(net.network, resolution).set_index("block").to_dict("index")
            for part in own:
                key = identity(part, number)
                if key not in programs:
                    programs[key] = machine.prepare(part.module, part.example)
                    samples[str(key)] = program_sample(programs[key], part.example)
                    told(len(programs), len(keys))
                shape = cast(dict[str, object], shapes.get(part.block, {}))
                rows.append({"block": part.block, **shape, "network": number, "key": str(key)})
        found = race(samples, str(identity(parts[0][0], 0)), budget_s=budget_s, seed=seed)
    table = pd.DataFrame(rows)
    table["ms"] = [1000 * float(np.median(found.times[key])) for key in table.pop("key")]
    sums = table[table["block"] != WHOLE].groupby("network")["ms"].sum()
    table["sum_ms"] = table["network"].map(sums).where(table["block"] == WHOLE)
    notes = [*([refused] if refused else []), *disturbances(found, str(identity(parts[0][0], 0)))]
    facts = {
        "runtime": runtime,
        "threads": threads,
        "resolution": resolution,
        "version": next(iter(programs.values())).ran.version,
        "rounds": len(next(iter(found.times.values()))),
        **machine_facts(),
        "notes": "; ".join(notes),
    }
    return LatencyTable(table.assign(**cast(dict[str, str], facts)))


def whole(net: MobileNet, images: Tensor) -> Part:
    return Part(block=WHOLE, kind="", module=net, example=images, layers=())


def identity(part: Part, number: int) -> object:
    """What parts that need be timed only once have in common."""
    return (WHOLE, number) if part.block == WHOLE else (part.kind, *(replace(one, layer="") for one in part.layers))


def scaled(network: Network, expansions: float, bottlenecks: float) -> Network:
    """The network with shares of its channels; what shortcuts join still has the same."""
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


def shapes_of(network: Network, resolution: int) -> pd.DataFrame:
    """A row a part: `block, expanded, ends, madds`; `expanded` is 0 where a part has no expansion."""
    counted = part_costs(network, resolution)
    wide = {f"blocks.{i}": at.row.expansion or 0 for i, at in enumerate(resolve_blocks(network))}
    return pd.DataFrame(
        {
            "block": counted["block"],
            "expanded": [wide.get(block, 0) for block in counted["block"]],
            "ends": counted["in_channels"] + counted["out_channels"],
            "madds": counted["madds"],
        }
    )


def along(xs: ArrayLike, ys: ArrayLike, x: float) -> float:
    """Linear between points, and beyond them as between the last two; where several share an x, their mean."""
    points = pd.Series(np.asarray(ys, float)).groupby(np.asarray(xs, float)).mean()
    at, values = points.index.to_numpy(), points.to_numpy()
    if len(at) == 1:
        return float(values[0])
    i = int(np.clip(np.searchsorted(at, x), 1, len(at) - 1))
    slope = (values[i] - values[i - 1]) / (at[i] - at[i - 1])
    return float(values[i - 1] + slope * (x - at[i - 1]))


def fitted(sums: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """Scale and offset from sums of parts to whole networks, of least relative error."""
    terms = np.stack([sums, np.ones_like(sums)], 1) / times[:, None]
    (scale, offset), *_ = np.linalg.lstsq(terms, np.ones_like(times), rcond=None)
    return float(scale), float(offset)
