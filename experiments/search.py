"""Find a faster network: `python experiments/search.py --model=mobilenet_v3_small --target=0.7`.

NetAdapt takes channels from a network step by step, by the latency that this machine's runtime would have. What it
finds is then trained from scratch, several seeds, beside the same network scaled by width to the same measured latency.
A search that was stopped goes on with the same command, and ends with the same network.
"""

from __future__ import annotations

from multiprocessing import forkserver, set_forkserver_preload

if __name__ == "__main__":  # as in ablate.py
    set_forkserver_preload(["mnet.studies.runs.run"])
    forkserver.ensure_running()

import argparse
import logging
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, cast

import ablate
import pandas as pd
import torch
from common.options import add_trial_settings, read_own_options, trial_settings
from rich import box
from rich.console import Console
from rich.table import Table

import mnet
from mnet.data import ImageData
from mnet.errors import ConfigError, DataError, text, unknown
from mnet.files import write_csv, write_yaml
from mnet.latency.comparison import compare
from mnet.latency.machine import machine_facts
from mnet.latency.runtimes import RUNTIMES, ExportError
from mnet.latency.table import LatencyTable, measure_table, read_latency_table
from mnet.models.spec import Network
from mnet.models.toggles import Toggles
from mnet.models.toggles import width as with_width
from mnet.search.netadapt import FOUND, NetAdapt, Step, adapt
from mnet.search.plots import plot_search
from mnet.search.proposals import MAdds
from mnet.studies.engines import Engine, Event
from mnet.studies.engines.remote import is_url
from mnet.studies.options import PARAMETERS, VARIANT, trial_from
from mnet.studies.runs.prepare import load_data
from mnet.studies.runs.store import CHECK, TRACE
from mnet.studies.study import load_study
from mnet.studies.trial import Trial

MADDS = "madds"
WIDTHS = tuple(step / 40 for step in range(8, 41))
"""Where a width of the same latency is looked for."""
CHECKED = 5
"""Networks on the way whose predicted latency is compared with the measured."""
SEEDS = 5
"""Of what is trained in the end."""
BUDGET_S = 20.0
"""Of each race."""


@dataclass(frozen=True, kw_only=True)
class Common(ablate.Options):
    """What both searches are asked for."""

    name: str | None = None
    """Of the search and of its folder; default: how it searches, and the model."""
    runtime: str = "executorch"
    """What latency is measured on, one of mnet.latency.RUNTIMES; or madds, to count instead."""


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """What a call asks for, beside the settings of the network to begin with."""

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


