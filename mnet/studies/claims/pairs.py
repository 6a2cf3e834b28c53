"""The runs that test a claim: those of its two networks, on every machine, with all other settings equal."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mnet.errors import ConfigError, text
from mnet.models.tables import list_models
from mnet.studies.claims.claims import Claim, NetworkSetup, task_of_setup
from mnet.studies.claims.verdicts import margin_of
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.results.decide import judge
from mnet.studies.trial import Trial
from mnet.tasks import TASKS

PAPER = text(None)
"""The text in tables for a setting that is as in the paper."""
CONTEXT = (
    "dataset", "images", "pretrained", "recipe", "epochs", "epoch_steps", "batch_size", "lr", "weight_decay",
    "decay_depthwise", "augment", "resolution",
)  # fmt: skip
"""Settings that both runs of a pair share: data and training."""
SCALE = ("width", "stem_stride", "total_stride", "width_rule", "lowest_boxes")
"""Toggles that both may share as well: they change the size of the networks, not the question."""

Commands = Mapping[str, Mapping[str, str]]
"""Run id of seed 0 -> each command that trains it -> its study; the cheapest first."""


class Block(NamedTuple):
    """What compared runs share: the machine, by its column in `runs.csv`, and the seed."""

    device: str
    seed: int


NONE = pd.Series(dtype=float)


class RunIndex:
    """Results of runs, found by trial."""

    def __init__(self, runs: pd.DataFrame) -> None:
        devices = runs["device"].fillna("") if "device" in runs else ""
        runs = runs.assign(device=devices).drop_duplicates(["run_id", "device"])
        headlines = [task.headline.name for task in TASKS.values() if task.headline.name in runs]
        runs = runs.assign(headline=runs[headlines].astype(float).bfill(axis=1).iloc[:, 0])  # each run has only one
        setting = [name for name in PARAMETERS if name in runs and name != "seed"]
        runs = runs.assign(settings=runs.groupby(setting, sort=False, dropna=False).ngroup())  # a number for each cell
        self._studies = {str(name): rows for name, rows in runs.groupby("study")}
        self._trials: dict[tuple[object, ...], tuple[Trial, pd.Series]] = {}
        self._values = _by_device(runs, "headline")
        self._dead = _by_device(runs.dropna(subset=["dead_kernels"]), "dead_kernels") if "dead_kernels" in runs else {}
        self.own_images = _own_images(runs)
        """Fingerprints of a user's own images in the format of a published data set."""
        self._seeds = sorted(map(int, runs["seed"].unique()))
        trained = zip(runs["model"], runs["width"], runs["dataset"], runs["epochs"], strict=True)
        self._trained = {(model, _width(width), dataset, _number(epochs)) for model, width, dataset, epochs in trained}
        """Model, width, data set and epochs of all runs."""
        floats = runs[(runs["precision"] == "fp32") & (runs["target_madds"] == PAPER)]
        self.contexts: dict[str, list[dict[str, object]]] = {}
        """Task -> every context in which one of its networks was trained."""
        for task in TASKS.values():
            rows = floats[floats["head"].isin([text(head) for head in task.heads])]
            settings = _distinct(rows[[name for name in (*CONTEXT, *SCALE) if name in rows and name != "width"]])
            widths = [PAPER, *(width for width in rows["width"].unique() if width not in (PAPER, "1.0"))]
            self.contexts[task.name] = [{**row, "width": width} for row in settings for width in widths]

    @classmethod
    def of_plan(cls, planned: pd.DataFrame) -> RunIndex:
        """Index planned cells as if each had one run, to find where a claim could be tested.

        Args:
            planned: As for `claims_table`.
        """
        return cls(planned.assign(seed=0, **{task.headline.name: 0.0 for task in TASKS.values()}))

    def has_any(self, setup: NetworkSetup, context: Mapping[str, object], model: str | None) -> bool:
        """Whether any run has the model, width, data set and epochs of a claim's network. Most have none in most
        contexts, and this lookup is faster than building a trial."""
        trained = model or setup["model"], scaled_width(setup, context), context["dataset"], _number(context["epochs"])
        return trained in self._trained

    def values(self, setup: NetworkSetup, context: Mapping[str, object], model: str | None) -> tuple[Trial, pd.Series]:
        """The trial of `in_context`, and the headline metric of its finished runs by `Block`. Cached, because claims
        share networks."""
        key = (*map(repr, sorted(setup.items())), *map(repr, context.items()), model)
        if key not in self._trials:
            trial = in_context(setup, context, model)
            self._trials[key] = trial, self._of_seeds(self._values, trial)
        return self._trials[key]

    def dead(self, trial: Trial) -> pd.Series:
        """Percent of depthwise kernels that died, by `Block`."""
        return self._of_seeds(self._dead, trial)

    def _of_seeds(self, values: Mapping[str, Mapping[str, float]], trial: Trial) -> pd.Series:
        by_block = {
            Block(device, seed): value
            for seed in self._seeds
            for device, value in values.get(trial.run_id_of(seed), {}).items()
        }
        if not by_block:
            return NONE
        return pd.Series(by_block, dtype=float, index=pd.MultiIndex.from_tuples(by_block, names=Block._fields))

    def companions(self, study: str, context: Mapping[str, object], trials: Sequence[Trial]) -> list[pd.Series]:
        """Headline metric by `Block` of each other cell of a study in the same context: they show how much runs of one
        cell vary."""
        if study not in self._studies:
            return []
        rows = self._studies[study]
        compared = {trial.run_id_of(seed) for trial in trials for seed in self._seeds}
        wanted = (rows["precision"] == "fp32") & ~rows["run_id"].isin(compared)
        for name in (*CONTEXT, *SCALE[1:]):
            if name in rows and name in context:
                wanted &= rows[name] == context[name]
        rows = rows.loc[wanted, ["device", "seed", "headline", "settings"]]
        cells = (cell for _, cell in rows.groupby("settings", sort=False))
        return [cell.set_index(list(Block._fields))["headline"] for cell in cells]


