"""Find a faster network: `python experiments/search.py --model=mobilenet_v3_small --target=0.7`.

NetAdapt removes channels step by step, guided by the latency on this machine's runtime. The network that it finds is
then trained from scratch with several seeds, as is the start network scaled by width to the same measured latency.
The same command continues a stopped search, and finds the same network.
"""

from __future__ import annotations

from common.workers import start_worker_server

if __name__ == "__main__":
    start_worker_server()

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import pandas as pd
import torch
from common.driver import choose_engine
from common.options import Arguments, Parser
from common.program import begin_training, program
from common.searching import (
    BUDGET_S,
    MADDS,
    SearchOptions,
    compared_cells,
    matched_width,
    network_of,
    start_trial,
    train_compared,
)
from common.terminal import print_line, print_rows
from rich.console import Console

from mnet.files import write_csv
from mnet.latency.machine import machine_facts
from mnet.latency.table import LatencyTable, measure_table, read_latency_table
from mnet.search.netadapt import NetAdapt, Step, adapt
from mnet.search.proposals import MAdds
from mnet.studies.engines.events import Event, Failed, Finished
from mnet.studies.report.charts.export import save_png
from mnet.studies.report.charts.search import search_chart
from mnet.studies.runs.images import load_data
from mnet.studies.runs.store import CHECK, FOUND_NETWORK, TRACE
from mnet.studies.trial import Trial

CHECKED = 5
"""About how many steps have their predicted latency compared with the measured one."""
START = "seed"
"""The start network in `CHECK`."""
METHOD = "NetAdapt, the last step of the search in V3 §4.2"


