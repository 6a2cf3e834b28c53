"""Claims against what was measured: counted here, trained and timed by the studies. See `verdicts.RULE`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mnet.errors import ConfigError, text
from mnet.models.cost import Cost, cost
from mnet.models.tables import list_models
from mnet.models.toggles import describe
from mnet.studies.claims.claims import Claim, NetworkSetup
from mnet.studies.claims.verdicts import (
    POINTS_MARGIN,
    RATIO_MARGIN,
    VERDICTS,
    ClaimVerdict,
    claim_verdict,
    ratio_verdict,
)
from mnet.studies.latency.tables import setup_name
from mnet.studies.options import trial_from
from mnet.studies.results.statistics import ROUNDING, at_most, seeds_needed, t_test
from mnet.studies.trial import Trial
from mnet.tasks import TASKS, Task, task_of

COLUMNS = (
    *("id", "paper", "statement", "paper_value", "ours", "low", "high", "n", "verdict", "why"),
    *("kind", "metric", "direction", "margin", "on", "study", "baseline", "variant", "source", "command"),
)
COPIED = ("id", "paper", "statement", "kind", "metric", "direction", "study", "source")
MEASURED = ("paper_value", "ours", "low", "high", "n", "margin")
CONTEXT = (
    "dataset", "data_dir", "pretrained", "recipe", "epochs", "epoch_steps", "batch_size", "lr", "weight_decay",
    "decay_depthwise", "resolution",
)  # fmt: skip
"""What a pair of runs must share: what they are tried on."""
SCALE = ("width", "stem_stride", "total_stride", "width_rule", "lowest_boxes")
"""And the toggles that may be set in both without asking another question: how large the network is."""
PAPERS_DATA = ("imagenet", "coco", "voc", "cityscapes")
RUNTIMES = ("litert", "executorch", "onnxruntime", "eager")
"""The papers' own first, under its present name."""

SEARCH, COMMAND = "search", "make search"
"""What a claim on NetAdapt calls its study, and what searches."""
DEAD = "dead_kernel_share"
"""The metric of a claim on depthwise kernels: the share that has died, in percent."""
MOST = 50.0

Row = dict[str, object]
Commands = dict[str, dict[str, str]]
"""Run id with seed 0 -> each command that trains it -> its study; the cheapest first."""


