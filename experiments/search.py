"""Find a faster network: `python experiments/search.py --model=mobilenet_v3_small --target=0.7`.

NetAdapt takes channels from a network step by step, by the latency that this machine's runtime would have. What it
finds is then trained from scratch, several seeds, beside the same network scaled by width to the same measured latency.
A search that was stopped goes on with the same command, and ends with the same network.
"""

from __future__ import annotations

from multiprocessing import forkserver, set_forkserver_preload

if __name__ == "__main__":  # as in ablate.py
    set_forkserver_preload(["mnet.studies.run"])
    forkserver.ensure_running()

import argparse
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import ablate
import pandas as pd
import torch
from options import add_trial_settings, read_own_options, trial_settings
from rich import box
from rich.console import Console
from rich.table import Table

import mnet
from mnet.data import ImageData
from mnet.errors import ConfigError, DataError, text, unknown
from mnet.files import write_csv, write_yaml
from mnet.latency.comparison import compare
from mnet.latency.runtimes import RUNTIMES, ExportError
from mnet.latency.table import LatencyTable, measure_table, read_latency_table
from mnet.machine import machine_facts
from mnet.search.netadapt import FOUND, TRACE, NetAdapt, Step, adapt
from mnet.search.plots import plot_trace
from mnet.search.proposals import Cost, MAdds
from mnet.spec import Network
from mnet.studies.engines import Engine, Event
from mnet.studies.run import load_data
from mnet.studies.sweep import load_study
from mnet.studies.trial import PARAMETERS, VARIANT, Trial, trial_from
from mnet.toggles import Toggles
from mnet.toggles import width as with_width

MADDS = "madds"
CHECK = "latency-check.csv"
WIDTHS = tuple(step / 40 for step in range(8, 41))
"""Where a width of the same latency is looked for."""
CHECKED = 5
"""Networks on the way whose predicted latency is compared with the measured."""
BUDGET_S = 20.0
"""Of each race."""


