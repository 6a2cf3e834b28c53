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
PAPERS_DATA = ("imagenet", "coco", "voc", "cityscapes")
RUNTIMES = ("litert", "executorch", "onnxruntime", "eager")
"""The papers' own first, under its present name."""

SEARCH, COMMAND = "search", "make search"
"""What a claim on NetAdapt calls its study, and what searches."""
DEAD = "dead_kernel_share"
"""The metric of a claim on depthwise kernels: the share that has died, in percent."""
MOST = 50.0

Row = dict[str, object]


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