def claims_table(
    claims: Sequence[Claim],
    *,
    runs: pd.DataFrame,
    planned: pd.DataFrame,
    latencies: Mapping[str, pd.DataFrame],
    searches: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """What is known of every claim.

    Args:
        claims: Of `load_claims`.
        runs: Of `load`; a run that several studies share counts once.
        planned: What the studies would train, the cheapest first: a row a cell, with the settings and the `run_id`
            of its trial with seed 0, its `study`, and the `command`.
        latencies: Study -> its `latency-claims.csv`, with what else is known of a row in `device` and `fell_back`.
        searches: NetAdapt's comparison -> its `summary.csv`: the network scaled by width first, then the found one.

    Returns:
        `COLUMNS`, a row a claim and piece of evidence, the headline first: the claim's own network before one that
        stands in for it, then the longest training; of runtimes in the order of `RUNTIMES`. `ours`, `low` and `high`
        are in points of what the task compares, or ratios of milliseconds, or counts; `n` is of seeds or rounds.
    """
    studies = set(planned["study"])
    commands: Commands = {}
    for row in planned.itertuples():
        commands.setdefault(str(row.run_id), {}).setdefault(str(row.command), str(row.study))
    pool, plan = RunIndex(runs), RunIndex(planned.assign(seed=0, **{one.headline.name: 0.0 for one in TASKS.values()}))
    rows: list[Row] = []
    for claim in claims:
        if claim.study == SEARCH:
            found = list(searched(claim, searches or {})) or [untested(f"not searched; {COMMAND} does")]
        elif claim.study not in studies:
            found = [untested(f"there is no study {claim.study} yet")]
        elif claim.untestable:
            found = [untested(claim.untestable)]
        elif claim.kind == "arithmetic":
            found = [counted(claim)]
        elif claim.kind == "latency":
            found = list(timed(claim, latencies.get(claim.study)))
        elif claim.metric == DEAD:
            found = list(died(claim, pool, commands)) or [untested(f"not trained yet; make ablate-{claim.study} does")]
        else:
            found = list(trained(claim, pool, commands)) or [untrained(claim, plan, commands)]
        told = {name: getattr(claim, name) for name in COPIED}
        told |= {"margin": margin_of(claim), "paper_value": claim.printed}
        if claim.pair is not None:
            told |= dict(zip(("baseline", "variant"), map(setup_name, claim.pair), strict=True))
        rows += [{**told, **row} for row in found]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype(dict.fromkeys(MEASURED, float))


def headlines(table: pd.DataFrame) -> pd.DataFrame:
    """The first row of every claim."""
    return table.drop_duplicates("id")


def count_verdicts(table: pd.DataFrame) -> dict[str, int]:
    """How many claims have each verdict, by their headlines."""
    counts = headlines(table)["verdict"].value_counts()
    return {name: int(counts.get(name, 0)) for name in VERDICTS}


def margin_of(claim: Claim) -> float:
    if claim.margin is not None:
        return claim.margin
    return RATIO_MARGIN if claim.kind in ("latency", "arithmetic") else POINTS_MARGIN


def untested(why: str) -> Row:
    return {"verdict": "not tested here", "why": why}


# ---- counting -------------------------------------------------------------------------------------------------------


def counted(claim: Claim) -> Row:
    """An arithmetic claim, counted at the paper's resolution."""
    printed, ours = numbers(claim)
    task = task_of_setup(claim.pair[0] if claim.pair is not None else {})
    row: Row = {"on": f"{task.resolution} px, {task.num_classes} classes", "command": "make claims"}
    row["ours"] = ours[0] if claim.pair is None else ours[-1] if len(ours) == 1 else ours[-1] - ours[0]
    if not printed:
        found = claim_verdict(ours[1] - ours[0], ours[1] - ours[0], claim.direction, margin_of(claim))
        return {**row, "verdict": found, "why": f"counted {listed(ours)}, the paper prints no number"}
    both = list(zip(printed, ours, strict=True))
    exact = all(round(own, decimals(said)) == said for said, own in both)
    off = max(abs(own - said) / abs(said) for said, own in both)
    how = "exact to the printed digits" if exact else f"{'at most ' if len(both) > 1 else ''}{100 * off:.2g}% off"
    verdict: ClaimVerdict = "reproduced" if exact or off <= margin_of(claim) else "contradicted"
    return {**row, "verdict": verdict, "why": f"printed {listed(printed)}, counted {listed(ours)}: {how}"}


def numbers(claim: Claim) -> tuple[list[float], list[float]]:
    """The printed numbers of an arithmetic claim, and ours."""
    absolute, series = claim.more.get("paper_absolute"), claim.more.get("series")
    if isinstance(series, dict):
        setups: list[NetworkSetup] = [{"model": claim.model, series["toggle"]: value} for value in series["values"]]
        return list(series[claim.metric]), [count(setup, claim.metric) for setup in setups]
    if claim.metric == "share_percent":
        costs = counts({"model": claim.model})
        return list(absolute) if isinstance(absolute, list) else [], pointwise_shares(costs)
    if claim.pair is None:
        return [claim.paper_value or math.nan], [count({"model": claim.model}, claim.metric)]
    ours = [count(setup, claim.metric) for setup in claim.pair]
    if isinstance(absolute, list):
        return list(absolute), ours
    return ([claim.paper_value], [ours[1] - ours[0]]) if claim.paper_value is not None else ([], ours)


def counts(setup: NetworkSetup) -> Cost:
    toggles, task = {name: value for name, value in setup.items() if name != "model"}, task_of_setup(setup)
    return cost(describe(str(setup["model"]), num_classes=task.num_classes, **toggles), task.resolution)  # type: ignore[arg-type]


def task_of_setup(setup: NetworkSetup) -> Task:
    head = setup.get("head")
    return task_of(None if head is None else str(head))


def count(setup: NetworkSetup, metric: str) -> float:
    """
    Raises:
        ConfigError: A metric that is no count.
    """
    name, _, unit = metric.partition("_")
    if name not in ("madds", "params") or unit not in ("millions", "billions"):
        raise ConfigError(f"{metric} is no count of a network; madds_millions is one")
    return float(getattr(counts(setup), name)) / {"millions": 1e6, "billions": 1e9}[unit]


def pointwise_shares(found: Cost) -> list[float]:
    """Percent of multiply-adds and of parameters in 1x1 convolutions."""
    layers = found.layers
    own = (layers["kernel"] == 1) & (layers["kind"] != "classifier")
    return [100 * float(layers.loc[own, name].sum() / layers[name].sum()) for name in ("madds", "params")]


def decimals(printed: float) -> int:
    return len(repr(printed).partition(".")[2]) if isinstance(printed, float) else 0


def listed(values: Sequence[float]) -> str:
    return (
        " and ".join(f"{value:.5g}" for value in values) if len(values) < 3 else ", ".join(map("{:.5g}".format, values))
    )


# ---- latency --------------------------------------------------------------------------------------------------------


def timed(claim: Claim, table: pd.DataFrame | None) -> Iterator[Row]:
    """A latency claim on every runtime that it was timed on."""
    own = pd.DataFrame() if table is None else table[table["id"] == claim.id]
    if own.empty:
        yield untested(f"not timed; make latency-{claim.study} times it") | {"command": f"make latency-{claim.study}"}
        return
    order = {name: place for place, name in enumerate(RUNTIMES)}
    for _, row in own.sort_values("runtime", key=lambda names: names.map(order), kind="stable").iterrows():
        threads = int(row["threads"])
        told: Row = {"command": f"make latency-{claim.study} RUNTIME={row['runtime']} THREADS={threads}"}
        precision = "" if pd.isna(row["precision"]) else f" {row['precision']}"
        told["on"] = f"{row['runtime']}{precision}, {threads} thread{'s' if threads > 1 else ''}, {row['device']}"
        if pd.isna(row["ours"]):
            yield {**told, "verdict": "not tested here", "why": row["why"]}
            continue
        verdict = ratio_verdict(row["low"], row["high"], claim.direction, margin_of(claim))
        measured = {name: row[name] for name in ("ours", "low", "high", "n")}
        told["why"] = f"{reason(verdict, claim, 'ratio')}; in direction, on a server's processor instead of a phone's"
        if row["fell_back"]:
            told["why"] = f"{told['why']}; outside the runtime's fast kernels: {row['fell_back']}"
        yield {**told, **measured, "verdict": verdict}


# ---- accuracy -------------------------------------------------------------------------------------------------------


class RunIndex:
    """Runs, by what they computed."""

    def __init__(self, runs: pd.DataFrame) -> None:
        runs = runs.drop_duplicates("run_id")  # one trained again elsewhere rounds otherwise, and is not paired there
        compared = [one.headline.name for one in TASKS.values() if one.headline.name in runs]
        values = runs[compared].astype(float).bfill(axis=1).iloc[:, 0]  # a run has that of its task alone
        self.values = dict(zip(runs["run_id"], values, strict=True))
        dead = runs.dropna(subset=["dead_kernels"]) if "dead_kernels" in runs else runs.iloc[:0]
        self.dead = dict(zip(dead["run_id"], dead.get("dead_kernels", ()), strict=True))
        self.seeds = sorted(map(int, runs["seed"].unique()))
        floats = runs[(runs["precision"] == "fp32") & (runs["target_madds"] == text(None))]
        self.contexts: dict[str, list[dict[str, object]]] = {}
        for task in TASKS.values():
            own = floats[floats["head"].isin([text(head) for head in task.heads])]
            rows = records(own[[name for name in (*CONTEXT, *SCALE) if name in own and name != "width"]])
            widths = [text(None), *(name for name in own["width"].unique() if name not in (text(None), "1.0"))]
            self.contexts[task.name] = [{**row, "width": width} for row in rows for width in widths]

    def by_seed(self, trial: Trial) -> dict[int, float]:
        """Seed -> what its task compares, of the finished runs of a trial."""
        return self.of_seeds(self.values, trial)

    def dead_by_seed(self, trial: Trial) -> dict[int, float]:
        """Seed -> the share of depthwise kernels that died, in percent."""
        return self.of_seeds(self.dead, trial)

    def of_seeds(self, values: Mapping[str, float], trial: Trial) -> dict[int, float]:
        found = {seed: values.get(trial.run_id_of(seed)) for seed in self.seeds}
        return {seed: value for seed, value in found.items() if value is not None}

    def deltas(self, baseline: Trial, variant: Trial) -> dict[int, float]:
        """Seed -> variant - baseline in points, of the seeds that both have."""
        before, after = self.by_seed(baseline), self.by_seed(variant)
        return {seed: after[seed] - before[seed] for seed in before if seed in after}


def in_context(setup: NetworkSetup, context: NetworkSetup, model: str | None) -> Trial:
    """The trial of a claim's network where other networks were tried: as much narrower, and on as much smaller
    images.

    Raises:
        ConfigError: It cannot be built there.
    """
    width = number(setup.get("width", 1)) * (1 if context["width"] == text(None) else number(context["width"]))
    papers = task_of_setup(setup).resolution
    pixels = number(context["resolution"]) * number(setup.get("resolution", papers)) / papers
    scaled = {"width": text(None) if width == 1 else round(width, 6), "resolution": round(pixels), "seed": 0}
    return trial_from({**context, **setup, "model": model or setup["model"], **scaled})


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """The different rows of a table, without what is empty."""
    rows = table.drop_duplicates().to_dict("records")
    return [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in rows]


def number(value: object) -> float:
    return float(str(value))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Differences by seed, of what the task compares, that test a claim."""

    deltas: np.ndarray
    context: Mapping[str, object]
    models: tuple[str, str]
    """That the claim is about, and that was trained."""
    trials: tuple[Trial, Trial]

    @property
    def rank(self) -> tuple[object, ...]:
        own, used = self.models
        return own != used, self.context["width"] != text(None), -number(self.context["epochs"]), -len(self.deltas)

    @property
    def on(self) -> str:
        return told_of(self.context, self.models)

    def commands(self, commands: Commands, study: str) -> list[str]:
        """What trains both networks: one command, of `study` if it can be, or two."""
        one, other = (commands.get(trial.run_id, {}) for trial in self.trials)
        both = sorted((command for command in one if command in other), key=lambda command: one[command] != study)
        return both[:1] or [next(iter(found)) for found in (one, other) if found]


def told_of(context: Mapping[str, object], models: tuple[str, str]) -> str:
    """Where a claim was tested, in words."""
    own, used = models
    told = [f"{context['dataset']} at {context['resolution']} px", f"{context['epochs']} epochs"]
    told += [f"from {start}"] if (start := context.get("pretrained", text(None))) != text(None) else []
    own_ways = ("epoch_steps", "weight_decay", "decay_depthwise")
    told += [f"{name}={context[name]}" for name in own_ways if context.get(name, text(None)) != text(None)]
    told += [f"{used} for {own}"] if own != used else []
    told += [f"{context['width']} of the width"] if context["width"] != text(None) else []
    told += [f"{name}={context[name]}" for name in SCALE[1:] if context[name] != text(None)]
    return ", ".join(told)


def trained(claim: Claim, pool: RunIndex, commands: Commands) -> Iterator[Row]:
    """A claim of accuracy, mAP or mIoU in every context where both networks were trained, paired by seed."""
    for one in search(claim, pool):
        low, high, _ = t_test(one.deltas, rounding=100 * ROUNDING)
        verdict = claim_verdict(low, high, claim.direction, margin_of(claim))
        why = reason(verdict, claim, "points", one.deltas)
        scale = "" if one.context["dataset"] in PAPERS_DATA else "in direction, at small scale: "
        yield {
            **{"ours": float(one.deltas.mean()), "low": low, "high": high, "n": len(one.deltas)},
            **{"verdict": verdict, "why": f"{why}; {scale}{one.on}", "on": one.on},
            **dict(zip(("baseline", "variant"), map(short, one.trials), strict=True)),
            "command": " && ".join(one.commands(commands, claim.study)),
        }


def died(claim: Claim, pool: RunIndex, commands: Commands) -> Iterator[Row]:
    """A claim that most depthwise kernels of a model die, wherever it was trained as published; by the recipe's own
    weight decay first."""
    own_decay = ("weight_decay", "decay_depthwise")
    contexts = pool.contexts[task_of(None).name]
    ordered = sorted(
        contexts,
        key=lambda one: (any(one.get(name, text(None)) != text(None) for name in own_decay), -number(one["epochs"])),
    )
    seen = set()
    for context in ordered:
        trial = in_context({"model": claim.model}, context, None)
        shares = np.array(list(pool.dead_by_seed(trial).values()))
        if not len(shares) or trial.run_id in seen:
            continue
        seen.add(trial.run_id)
        low, high, _ = t_test(shares, rounding=100 * ROUNDING)
        verdict = claim_verdict(low - MOST, high - MOST, claim.direction, 0)
        on = told_of(context, (str(claim.model), str(claim.model)))
        yield {
            **{"ours": float(shares.mean()), "low": low, "high": high, "n": len(shares), "verdict": verdict, "on": on},
            "why": f"most is over {MOST:g}% of the kernels, dead a norm below a hundredth of a new one's; {on}",
            "variant": short(trial),
            "command": next(iter(commands.get(trial.run_id, {})), f"make ablate-{claim.study}"),
        }


def searched(claim: Claim, searches: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    """A claim that a search beats scaling by width, in every search whose networks were trained."""
    for name, summary in searches.items():
        scaled, found = summary.iloc[0], summary.iloc[1]
        if pd.isna(found["delta"]):
            continue
        verdict = claim_verdict(found["low"], found["high"], claim.direction, margin_of(claim))
        on = f"{name}, from scratch, at the same cost"
        yield {
            **{"ours": found["delta"], "low": found["low"], "high": found["high"], "n": found["pairs"]},
            **{"verdict": verdict, "on": on, "baseline": scaled["cell"], "variant": found["cell"], "command": COMMAND},
            "why": f"{reason(verdict, claim, 'points')}; in direction, at small scale: {on}",
        }


def untrained(claim: Claim, plan: RunIndex, commands: Commands) -> Row:
    """What would have to be trained."""
    found = search(claim, plan)
    if not found:
        return untested("no study has both networks in the same setting")
    own = [one for one in found if one.rank[:2] == found[0].rank[:2]]
    command = " && ".join(own[-1].commands(commands, claim.study))  # the shortest training
    return untested(f"not trained yet; {command} does") | {"command": command}


def search(claim: Claim, pool: RunIndex) -> list[Evidence]:
    """Every context in which both networks of a claim have runs, the best first."""
    found = {one.trials[0].run_id + one.trials[1].run_id: one for one in pairs(claim, pool)}
    return sorted(found.values(), key=lambda one: one.rank)


def pairs(claim: Claim, pool: RunIndex) -> Iterator[Evidence]:
    if claim.pair is None:
        return
    before, after = claim.pair
    own, contexts = str(before["model"]), pool.contexts[task_of_setup(before).name]
    for context, model in itertools.product(contexts, stand_ins(own, str(after["model"]))):
        try:
            baseline = in_context(before, context, model)
            if not pool.by_seed(baseline):
                continue
            trials = baseline, in_context(after, context, model)
            deltas = pool.deltas(*trials)
            if deltas and claim.beyond is not None:
                less = pool.deltas(*(in_context({**setup, **claim.beyond}, context, model) for setup in claim.pair))
                deltas = {seed: delta - less[seed] for seed, delta in deltas.items() if seed in less}
        except ConfigError:  # a toggle that the model which stands in does not have
            continue
        if deltas:
            values = np.array(list(deltas.values()))
            yield Evidence(deltas=values, context=context, models=(own, model or own), trials=trials)


def stand_ins(baseline: str, variant: str) -> list[str | None]:
    """Models that a claim may be tested on: its own (None) and, of a claim within one model, its paper's other."""
    if baseline != variant:
        return [None]
    paper = baseline.split("_")[1]
    return [None, *(name for name in list_models() if name != baseline and name.split("_")[1] == paper)]


def short(trial: Trial) -> str:
    """What a trial sets, its model first."""
    told = {name: value for name, value in trial.toggles().items() if value is not None}
    if trial.precision != "fp32":
        told["precision"] = trial.precision
    return setup_name({"model": trial.model, **told})


def reason(verdict: ClaimVerdict, claim: Claim, unit: str, deltas: np.ndarray | None = None) -> str:
    """Why a measured claim has its verdict, in a clause."""
    none, margin = ("1", f"{margin_of(claim):.0%} of 1") if unit == "ratio" else ("0", f"{margin_of(claim):g} points")
    if deltas is not None and len(deltas) < 2:
        return "one seed has no interval"
    if claim.direction == "flat":
        where = {"reproduced": "lies inside", "contradicted": "lies outside", "inconclusive": "reaches past"}
        return f"the interval {where.get(verdict, '')} the margin, {margin}"
    if verdict == "inconclusive":
        return f"the interval contains {none}" + ("" if deltas is None else f"; {narrower(deltas)}")
    side = "above" if (claim.direction == "up") == (verdict == "reproduced") else "below"
    return f"the whole interval is {side} {none}"


def narrower(deltas: np.ndarray) -> str:
    """What an interval about zero does say, or what would make it say something."""
    low, high, _ = t_test(deltas, rounding=100 * ROUNDING)
    if (most := at_most(low, high)) <= POINTS_MARGIN:
        return f"a difference is at most {most:.2f} points"
    seeds = seeds_needed(float(deltas.std(ddof=1)), POINTS_MARGIN)
    return f"{POINTS_MARGIN:g} points either way take some {max(seeds, len(deltas) + 1)} seeds"