def _own_images(runs: pd.DataFrame) -> set[str]:
    if "test_images" not in runs:
        return set()
    from mnet.data import DATASETS  # heavy, and rarely needed

    published = {(name, test) for name, data in DATASETS.items() for _, test in data.published_sizes.values()}
    tested = runs.dropna(subset=["test_images"])
    rows = zip(tested["dataset"], tested["test_images"].astype(int), tested["images"].astype(str), strict=True)
    return {images for dataset, test, images in rows if (dataset, test) not in published}


def _by_device(runs: pd.DataFrame, column: str) -> dict[str, dict[str, float]]:
    """Run id -> device -> value."""
    values: dict[str, dict[str, float]] = {}
    for run_id, device, value in runs[["run_id", "device", column]].itertuples(index=False):
        values.setdefault(str(run_id), {})[str(device)] = float(value)
    return values


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Runs that test a claim."""

    values: pd.DataFrame
    """The headline metric: one row per `Block` that has all runs of the claim, one column per cell."""
    contrast: np.ndarray
    """(cells,): weights of the cells in the claim. Cells with weight zero only show how much runs vary."""
    groups: Sequence[int]
    """As for `judge`."""
    context: Mapping[str, object]
    models: tuple[str, str]
    """The model of the claim, and the one that was trained."""
    trials: tuple[Trial, Trial]

    @property
    def n(self) -> int:
        """Number of seeds that all networks of the claim have, summed over machines."""
        return len(self.values)

    def is_within(self, run_ids: Collection[str]) -> bool:
        """Whether the run ids of both networks with seed 0 are among these."""
        return all(trial.run_id in run_ids for trial in self.trials)

    def judge(self, claim: Claim, looks: Sequence[int] | None) -> pd.Series:
        """The row of `decide.judge`, by the claim's margin."""
        rows = judge(
            self.values,
            self.contrast[None],
            margin=margin_of(claim),
            looks=looks,
            groups=self.groups,
            equality=claim.direction == "flat",
        )
        return rows.iloc[0]

    @property
    def rank(self) -> tuple[object, ...]:
        """Sort key, the best first: the claim's own model at full width, the longest training, the most seeds."""
        claimed, trained = self.models
        return claimed != trained, self.context["width"] != PAPER, -_number(self.context["epochs"]), -self.n

    @property
    def on(self) -> str:
        return describe_context(self.context, self.models)

    def commands(self, commands: Commands, study: str) -> list[str]:
        """The commands that train both networks: a single one, of `study` if possible, or two."""
        baseline, variant = (commands.get(trial.run_id, {}) for trial in self.trials)
        shared = sorted(
            (command for command in baseline if command in variant), key=lambda name: baseline[name] != study
        )
        return shared[:1] or [next(iter(each)) for each in (baseline, variant) if each]


class Setting(NamedTuple):
    """A setting in which a claim is tested."""

    context: Mapping[str, object]
    """A row of `RunIndex.contexts`."""
    model: str | None
    """A model that replaces the claim's; None = the claim's own."""


def find_evidence(claim: Claim, runs: RunIndex, chosen: Collection[str] = ()) -> list[Evidence]:
    """The evidence for a claim in every setting in which both of its networks have runs, the best first.

    Args:
        claim: A claim about two networks.
        runs: The results.
        chosen: Run ids with seed 0 of the networks in the settings chosen in advance; that evidence comes first.
    """
    found = [evidence_in(claim, runs, setting) for setting in settings_of(claim, runs)]
    distinct = {one.trials[0].run_id + one.trials[1].run_id: one for one in found if one is not None}
    return sorted(distinct.values(), key=lambda one: (not one.is_within(chosen), one.rank))