Own = TypeVar("Own", bound=Common)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: as `ablate.main`."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    begun = time.monotonic()
    try:
        options, seed = read_arguments(Options, __doc__ or "", arguments)
        settings = options.search()
        name = options.name or f"netadapt-{Path(seed.model).stem}"
        folder = Path(options.out) / name
        data = load_data(seed, seed.full_recipe())
        engine = ablate.build_engine(options, {}, [data])
        cost = build_cost(seed, options.runtime, folder)
        with Told(options) as told:
            steps = adapt(seed, cost, settings, folder, engine, told.step, told.event)
        figure = folder / f"{name}-trace.png"
        plot_search(Path(options.out), name, figure)
        print("\n".join(f"  {path}" for path in (folder / FOUND, folder / TRACE, figure)))
        cells = matched(seed, steps, cost, folder)
        why = "NetAdapt, which V3 §4.2 ends its search with"
        code = compare_trained(name, seed, cells, why, "make search", folder, engine, [data], options)
        print(f"{name}: {timedelta(seconds=round(time.monotonic() - begun))}")
        return code
    except KeyboardInterrupt:
        print("\nstopped; what was decided and trained is kept: run the same command to go on")
        return ablate.INTERRUPTED
    except (ConfigError, DataError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def read_arguments(kind: type[Own], doc: str, arguments: Sequence[str] | None) -> tuple[Own, Trial]:
    """A program's options, and the network to begin with.

    Raises:
        ConfigError: An option or a value is wrong.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trial_settings(parser)
    given, options = read_own_options(parser, kind, arguments, positive=("seeds", "workers", "margin", "gpus"))
    if options.runtime != MADDS and options.runtime not in RUNTIMES:
        raise unknown("runtime", options.runtime, [MADDS, *RUNTIMES])
    seed = trial_from(trial_settings(given))
    if is_url(options.out):
        raise ConfigError(f"out must be a folder for a search, not {options.out}: its networks are files that all read")
    if seed.head is not None or seed.precision != "fp32":
        raise ConfigError("a search changes classifiers in fp32; leave head and precision out")
    return options, seed


def network_of(trial: Trial) -> Network:
    data = trial.input_spec()
    return trial.network(data.num_classes, data.in_channels)


def build_cost(seed: Trial, runtime: str, folder: Path) -> MAdds | LatencyTable:
    """Multiply-adds; or the table of latencies, which is measured once."""
    resolution = seed.input_spec().resolution
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
            say(f"latency table: {done} of {of} parts ready on {runtime}", console)

    torch.set_num_threads(1)
    found = measure_table(network_of(seed), runtime=runtime, resolution=resolution, budget_s=BUDGET_S, told=told)
    found.save(path)
    for note in filter(None, str(found.rows["notes"].iloc[0]).split("; ")):
        say(f"  {note}", console)
    errors = 100 * abs(found.errors)
    print(f"latency table: {len(found.parts)} parts; whole networks are predicted within {errors.max():.1f}%, "
          f"{errors.mean():.1f}% on average, each by the others\n  {path}")  # fmt: skip
    return found


def say(line: str, console: Console) -> None:
    """Above what is shown live."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


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
            say(f"{event.job.run_id} failed: {event.content}", self.console)
        if event.kind == "finished":
            self.runs += 1
            self.status.update(f"tuning proposals: {self.runs} runs so far")

    def step(self, step: Step, among: int) -> None:
        if self.first is None:
            self.first, self.begun, self.cost_then = step, time.monotonic(), step.cost
        share = step.cost / self.first.cost
        line = f"[{step.number}] {share:.1%} of the seed's cost, validation {step.accuracy:.2f}%: {step.what}"
        say(f"{line}; {self.left(step)}", self.console)

    def left(self, step: Step) -> str:
        assert self.first is not None
        done, todo = self.cost_then - step.cost, step.cost - self.options.target * self.first.cost
        if done <= 0 or todo <= 0:
            return "ETA unknown" if todo > 0 else "there"
        return f"ETA {timedelta(seconds=round(todo * (time.monotonic() - self.begun) / done))}"


def matched(seed: Trial, steps: Sequence[Step], cost: MAdds | LatencyTable, folder: Path) -> list[dict[str, object]]:
    """The cells to be trained; by latency, the table's error is told too."""
    found = steps[-1].network
    if isinstance(cost, MAdds):
        return cells_at(seed, folder, {"target_madds": round(steps[-1].cost, 4)})
    inside = steps[1 : -1 : max(1, len(steps) // CHECKED)]
    beside = {"seed": steps[0].network, **{f"step {one.number}": one.network for one in inside}}
    width = width_at(seed, found, beside, str(cost.rows["runtime"].iloc[0]), folder)
    predicted = {name: cost(network) for name, network in {"found": found, **beside}.items()}
    show_check(pd.read_csv(folder / CHECK), predicted, folder)
    return cells_at(seed, folder, {"width": width})


def cells_at(seed: Trial, folder: Path, scaled: Mapping[str, object]) -> list[dict[str, object]]:
    """The seed's network scaled to what the found one costs, the found one, and the seed."""
    toggles = {name: value for name, value in seed.toggles().items() if value is not None and name != "width"}
    paper: dict[str, object] = {"model": seed.model, **toggles}
    own = {name: value for name in ("width", "target_madds") if (value := getattr(seed, name)) is not None}
    cells: list[dict[str, object]] = [{**paper, **scaled}, {"model": str(folder / FOUND)}, {**paper, **own}]
    return [cell for i, cell in enumerate(cells) if cell not in cells[:i]]


def width_at(seed: Trial, found: Network, beside: Mapping[str, Network], runtime: str, folder: Path) -> float:
    """The width at which the seed's network takes as long as the one that was found, or next to it, longer.

    Measured here, in the same rounds: the widths, the found one, and what is asked for beside; written to `CHECK`.
    """
    base = network_of(replace(seed, width=None, target_madds=None))
    widths: dict[float, Network] = {}
    for width in WIDTHS:
        network = with_width(base, width)
        if network.blocks not in [one.blocks for one in widths.values()]:
            widths[width] = network
    nets = {"found": found, **beside, **{f"width {width:g}": network for width, network in widths.items()}}
    measured = measured_ratios(nets, "found", runtime, seed.input_spec().resolution, 2 * BUDGET_S)
    write_csv(folder / CHECK, measured.assign(runtime=runtime, **cast(dict[str, str], machine_facts())))
    ratios = measured.set_index("variant")["ratio"]
    slower = [width for width in widths if ratios[f"width {width:g}"] >= 1]
    width = min(slower, key=lambda width: float(ratios[f"width {width:g}"]), default=WIDTHS[-1])
    one = measured.set_index("variant").loc[f"width {width:g}"]
    ratio = f"{one['ratio']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
    print(f"width {width:g} takes {ratio} of the found network's latency")
    return width


def measured_ratios(
    nets: Mapping[str, Network], baseline: str, runtime: str, resolution: int, budget_s: float
) -> pd.DataFrame:
    """Latencies as `compare` has them, of new networks; what was exported for them does not stay."""
    torch.set_num_threads(1)
    built = {name: mnet.create_model(network).eval() for name, network in nets.items()}
    with TemporaryDirectory() as folder:
        return compare(built, baseline, runtime=runtime, resolution=resolution, budget_s=budget_s, folder=Path(folder))


def show_check(measured: pd.DataFrame, predicted: Mapping[str, float], folder: Path) -> None:
    """What the table says of networks, as shares of the seed's latency, beside what was measured; added to `CHECK`."""
    times = measured.set_index("variant")["median_ms"]
    measured["predicted_share"] = [predicted[name] / predicted["seed"] if name in predicted else math.nan
                                   for name in measured["variant"]]  # fmt: skip
    measured["share"] = measured["median_ms"] / times["seed"]
    write_csv(folder / CHECK, measured)
    shown = Table(box=box.SIMPLE_HEAD, title="latency as a share of the seed's: the table, and whole networks")
    for column in ("network", "by the table", "measured", "error"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    own = measured.dropna(subset=["predicted_share"])
    errors = 100 * (own["predicted_share"] / own["share"] - 1)
    for (_, row), error in zip(own.iterrows(), errors, strict=True):
        shown.add_row(str(row["variant"]), f"{row['predicted_share']:.3f}", f"{row['share']:.3f}", f"{error:+.1f}%")
    Console(width=100).print(shown)
    others = errors[own["variant"] != "seed"].abs()
    print(f"predicted within {others.max():.1f}%, {others.mean():.1f}% on average\n  {folder / CHECK}")


def compare_trained(
    name: str,
    seed: Trial,
    cells: Sequence[Mapping[str, object]],
    why: str,
    command: str,
    folder: Path,
    engine: Engine,
    data: Sequence[ImageData],
    options: Common,
) -> int:
    """Train the cells from scratch, as any study, from a sweep file that can be run again by itself."""
    path = folder / f"{name}.yaml"
    write_yaml(path, sweep(name, seed, cells, why, command, options.seeds or SEEDS))
    study = load_study(path)
    jobs = ablate.plan([study], Path(options.out), options, {})
    code = ablate.run([study], Path(options.out), engine, jobs, options.margin)
    if options.report and code != ablate.INTERRUPTED:
        from report import write

        for page in write(Path(options.out), [name]):
            print(f"  {page}")
    return code


def sweep(
    name: str, seed: Trial, cells: Sequence[Mapping[str, object]], why: str, command: str, seeds: int
) -> dict[str, object]:
    """A sweep file, as those of experiments/sweeps."""
    own, seed_name = (*Toggles.__dataclass_fields__, "model", "target_madds", "seed", "tested"), Path(seed.model).stem
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
        "description": f"Is a network that a search found from {seed_name} better than {seed_name} scaled by width to "
        f"the same cost? Beside both, {seed_name} itself. The search: {why}; the paper gives no such comparison.\n"
        f"Command: {command}",
        "metric": {"name": f"val/{seed.task.headline.name}", "goal": "maximize"},
        "parameters": parameters,
        "command": ["${env}", "${interpreter}", "${program}", f"--study={name}", "${args}"],
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(ablate.INTERRUPTED)
