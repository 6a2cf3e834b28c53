"""What both searches share: their options, the width that costs as much as the network found, and the final study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pandas as pd
import torch

import mnet
from common.driver import RunOptions, plan_jobs, run_studies
from mnet.errors import ConfigError, text, unknown
from mnet.files import write_csv, write_yaml
from mnet.latency.comparison import compare
from mnet.latency.machine import machine_facts
from mnet.latency.runtimes import RUNTIMES
from mnet.models.spec import Network
from mnet.models.toggles import Toggles
from mnet.models.toggles import width as with_width
from mnet.studies.engines import Engine
from mnet.studies.engines.remote import is_url
from mnet.studies.options import PARAMETERS, VARIANT, trial_from
from mnet.studies.runs.store import CHECK, FOUND_NETWORK, check_name
from mnet.studies.study import load_study
from mnet.studies.trial import Trial

MADDS = "madds"
WIDTHS = tuple(step / 40 for step in range(8, 41))
"""The widths that are timed with the network found."""
SEEDS = 5
"""Seeds of the final study."""
BUDGET_S = 20.0
"""Seconds of one comparison."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(RunOptions):
    """Options of both searches, other than the settings of the start network."""

    name: str | None = None
    """Name of the search and of its folder; default: the method and the model."""
    runtime: str = "executorch"
    """Runtime that latency is measured on, one of mnet.latency.RUNTIMES; or madds, to count multiply-adds instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None:
            check_name("search", self.name)
        if self.runtime != MADDS and self.runtime not in RUNTIMES:
            raise unknown("runtime", self.runtime, [MADDS, *RUNTIMES])
        if is_url(self.out):
            raise ConfigError(
                f"out must be a folder for a search, not {self.out}: all processes read its networks from files"
            )


def start_trial(settings: Mapping[str, object]) -> Trial:
    """The trial of the start network.

    Raises:
        ConfigError: The settings cannot be built or searched.
    """
    start = trial_from(settings)
    if start.head is not None or start.precision != "fp32":
        raise ConfigError("a search changes classifiers in fp32; leave head and precision out")
    return start


def network_of(trial: Trial) -> Network:
    """The network as it is trained: with the classes and colours of its data set."""
    data = trial.input_spec()
    return trial.network(data.num_classes, data.in_channels)


def compared_cells(start: Trial, folder: Path, scaled: Mapping[str, object]) -> list[dict[str, object]]:
    """The cells of the final study: the start network scaled to the cost of the one found, the one found, the start.

    Args:
        start: The trial that the search began with.
        folder: The folder of the search, with the network found.
        scaled: The setting that scales, `width` or `target_madds`.
    """
    toggles = {name: value for name, value in start.toggles().items() if value is not None and name != "width"}
    paper: dict[str, object] = {"model": start.model, **toggles}
    scale = {name: value for name in ("width", "target_madds") if (value := getattr(start, name)) is not None}
    cells: list[dict[str, object]] = [{**paper, **scaled}, {"model": str(folder / FOUND_NETWORK)}, {**paper, **scale}]
    return [cell for i, cell in enumerate(cells) if cell not in cells[:i]]


def matched_width(start: Trial, network: Network, others: Mapping[str, Network], runtime: str, folder: Path) -> float:
    """The width at which the start network takes as long as `network`, or the least longer; the widest if none does.

    The widths, `network` and `others` are timed on this machine in the same rounds; the measurements go to `CHECK`.
    """
    whole = network_of(replace(start, width=None, target_madds=None))
    widths: dict[float, Network] = {}
    for width in WIDTHS:
        scaled = with_width(whole, width)
        if scaled.blocks not in [one.blocks for one in widths.values()]:
            widths[width] = scaled
    networks = {"found": network, **others, **{_width_name(width): scaled for width, scaled in widths.items()}}
    measured = measure_ratios(networks, "found", runtime, start.input_spec().resolution, 2 * BUDGET_S)
    write_csv(folder / CHECK, measured.assign(runtime=runtime, **cast(dict[str, str], machine_facts())))
    by_name = measured.set_index("variant")
    ratios = {width: float(by_name["ratio"][_width_name(width)]) for width in widths}
    width = min((width for width in widths if ratios[width] >= 1), key=lambda width: ratios[width], default=WIDTHS[-1])
    row = by_name.loc[_width_name(width)]
    print(f"{_width_name(width)} takes {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}] "
          "of the found network's latency")  # fmt: skip
    return width


def _width_name(width: float) -> str:
    return f"width {width:g}"


def measure_ratios(
    networks: Mapping[str, Network], baseline: str, runtime: str, resolution: int, budget_s: float
) -> pd.DataFrame:
    """The table of `mnet.latency.compare` for untrained networks; exported programs are not kept."""
    torch.set_num_threads(1)
    built = {name: mnet.create_model(network).eval() for name, network in networks.items()}
    with TemporaryDirectory() as folder:
        return compare(built, baseline, runtime=runtime, resolution=resolution, budget_s=budget_s, folder=Path(folder))


def train_compared(
    name: str,
    start: Trial,
    cells: Sequence[Mapping[str, object]],
    method: str,
    command: str,
    folder: Path,
    engine: Engine,
    options: SearchOptions,
) -> int:
    """Train the cells from scratch as a study, from a sweep file that can also be run by itself.

    Args:
        name: Name of the search.
        start: The trial that the search began with.
        cells: The cells, from `compared_cells`.
        method: How the search works, for the study's description.
        command: The make target that repeats the search.
        folder: The folder of the search, for the sweep file.
        engine: Runs the trials.
        options: Options of the search.

    Returns:
        The exit code of `run_studies`.
    """
    path = folder / f"{name}.yaml"
    write_yaml(path, _sweep(name, start, cells, method, command, options.seeds or SEEDS))
    study, root = load_study(path), Path(options.out)
    return run_studies([study], root, engine, plan_jobs([study], root, options, {}), options)


def _sweep(
    name: str, start: Trial, cells: Sequence[Mapping[str, object]], method: str, command: str, seeds: int
) -> dict[str, object]:
    """A sweep file like those of experiments/sweeps."""
    varied, model = (*Toggles.__dataclass_fields__, "model", "target_madds", "seed", "tested"), Path(start.model).stem
    fixed = {
        field: value
        for field in PARAMETERS
        if field not in varied and (value := start.settings()[field]) != getattr(Trial, field)
    }
    variants = [" ".join(f"{field}={text(value)}" for field, value in cell.items()) for cell in cells]
    parameters: dict[str, object] = {field: {"value": value} for field, value in fixed.items()}
    parameters |= {VARIANT: {"values": variants}, "seed": {"values": list(range(seeds))}}
    return {
        "program": "experiments/train.py",
        "method": "grid",
        "name": name,
        "description": f"Is a network found by a search from {model} better than {model} scaled by width to the same "
        f"cost? The third network is {model} itself. The search: {method}; the paper gives no such comparison.\n"
        f"Command: {command}",
        "metric": {"name": f"val/{start.task.headline.name}", "goal": "maximize"},
        "parameters": parameters,
        "command": ["${env}", "${interpreter}", "${program}", f"--study={name}", "${args}"],
    }
