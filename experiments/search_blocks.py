"""Search over the blocks of a network: `python experiments/search_blocks.py --model=mobilenet_v3_small --w=-0.15`.

Kernels, expansions, SE, activations and channels of each stage, by MnasNet's reward, on a short training whose ranking
is checked against the full one. What is found is then trained from scratch, several seeds, beside the network that the
search began with, scaled by width to the same measured latency.
"""

from __future__ import annotations

from multiprocessing import forkserver, set_forkserver_preload

if __name__ == "__main__":  # as in ablate.py
    set_forkserver_preload(["mnet.studies.runs.run"])
    forkserver.ensure_running()

import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import ablate
import pandas as pd
from search import (
    BUDGET_S,
    MADDS,
    Common,
    cells_at,
    compare_trained,
    measured_ratios,
    network_of,
    read_arguments,
    width_at,
)

from mnet.errors import ConfigError, DataError
from mnet.latency.runtimes import ExportError
from mnet.models.cost import cost
from mnet.models.spec import Network
from mnet.models.tables import table, write_network
from mnet.search.blocks import BlockSearch, best, check_proxy, rank_correlation, search_blocks
from mnet.search.netadapt import FOUND
from mnet.search.plots import plot_search
from mnet.studies.runs.prepare import load_data
from mnet.studies.runs.store import CANDIDATES, PROXY
from mnet.studies.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """What a call asks for, beside the settings of the network to begin with."""

    population: int = BlockSearch.population
    """Candidates a generation."""
    generations: int = BlockSearch.generations
    proxy_steps: int = BlockSearch.proxy_steps
    """Training steps of a candidate."""
    target: float = BlockSearch.target
    """TAR of the reward, as a share of the seed's latency."""
    w: float = BlockSearch.w
    """Of the reward, accuracy x (latency / TAR) ^ w; MnasNet has -0.07, V3-Small -0.15."""
    proxy_checked: int = BlockSearch.proxy_checked
    """Candidates that are trained in full too, to see how well the short training ranks them."""

    def search(self) -> BlockSearch:
        own = ("population", "generations", "proxy_steps", "target", "w", "proxy_checked")
        return BlockSearch(**{name: getattr(self, name) for name in own})


@dataclass(frozen=True)
class Latencies:
    """Latencies on a runtime as shares of the seed's, all timed in the same rounds."""

    seed: Trial
    runtime: str

    def __call__(self, networks: Sequence[Network]) -> list[float]:
        nets = {"seed": network_of(self.seed), **{str(i): one for i, one in enumerate(networks)}}
        found = measured_ratios(nets, "seed", self.runtime, self.seed.input_spec().resolution, BUDGET_S / 4)
        ratios = found.set_index("variant")["ratio"]
        return [float(ratios[str(i)]) for i in range(len(networks))]

    def __str__(self) -> str:
        return f"latency on {self.runtime}, at {self.seed.input_spec().resolution} px"


@dataclass(frozen=True)
class Counts:
    """Multiply-adds as shares of the seed's."""

    seed: Trial

    def __call__(self, networks: Sequence[Network]) -> list[float]:
        resolution = self.seed.input_spec().resolution
        whole = cost(network_of(self.seed), resolution).madds
        return [cost(one, resolution).madds / whole for one in networks]

    def __str__(self) -> str:
        return f"multiply-adds at {self.seed.input_spec().resolution} px"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: as `ablate.main`."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    begun = time.monotonic()
    try:
        options, seed = read_arguments(Options, __doc__ or "", arguments)
        settings, name = options.search(), options.name or f"blocks-{Path(seed.model).stem}"
        folder = Path(options.out) / name
        data = load_data(seed, seed.full_recipe())
        engine = ablate.build_engine(options, {}, [data])
        costs = Counts(seed) if options.runtime == MADDS else Latencies(seed, options.runtime)

        def tell(generation: int, so_far: pd.DataFrame) -> None:
            spent, first, found = time.monotonic() - begun, so_far.iloc[0], best(so_far)
            left = timedelta(seconds=round(spent * (settings.generations - generation - 1) / (generation + 1)))
            told = f"{found['accuracy']:.2f}% at {found['cost']:.2f} of the seed's cost; the seed {first['reward']:.2f}"
            print(f"[{generation + 1}/{settings.generations}] {so_far['run_id'].nunique()} networks; best reward "
                  f"{found['reward']:.2f} ({told}); ETA {left}", flush=True)  # fmt: skip

        candidates = search_blocks(seed, costs, settings, folder, engine, tell)
        chosen = best(candidates)
        found = table(str(chosen["network"]))
        write_network(found, folder / FOUND)
        print(f"training {settings.proxy_checked} candidates in full, to see how well the short training ranks them")
        proxy = check_proxy(seed, candidates, settings, folder, engine)
        said = str(rank_correlation(list(proxy["proxy"]), list(proxy["full"])))
        print(f"short against full training: {said}")
        figure = folder / f"{name}-candidates.png"
        plot_search(Path(options.out), name, figure)
        print("\n".join(f"  {path}" for path in (*(folder / file for file in (FOUND, CANDIDATES, PROXY)), figure)))
        if options.runtime == MADDS:
            cells = cells_at(
                seed, folder, {"target_madds": round(cost(found, seed.input_spec().resolution).madds / 1e6, 4)}
            )
        else:
            cells = cells_at(seed, folder, {"width": width_at(seed, found, {}, options.runtime, folder)})
        why = "MnasNet's reward, which V3 §4.1 searches by"
        code = compare_trained(name, seed, cells, why, "make search-blocks", folder, engine, [data], options)
        print(f"{name}: {timedelta(seconds=round(time.monotonic() - begun))}")
        return code
    except KeyboardInterrupt:
        print("\nstopped; what was decided and trained is kept: run the same command to go on")
        return ablate.INTERRUPTED
    except (ConfigError, DataError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(ablate.INTERRUPTED)