@dataclass(frozen=True, kw_only=True)
class Options(ablate.Options):
    """What a call asks for, beside the settings of the network to begin with."""

    name: str | None = None
    """Of the search and of its folder; default: netadapt-<model>."""
    runtime: str = "executorch"
    """What latency is measured on, one of mnet.latency.RUNTIMES; or madds, to count instead."""
    target: float = NetAdapt.target
    """Where to stop: a share of the seed's latency."""
    delta: float = NetAdapt.delta
    """What a step saves at least: a share of the seed's latency."""
    tune_steps: int = NetAdapt.tune_steps
    """Training steps for every proposal."""
    tune_lr: float = NetAdapt.tune_lr
    """Their highest learning rate, as a share of the recipe's."""

    def search(self) -> NetAdapt:
        return NetAdapt(target=self.target, delta=self.delta, tune_steps=self.tune_steps, tune_lr=self.tune_lr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: as `ablate.main`."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    begun = time.monotonic()
    try:
        options, seed = read_arguments(arguments)
        name = options.name or f"netadapt-{Path(seed.model).stem}"
        folder = Path(options.out) / name
        data = load_data(seed, seed.full_recipe())
        engine = ablate.build_engine(options, {}, [data])
        cost = build_cost(seed, options.runtime, folder)
        with Told(options) as told:
            steps = adapt(seed, cost, options.search(), folder, engine, told.step, told.event)
        draw(folder, name, seed, steps, cost)
        cells = matched(seed, steps, cost, folder)
        code = compare_trained(name, seed, cells, folder, engine, [data], options)
        print(f"{name}: {timedelta(seconds=round(time.monotonic() - begun))}")
        return code
    except KeyboardInterrupt:
        print("\nstopped; what was decided and trained is kept: run the same command to go on")
        return ablate.INTERRUPTED
    except (ConfigError, DataError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def read_arguments(arguments: Sequence[str] | None) -> tuple[Options, Trial]:
    """This program's options, and the network to begin with.

    Raises:
        ConfigError: An option or a value is wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trial_settings(parser)
    given, options = read_own_options(parser, Options, arguments, positive=("seeds", "workers", "margin", "gpus"))
    options.search()
    if options.runtime != MADDS and options.runtime not in RUNTIMES:
        raise unknown("runtime", options.runtime, [MADDS, *RUNTIMES])
    seed = trial_from(trial_settings(given))
    if seed.head is not None or seed.precision != "fp32":
        raise ConfigError("a search narrows classifiers in fp32; leave head and precision out")
    return options, seed


def network_of(trial: Trial) -> Network:
    data = trial.data()
    return trial.network(data.num_classes, data.in_channels)


def build_cost(seed: Trial, runtime: str, folder: Path) -> MAdds | LatencyTable:
    """Multiply-adds; or the table of latencies, which is measured once."""
    resolution = seed.data().resolution
    if runtime == MADDS:
        return MAdds(resolution)
    path = folder / f"latency-table-{runtime}.csv"
    if path.exists():
        known = read_latency_table(path)
        device = machine_facts()["device"]
        if known.of(runtime=runtime, resolution=resolution) and not known.of(device=device):
            print(f"{path} is of another machine, {known.rows['device'].iloc[0]}; the search goes by it all the same")
        return known
    console = Console()

    def told(done: int, of: int) -> None:
        if done % 20 == 0 or done == of:
            console.print(f"latency table: {done} of {of} parts ready on {runtime}", markup=False, highlight=False)

    torch.set_num_threads(1)
    found = measure_table(network_of(seed), runtime=runtime, resolution=resolution, budget_s=BUDGET_S, told=told)
    found.save(path)
    for note in filter(None, str(found.rows["notes"].iloc[0]).split("; ")):
        console.print(f"  {note}", markup=False, highlight=False)
    errors = 100 * abs(found.errors)
    print(f"latency table: {len(found.parts)} parts; whole networks are predicted within {errors.max():.1f}%, "
          f"{errors.mean():.1f}% on average, each by the others\n  {path}")  # fmt: skip
    return found


class Told:
    """The search on the terminal: a line a step, and when it may end."""

    def __init__(self, options: Options) -> None:
        self.options, self.console = options, Console()
        self.first: Step | None = None
        self.begun, self.cost_then = 0.0, math.nan
        self.runs = 0

    def __enter__(self) -> Told:
        self.status = self.console.status("training the seed")
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()

    def event(self, event: Event) -> None:
        if event.kind == "failed":
            self.console.print(f"{event.job.run_id} failed: {event.content}", markup=False, highlight=False)
        if event.kind == "finished":
            self.runs += 1
            self.status.update(f"tuning proposals: {self.runs} runs so far")

    def step(self, step: Step, among: int) -> None:
        if self.first is None:
            self.first, self.begun, self.cost_then = step, time.monotonic(), step.cost
        share = step.cost / self.first.cost
        line = f"[{step.number}] {share:.1%} of the seed's cost, validation {step.accuracy:.2f}%: {step.what}"
        self.console.print(f"{line}; {self.left(step)}", markup=False, highlight=False)

    def left(self, step: Step) -> str:
        assert self.first is not None
        done, todo = self.cost_then - step.cost, step.cost - self.options.target * self.first.cost
        if done <= 0 or todo <= 0:
            return "ETA unknown" if todo > 0 else "there"
        return f"ETA {timedelta(seconds=round(todo * (time.monotonic() - self.begun) / done))}"


def draw(folder: Path, name: str, seed: Trial, steps: Sequence[Step], cost: Cost) -> None:
    unit = "million multiply-adds" if isinstance(cost, MAdds) else "ms"
    path = folder / f"{name}-trace.png"
    title = f"{name}: {cost}"
    plot_trace(pd.read_csv(folder / TRACE), steps[0].network, steps[-1].network, unit, path, title)
    print(f"  {folder / FOUND}\n  {folder / TRACE}\n  {path}")


def matched(seed: Trial, steps: Sequence[Step], cost: MAdds | LatencyTable, folder: Path) -> list[dict[str, object]]:
    """The cells to be trained: the seed scaled by width to what the found network costs, that one, and the seed.

    By latency: the narrowest width that is measured to take at least as long; the table's error is told too.
    """
    toggles = {name: value for name, value in seed.toggles().items() if value is not None and name != "width"}
    paper: dict[str, object] = {"model": seed.model, **toggles}
    found: dict[str, object] = {"model": str(folder / FOUND)}
    full = {
        **paper,
        **{name: value for name in ("width", "target_madds") if (value := getattr(seed, name)) is not None},
    }
    if isinstance(cost, MAdds):
        return [{**paper, "target_madds": round(steps[-1].cost, 4)}, found, full]
    width = same_latency(seed, steps, cost, folder)
    return [{**paper, "width": width}, found, full]


def same_latency(seed: Trial, steps: Sequence[Step], cost: LatencyTable, folder: Path) -> float:
    """The width at which the seed's network takes as long as the one that was found, or next to it, longer.

    Measured here: the widths, networks on the way, and the found one, in the same rounds.
    """
    plain = replace(seed, width=None, target_madds=None)
    base = network_of(plain)
    widths: dict[float, Network] = {}
    for width in WIDTHS:
        network = with_width(base, width) if width != 1 else base
        if network not in widths.values():
            widths[width] = network
    inside = steps[1 : -1 : max(1, len(steps) // CHECKED)]
    nets = {
        "found": steps[-1].network,
        "seed": steps[0].network,
        **{f"step {one.number}": one.network for one in inside},
    }
    nets |= {f"width {width:g}": network for width, network in widths.items()}
    facts = cost.rows.iloc[0]
    measured = compare(
        {name: mnet.create_model(network).eval() for name, network in nets.items()},
        "found",
        runtime=str(facts["runtime"]),
        resolution=int(facts["resolution"]),
        threads=int(facts["threads"]),
        budget_s=2 * BUDGET_S,
        folder=folder / "exported",
    )
    predicted = {name: cost(network) for name, network in nets.items() if not name.startswith("width")}
    measured["predicted_ms"] = measured["variant"].map(predicted)
    measured["predicted_ratio"] = measured["predicted_ms"] / predicted["found"]
    write_csv(folder / CHECK, measured.assign(**machine_facts(), runtime=str(facts["runtime"])))  # type: ignore[arg-type]
    show_check(measured, folder)
    ratios = measured.set_index("variant")["ratio"]
    slower = [width for width in widths if ratios[f"width {width:g}"] >= 1]
    return min(slower, key=lambda width: float(ratios[f"width {width:g}"]), default=1.0)


def show_check(measured: pd.DataFrame, folder: Path) -> None:
    shown = Table(box=box.SIMPLE_HEAD, title="the table's predictions beside whole networks, in the same rounds")
    for column in ("network", "predicted ms", "measured ms", "error"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    own = measured.dropna(subset=["predicted_ms"])
    errors = 100 * (own["predicted_ms"] / own["median_ms"] - 1)
    for (_, row), error in zip(own.iterrows(), errors, strict=True):
        shown.add_row(str(row["variant"]), f"{row['predicted_ms']:.4f}", f"{row['median_ms']:.4f}", f"{error:+.1f}%")
    Console(width=100).print(shown)
    print(f"predicted within {errors.abs().max():.1f}%, {errors.abs().mean():.1f}% on average\n  {folder / CHECK}")


def compare_trained(
    name: str,
    seed: Trial,
    cells: Sequence[Mapping[str, object]],
    folder: Path,
    engine: Engine,
    data: Sequence[ImageData],
    options: Options,
) -> int:
    """Train the cells from scratch, as any study, from a sweep file that can be run again by itself."""
    path = folder / f"{name}.yaml"
    write_yaml(path, sweep(name, seed, cells, options.seeds or 3))
    study = load_study(path)
    jobs = ablate.plan([study], Path(options.out), options, {})
    code = ablate.run([study], Path(options.out), engine, jobs, options.margin)
    if options.report and code != ablate.INTERRUPTED:
        from report import write

        for page in write(Path(options.out), [name]):
            print(f"  {page}")
    return code


def sweep(name: str, seed: Trial, cells: Sequence[Mapping[str, object]], seeds: int) -> dict[str, object]:
    """A sweep file, as those of experiments/sweeps."""
    own = (*Toggles.__dataclass_fields__, "model", "target_madds", "seed", "tested")
    fixed = {
        field: value
        for field in PARAMETERS
        if field not in own and (value := seed.settings()[field]) != getattr(Trial, field)
    }
    variants = [" ".join(f"{field}={text(value)}" for field, value in cell.items()) for cell in cells]
    parameters: dict[str, object] = {field: {"value": value} for field, value in fixed.items()}
    parameters |= {VARIANT: {"values": variants}, "seed": {"values": list(range(seeds))}}
    return {
        "program": "experiments/train.py",
        "method": "grid",
        "name": name,
        "description": f"The network that a search found from {seed.model}, beside the same network scaled by width to "
        f"the same cost, and whole. V3 §4.2 searches so; it gives no such comparison.",
        "metric": {"name": f"val/{seed.task.headline.name}", "goal": "maximize"},
        "parameters": parameters,
        "command": ["${env}", "${interpreter}", "${program}", f"--study={name}", "${args}"],
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(ablate.INTERRUPTED)