@dataclass(frozen=True, kw_only=True)
class Options(SearchOptions):
    """Command-line options other than the settings of the start network."""

    target: float = NetAdapt.target
    """Stop at this share of the start network's latency."""
    delta: float = NetAdapt.delta
    """Smallest saving of a step, as a share of the start network's latency."""
    tune_steps: int = NetAdapt.tune_steps
    """Training steps of each proposal."""
    tune_lr: float = NetAdapt.tune_lr
    """Highest learning rate of that training, as a share of the recipe's."""

    def search(self) -> NetAdapt:
        """The settings of the search, checked."""
        return NetAdapt(target=self.target, delta=self.delta, tune_steps=self.tune_steps, tune_lr=self.tune_lr)


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__, trial=True).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 all runs finished, 1 some failed, 2 bad input, 130 interrupted."""
    begin_training()
    begun = time.monotonic()
    given = read_arguments(arguments)
    options, start = given.options, start_trial(given.settings)
    settings, name = options.search(), options.name or f"netadapt-{Path(start.model).stem}"
    folder = Path(options.out) / name
    engine = choose_engine(options, {}, {start.data_key: load_data(start, start.full_recipe())})
    cost = read_cost(start, options.runtime, folder)
    with Display(options.target) as display:
        steps = adapt(start, cost, settings, folder, engine, display.show_step, display.on_event)
    figure = folder / f"{name}-trace.png"
    save_png(search_chart(Path(options.out), name), figure)
    print("\n".join(f"  {path}" for path in (folder / FOUND_NETWORK, folder / TRACE, figure)))
    cells = compared_cells(start, folder, scaled_setting(start, steps, cost, folder))
    code = train_compared(name, start, cells, METHOD, "make search", folder, engine, options)
    print(f"{name}: {timedelta(seconds=round(time.monotonic() - begun))}")
    return code


def read_cost(start: Trial, runtime: str, folder: Path) -> MAdds | LatencyTable:
    """The cost that the search lowers: multiply-adds, or a table of latencies, measured if the folder has none."""
    resolution = start.input_spec().resolution
    if runtime == MADDS:
        return MAdds(resolution)
    path = folder / f"latency-table-{runtime}.csv"
    if path.exists():
        table = read_latency_table(path)
        if table.measured_with(runtime=runtime, resolution=resolution) and not table.measured_with(
            device=machine_facts()["device"]
        ):
            print(f"{path} was measured on another machine ({table.rows['device'].iloc[0]}) and is used as is")
        return table
    console = Console()

    def report_progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print_line(console, f"latency table: {done} of {total} parts ready on {runtime}")

    torch.set_num_threads(1)
    network = network_of(start)
    table = measure_table(
        network, runtime=runtime, resolution=resolution, budget_s=BUDGET_S, report_progress=report_progress
    )
    table.save(path)
    for note in filter(None, str(table.rows["notes"].iloc[0]).split("; ")):
        print_line(console, f"  {note}")
    errors = 100 * abs(table.errors)
    print(f"latency table: {len(table.parts)} parts; whole networks are predicted within {errors.max():.1f}%, "
          f"{errors.mean():.1f}% on average (leave-one-out)\n  {path}")  # fmt: skip
    return table


class Display:
    """The search on the terminal: one line per step, with the time left."""

    def __init__(self, target: float) -> None:
        self.target, self.console = target, Console()
        self.status = self.console.status("training the start network")
        self.first: Step | None = None
        self.begun, self.cost_at_begin = 0.0, math.nan
        self.runs = 0

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.status.stop()

    def on_event(self, event: Event) -> None:
        """Show an event of the engine."""
        if isinstance(event, Failed):
            print_line(self.console, f"{event.job.run_id} failed: {event.reason}")
        if isinstance(event, Finished):
            self.runs += 1
            self.status.update(f"tuning proposals: {self.runs} runs so far")

    def show_step(self, step: Step, proposals: int) -> None:
        """Print a step that was decided."""
        if self.first is None:
            self.first, self.begun, self.cost_at_begin = step, time.monotonic(), step.cost
        share = step.cost / self.first.cost
        line = (
            f"[{step.number}] {share:.1%} of the start network's cost, validation {step.accuracy:.2f}%: {step.change}"
        )
        print_line(self.console, f"{line}; {self._time_left(step)}")

    def _time_left(self, step: Step) -> str:
        assert self.first is not None
        done, todo = self.cost_at_begin - step.cost, step.cost - self.target * self.first.cost
        if done <= 0 or todo <= 0:
            return "ETA unknown" if todo > 0 else "target reached"
        return f"ETA {timedelta(seconds=round(todo * (time.monotonic() - self.begun) / done))}"


def scaled_setting(start: Trial, steps: Sequence[Step], cost: MAdds | LatencyTable, folder: Path) -> dict[str, object]:
    """The setting that scales the start network to the cost of the network found; also checks a table of latencies."""
    if isinstance(cost, MAdds):
        return {"target_madds": round(steps[-1].cost, 4)}
    between = steps[1 : -1 : max(1, len(steps) // CHECKED)]
    others = {START: steps[0].network, **{f"step {step.number}": step.network for step in between}}
    network = steps[-1].network
    width = matched_width(start, network, others, str(cost.rows["runtime"].iloc[0]), folder)
    check_predictions({name: cost(network) for name, network in {"found": network, **others}.items()}, folder / CHECK)
    return {"width": width}


def check_predictions(predicted: Mapping[str, float], path: Path) -> None:
    """Compare predicted and measured latencies, as shares of the start network's, and add these to the file."""
    measured = pd.read_csv(path)
    names, ms = list(measured["variant"]), measured["median_ms"].to_numpy()
    measured["predicted_share"] = [predicted.get(name, math.nan) / predicted[START] for name in names]
    measured["share"] = ms / ms[names.index(START)]
    write_csv(path, measured)
    rows = measured.dropna(subset=["predicted_share"])
    errors = 100 * (rows["predicted_share"] / rows["share"] - 1)
    shown = zip(rows["variant"].replace(START, "start"), rows["predicted_share"], rows["share"], errors, strict=True)
    print_rows(
        "latency as a share of the start network's: predicted by the table, and measured",
        {"network": False, "predicted": True, "measured": True, "error": True},
        [(name, f"{share:.3f}", f"{timed:.3f}", f"{error:+.1f}%") for name, share, timed, error in shown],
    )
    sizes = errors[rows["variant"] != START].abs()
    print(f"predicted within {sizes.max():.1f}%, {sizes.mean():.1f}% on average\n  {path}")


if __name__ == "__main__":
    sys.exit(main())
