"""Search over the blocks of a network: `python experiments/search_blocks.py --model=mobilenet_v3_small --w=-0.15`.

Searches kernels, expansions, SE, activations and channels of each stage for the best MnasNet reward, with a short
training whose ranking is checked against full training. The network that it finds is then trained from scratch with
several seeds, as is the start network scaled by width to the same measured latency.
"""

from __future__ import annotations

from common.workers import start_worker_server

if __name__ == "__main__":
    start_worker_server()

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pandas as pd
from common.driver import choose_engine
from common.options import Arguments, Parser
from common.program import begin_training, program
from common.searching import (
    BUDGET_S,
    MADDS,
    SearchOptions,
    compared_cells,
    matched_width,
    measure_ratios,
    network_of,
    start_trial,
    train_compared,
)

from mnet.models.cost import cost
from mnet.models.spec import Network
from mnet.models.tables import table, write_network
from mnet.search.block_search import BlockSearch, best, search_blocks
from mnet.search.proxy import check_proxy, rank_correlation
from mnet.studies.report.charts.export import save_png
from mnet.studies.report.charts.search import search_chart
from mnet.studies.runs.images import load_data
from mnet.studies.runs.store import CANDIDATES, FOUND_NETWORK, PROXY
from mnet.studies.trial import Trial

METHOD = "as in V3 §4.1, by MnasNet's reward"


@dataclass(frozen=True, kw_only=True)
class Options(SearchOptions):
    """Command-line options other than the settings of the start network."""

    population: int = BlockSearch.population
    """Candidates per generation."""
    generations: int = BlockSearch.generations
    """Generations; the first is random."""
    proxy_steps: int = BlockSearch.proxy_steps
    """Training steps of a candidate."""
    target: float = BlockSearch.target
    """TAR of the reward, as a share of the start network's latency."""
    w: float = BlockSearch.w
    """Exponent of the reward, accuracy x (latency / TAR) ^ w; -0.07 in MnasNet, -0.15 for V3-Small."""
    proxy_checked: int = BlockSearch.proxy_checked
    """Candidates that are also trained in full, to check how well the short training ranks them."""

    def search(self) -> BlockSearch:
        """The settings of the search, checked."""
        names = ("population", "generations", "proxy_steps", "target", "w", "proxy_checked")
        return BlockSearch(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Latencies:
    """Latencies on a runtime as shares of the start network's, all timed in the same rounds."""

    start: Trial
    runtime: str

    def __call__(self, networks: Sequence[Network]) -> list[float]:
        named = {"start": network_of(self.start), **{str(i): network for i, network in enumerate(networks)}}
        measured = measure_ratios(named, "start", self.runtime, self.start.input_spec().resolution, BUDGET_S / 4)
        ratios = measured.set_index("variant")["ratio"]
        return [float(ratios[str(i)]) for i in range(len(networks))]

    def __str__(self) -> str:
        return f"latency on {self.runtime}, at {self.start.input_spec().resolution} px"


@dataclass(frozen=True)
class Counts:
    """Multiply-adds as shares of the start network's."""

    start: Trial

    def __call__(self, networks: Sequence[Network]) -> list[float]:
        resolution = self.start.input_spec().resolution
        whole = cost(network_of(self.start), resolution).madds
        return [cost(network, resolution).madds / whole for network in networks]

    def __str__(self) -> str:
        return f"multiply-adds at {self.start.input_spec().resolution} px"


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__, trial=True).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 all runs finished, 1 some failed, 2 bad input, 130 interrupted."""
    begin_training()
    begun = time.monotonic()
    given = read_arguments(arguments)
    options, start = given.options, start_trial(given.settings)
    settings, name = options.search(), options.name or f"blocks-{Path(start.model).stem}"
    folder, resolution = Path(options.out) / name, start.input_spec().resolution
    engine = choose_engine(options, {}, {start.data_key: load_data(start, start.full_recipe())})
    costs = Counts(start) if options.runtime == MADDS else Latencies(start, options.runtime)

    def show_generation(generation: int, candidates: pd.DataFrame) -> None:
        spent, first, leader = time.monotonic() - begun, candidates.iloc[0], best(candidates)
        left = timedelta(seconds=round(spent * (settings.generations - generation - 1) / (generation + 1)))
        reached = f"{leader['accuracy']:.2f}% at {leader['cost']:.2f} of the start network's cost"
        print(f"[{generation + 1}/{settings.generations}] {candidates['run_id'].nunique()} networks; best reward "
              f"{leader['reward']:.2f} ({reached}), start {first['reward']:.2f}; ETA {left}", flush=True)  # fmt: skip

    candidates = search_blocks(start, costs, settings, folder, engine, show_generation)
    network = table(str(best(candidates)["network"]))
    write_network(network, folder / FOUND_NETWORK)
    print(f"training {settings.proxy_checked} candidates in full, to check how well the short training ranks them")
    proxy = check_proxy(start, candidates, settings.proxy_checked, folder, engine)
    print(f"short against full training: {rank_correlation(list(proxy['proxy']), list(proxy['full']))}")
    figure = folder / f"{name}-candidates.png"
    save_png(search_chart(Path(options.out), name), figure)
    print("\n".join(f"  {path}" for path in (*(folder / file for file in (FOUND_NETWORK, CANDIDATES, PROXY)), figure)))
    if options.runtime == MADDS:
        scaled: dict[str, object] = {"target_madds": round(cost(network, resolution).madds / 1e6, 4)}
    else:
        scaled = {"width": matched_width(start, network, {}, options.runtime, folder)}
    cells = compared_cells(start, folder, scaled)
    code = train_compared(name, start, cells, METHOD, "make search-blocks", folder, engine, options)
    print(f"{name}: {timedelta(seconds=round(time.monotonic() - begun))}")
    return code


if __name__ == "__main__":
    sys.exit(main())