def settings_of(claim: Claim, runs: RunIndex) -> Iterator[Setting]:
    """Every setting in which a claim may be tested."""
    if claim.pair is not None:
        before, after = claim.pair
        contexts = runs.contexts[task_of_setup(before).name]
        for context, model in itertools.product(contexts, _stand_ins(str(before["model"]), str(after["model"]))):
            yield Setting(context, model)


def evidence_in(claim: Claim, runs: RunIndex, setting: Setting) -> Evidence | None:
    """The evidence for a claim in one setting; None if a network has no run, or the model lacks a toggle."""
    if claim.pair is None:
        return None
    setups = [*claim.pair]
    if claim.beyond is not None:
        setups += [{**setup, **claim.beyond} for setup in claim.pair]
    if not all(runs.has_any(setup, *setting) for setup in setups):
        return None
    trials, cells = [], []
    try:
        for setup in setups:
            trial, found = runs.values(setup, *setting)
            trials.append(trial)
            cells.append(found)
            if cells[-1].empty:
                return None
    except ConfigError:  # the replacement model lacks a toggle
        return None
    values = pd.concat(cells, axis=1, join="inner", ignore_index=True)
    if values.empty:
        return None
    contrast = [-1, 1] if claim.beyond is None else [-1, 1, 1, -1]
    groups = [0, 0] if claim.beyond is None else [0, 1, 0, 1]  # an int8 run starts from the fp32 run of its network
    if not any(trial.quantized for trial in trials):
        others = runs.companions(claim.study, setting.context, trials)
        for number, other in enumerate(others, values.shape[1]):
            values[number] = other.reindex(values.index)
    unused = [0] * (values.shape[1] - len(contrast))
    claimed = str(claim.pair[0]["model"])
    return Evidence(
        values=values.sort_index(level=["seed", "device"]),  # so that a look takes the first rows, on all machines
        contrast=np.array([*contrast, *unused], float),
        groups=[*groups, *unused],
        context=setting.context,
        models=(claimed, setting.model or claimed),
        trials=(trials[0], trials[1]),
    )


def _stand_ins(baseline: str, variant: str) -> list[str | None]:
    """Models a claim may be tested on: its own (None) and, for a claim about one model, others of the same paper."""
    if baseline != variant:
        return [None]
    paper = baseline.split("_")[1]
    return [None, *(name for name in list_models() if name != baseline and name.split("_")[1] == paper)]


def in_context(setup: NetworkSetup, context: Mapping[str, object], model: str | None) -> Trial:
    """The trial of a claim's network in a context, its width and resolution scaled like those of the context.

    Args:
        setup: The network of the claim.
        context: A row of `RunIndex.contexts`.
        model: A model that replaces the claim's; None = the claim's own.

    Raises:
        ConfigError: The network cannot be built in the context.
    """
    published = task_of_setup(setup).resolution
    pixels = _number(context["resolution"]) * _number(setup.get("resolution", published)) / published
    width = scaled_width(setup, context)
    scaled = {"width": PAPER if width == 1 else width, "resolution": round(pixels), "seed": 0}
    return trial_from({**context, **setup, "model": model or setup["model"], **scaled})


def scaled_width(setup: NetworkSetup, context: Mapping[str, object]) -> float:
    """The width of a claim's network in a context: its own times that of the context."""
    return round(_width(setup.get("width", 1)) * _width(context["width"]), 6)


def describe_context(context: Mapping[str, object], models: tuple[str, str]) -> str:
    """The context in which a claim was tested, in words."""
    claimed, trained = models
    parts = [f"{context['dataset']} at {context['resolution']} px", f"{context['epochs']} epochs"]
    if (start := context.get("pretrained", PAPER)) != PAPER:
        parts.append(f"from {start}")
    training = ("epoch_steps", "weight_decay", "decay_depthwise")
    parts += [f"{name}={context[name]}" for name in training if context.get(name, PAPER) != PAPER]
    if trained != claimed:
        parts.append(f"{trained} for {claimed}")
    if context["width"] != PAPER:
        parts.append(f"{context['width']} of the width")
    return ", ".join([*parts, *(f"{name}={context[name]}" for name in SCALE[1:] if context[name] != PAPER)])


def _distinct(rows: pd.DataFrame) -> list[dict[str, object]]:
    """The distinct rows of a data frame, without empty values."""
    records = rows.drop_duplicates().to_dict("records")
    return [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in records]


def _width(value: object) -> float:
    """A width as a number; 1 for `paper`."""
    return 1.0 if value == PAPER else _number(value)


def _number(value: object) -> float:
    return float(str(value))
