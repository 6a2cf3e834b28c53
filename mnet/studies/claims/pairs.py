"""The runs that test a claim: pairs of its two networks, trained alike in everything else and paired by seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mnet.errors import ConfigError, text
from mnet.models.tables import list_models
from mnet.studies.claims.claims import Claim, NetworkSetup, task_of_setup
from mnet.studies.options import trial_from
from mnet.studies.trial import Trial
from mnet.tasks import TASKS

PAPER = text(None)
"""How a table writes a setting that is as in the paper."""
CONTEXT = (
    "dataset", "data_dir", "pretrained", "recipe", "epochs", "epoch_steps", "batch_size", "lr", "weight_decay",
    "decay_depthwise", "resolution",
)  # fmt: skip
"""Settings that both runs of a pair share: data and training."""
SCALE = ("width", "stem_stride", "total_stride", "width_rule", "lowest_boxes")
"""Toggles that both may share as well: they set the size of the network, not the question."""

Commands = Mapping[str, Mapping[str, str]]
"""Run id with seed 0 -> each command that trains it -> its study; the cheapest first."""


class RunIndex:
    """Results of runs, found by trial."""

    def __init__(self, runs: pd.DataFrame) -> None:
        runs = runs.drop_duplicates("run_id")  # a run repeated on another machine differs by rounding
        headlines = [task.headline.name for task in TASKS.values() if task.headline.name in runs]
        values = runs[headlines].astype(float).bfill(axis=1).iloc[:, 0]  # each run has the metric of its own task
        self._values = dict(zip(runs["run_id"], values, strict=True))
        dead = runs.dropna(subset=["dead_kernels"]) if "dead_kernels" in runs else runs.iloc[:0]
        self._dead = dict(zip(dead["run_id"], dead.get("dead_kernels", ()), strict=True))
        self._seeds = sorted(map(int, runs["seed"].unique()))
        floats = runs[(runs["precision"] == "fp32") & (runs["target_madds"] == PAPER)]
        self.contexts: dict[str, list[dict[str, object]]] = {}
        """Task -> every context in which one of its networks was trained."""
        for task in TASKS.values():
            rows = floats[floats["head"].isin([text(head) for head in task.heads])]
            settings = _distinct(rows[[name for name in (*CONTEXT, *SCALE) if name in rows and name != "width"]])
            widths = [PAPER, *(width for width in rows["width"].unique() if width not in (PAPER, "1.0"))]
            self.contexts[task.name] = [{**row, "width": width} for row in settings for width in widths]

    def by_seed(self, trial: Trial) -> dict[int, float]:
        """Seed -> headline metric of the task, of the finished runs of a trial."""
        return self._of_seeds(self._values, trial)

    def dead_by_seed(self, trial: Trial) -> dict[int, float]:
        """Seed -> percent of depthwise kernels that died."""
        return self._of_seeds(self._dead, trial)

    def _of_seeds(self, values: Mapping[str, float], trial: Trial) -> dict[int, float]:
        by_seed = {seed: values.get(trial.run_id_of(seed)) for seed in self._seeds}
        return {seed: value for seed, value in by_seed.items() if value is not None}

    def deltas(self, baseline: Trial, variant: Trial) -> dict[int, float]:
        """Seed -> variant - baseline in points, for the seeds of both."""
        before, after = self.by_seed(baseline), self.by_seed(variant)
        return {seed: after[seed] - before[seed] for seed in before if seed in after}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Differences of the headline metric by seed that test a claim."""

    deltas: np.ndarray
    context: Mapping[str, object]
    models: tuple[str, str]
    """The model of the claim, and the one that was trained."""
    trials: tuple[Trial, Trial]

    @property
    def rank(self) -> tuple[object, ...]:
        """Sort key, the best first: the claim's own model at full width, the longest training, the most seeds."""
        claimed, trained = self.models
        return claimed != trained, self.context["width"] != PAPER, -_number(self.context["epochs"]), -len(self.deltas)

    @property
    def on(self) -> str:
        return describe_context(self.context, self.models)

    def commands(self, commands: Commands, study: str) -> list[str]:
        """What trains both networks: one command, of `study` if possible, or two."""
        baseline, variant = (commands.get(trial.run_id, {}) for trial in self.trials)
        shared = sorted(
            (command for command in baseline if command in variant), key=lambda name: baseline[name] != study
        )
        return shared[:1] or [next(iter(each)) for each in (baseline, variant) if each]


def find_evidence(claim: Claim, runs: RunIndex) -> list[Evidence]:
    """The evidence for a claim in every context in which both of its networks have runs, the best first."""
    distinct = {evidence.trials[0].run_id + evidence.trials[1].run_id: evidence for evidence in _evidence(claim, runs)}
    return sorted(distinct.values(), key=lambda evidence: evidence.rank)


def _evidence(claim: Claim, runs: RunIndex) -> Iterator[Evidence]:
    if claim.pair is None:
        return
    before, after = claim.pair
    claimed, contexts = str(before["model"]), runs.contexts[task_of_setup(before).name]
    for context, model in itertools.product(contexts, _stand_ins(claimed, str(after["model"]))):
        try:
            baseline = in_context(before, context, model)
            if not runs.by_seed(baseline):
                continue
            trials = baseline, in_context(after, context, model)
            deltas = runs.deltas(*trials)
            if deltas and claim.beyond is not None:
                less = runs.deltas(*(in_context({**setup, **claim.beyond}, context, model) for setup in claim.pair))
                deltas = {seed: delta - less[seed] for seed, delta in deltas.items() if seed in less}
        except ConfigError:  # the model that stands in lacks a toggle
            continue
        if deltas:
            values = np.array(list(deltas.values()))
            yield Evidence(deltas=values, context=context, models=(claimed, model or claimed), trials=trials)


def _stand_ins(baseline: str, variant: str) -> list[str | None]:
    """Models a claim may be tested on: its own (None), and for a claim within one model the other of the same paper."""
    if baseline != variant:
        return [None]
    paper = baseline.split("_")[1]
    return [None, *(name for name in list_models() if name != baseline and name.split("_")[1] == paper)]


def in_context(setup: NetworkSetup, context: Mapping[str, object], model: str | None) -> Trial:
    """The trial of a claim's network in a context, its width and resolution scaled like those of the context.

    Args:
        setup: The network of the claim.
        context: A row of `RunIndex.contexts`.
        model: A model that stands in; None = the claim's own.

    Raises:
        ConfigError: The network cannot be built in the context.
    """
    width = _number(setup.get("width", 1)) * (1 if context["width"] == PAPER else _number(context["width"]))
    published = task_of_setup(setup).resolution
    pixels = _number(context["resolution"]) * _number(setup.get("resolution", published)) / published
    scaled = {"width": PAPER if width == 1 else round(width, 6), "resolution": round(pixels), "seed": 0}
    return trial_from({**context, **setup, "model": model or setup["model"], **scaled})


def describe_context(context: Mapping[str, object], models: tuple[str, str]) -> str:
    """Where a claim was tested, in words."""
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
    """The different rows of a data frame, without empty values."""
    records = rows.drop_duplicates().to_dict("records")
    return [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in records]


def _number(value: object) -> float:
    return float(str(value))
