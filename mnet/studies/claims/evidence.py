"""Every claim with its evidence: counted, timed or trained, and judged by `verdicts.RULE`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import pandas as pd

from mnet.errors import counted
from mnet.latency.runtimes import GPU_RUNTIMES, RUNTIMES
from mnet.studies.claims.claims import Claim, setup_name
from mnet.studies.claims.counting import count_claim
from mnet.studies.claims.pairs import PAPER, Commands, RunIndex, describe_context, find_evidence, in_context
from mnet.studies.claims.verdicts import (
    VERDICTS,
    claim_verdict,
    judge_difference,
    judge_latency,
    margin_of,
    reason_for,
)
from mnet.studies.plan import Plan
from mnet.studies.results.statistics import ROUNDING, t_test
from mnet.studies.trial import Trial
from mnet.tasks import task_of

COLUMNS = (
    *("id", "paper", "statement", "paper_value", "ours", "low", "high", "n", "verdict", "why"),
    *("kind", "metric", "direction", "margin", "on", "study", "baseline", "variant", "source", "command"),
)
COPIED = ("id", "paper", "statement", "kind", "metric", "direction", "study")
MEASURED = ("paper_value", "ours", "low", "high", "n", "margin")
PAPERS_DATA = ("imagenet", "coco", "voc", "cityscapes")

SEARCH, SEARCH_COMMAND = "search", "make search"
"""The study of the claim on NetAdapt, and the command that runs the search."""
DEAD = "dead_kernel_share"
"""The metric of the claim on depthwise kernels: percent that are dead."""
MOST = 50.0

Row = dict[str, object]


def claims_table(
    claims: Sequence[Claim],
    *,
    runs: pd.DataFrame,
    planned: pd.DataFrame,
    latencies: Mapping[str, pd.DataFrame],
    searches: Mapping[str, pd.DataFrame] | None = None,
    plans: Mapping[str, Sequence[Plan]] | None = None,
    chosen: Collection[str] = (),
) -> pd.DataFrame:
    """Every claim with all its evidence.

    Args:
        claims: From `load_claims`.
        runs: From `load`; a run shared by several studies counts once per machine that trained it.
        planned: What the studies would train, the cheapest first: one row per cell, with the settings and the `run_id`
            of its trial with seed 0, its `study`, and the `command`.
        latencies: Study -> its `latency-claims.csv`, with `device` and, in `fell_back`, operators outside fast kernels;
            the latest rows last. Without a column `batch`, the batch is one image.
        searches: Study of NetAdapt -> its `summary.csv`: the network scaled by width first, then the found one.
        plans: Study -> its plans, own before published. Evidence is judged at the looks of the first plan that has its
            networks, or at a single look if none has.
        chosen: As for `find_evidence`.

    Returns:
        `COLUMNS`, one row per claim and piece of evidence, the headline first: the chosen setting, then the claim's own
        network before a substitute, then the longest training; runtimes in the order of `RUNTIMES`.
        `ours`, `low` and `high` are in points of the headline metric, ratios of milliseconds, or counts; `n` counts
        seeds or rounds.
    """
    studies = set(planned["study"])
    commands: dict[str, dict[str, str]] = {}
    for row in planned.itertuples():
        commands.setdefault(str(row.run_id), {}).setdefault(str(row.command), str(row.study))
    finished = RunIndex(runs)
    plan = RunIndex.of_plan(planned)
    rows: list[Row] = []
    for claim in claims:
        if claim.untestable:
            evidence = [_untested(claim.untestable)]
        elif claim.study == SEARCH:
            evidence = list(_searched(claim, searches or {})) or [_untested(f"not searched yet; run {SEARCH_COMMAND}")]
        elif claim.study not in studies:
            evidence = [_untested(f"there is no study {claim.study} yet")]
        elif claim.kind == "arithmetic":
            evidence = [count_claim(claim)]
        elif claim.kind == "latency":
            evidence = list(_timed(claim, latencies.get(claim.study)))
        elif claim.metric == DEAD:
            untrained = _untested(f"not trained yet; run make ablate-{claim.study}")
            evidence = list(_dead_kernels(claim, finished, commands)) or [untrained]
        else:
            trained = list(_trained(claim, finished, commands, _plans_for(claim, plans or {}), chosen))
            evidence = trained or [_untrained(claim, plan, commands, chosen)]
        shared: Row = {name: getattr(claim, name) for name in COPIED}
        shared |= {"margin": margin_of(claim), "paper_value": claim.printed, "source": claim.cited}
        if claim.pair is not None:
            shared |= dict(zip(("baseline", "variant"), map(setup_name, claim.pair), strict=True))
        rows += [{**shared, **row} for row in evidence]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype(dict.fromkeys(MEASURED, float))


def headlines(table: pd.DataFrame) -> pd.DataFrame:
    """The first row of every claim."""
    return table.drop_duplicates("id")


def count_verdicts(table: pd.DataFrame) -> dict[str, int]:
    """How many claims have each verdict, by their headlines."""
    counts = headlines(table)["verdict"].value_counts()
    return {name: int(counts.get(name, 0)) for name in VERDICTS}


def _untested(why: str) -> Row:
    return {"verdict": "not tested here", "why": why}


def _timed(claim: Claim, table: pd.DataFrame | None) -> Iterator[Row]:
    """A latency claim for every runtime, batch and machine that timed it: batch 1 first, as in the papers, and the
    machine that measured last before the others."""
    rows = pd.DataFrame() if table is None else table[table["id"] == claim.id]
    if rows.empty:
        command = f"make latency-{claim.study}"
        yield _untested(f"not timed yet; run {command}") | {"command": command}
        return
    order = {name: i for i, name in enumerate(RUNTIMES)}
    batches = rows["batch"] if "batch" in rows else pd.Series(1, rows.index)
    places = pd.DataFrame({"larger": batches > 1, "runtime": rows["runtime"].map(order), "batch": batches})
    places["threads"] = rows["threads"].astype(int)
    for i in places[::-1].sort_values([*places], kind="stable").index:
        row, batch = rows.loc[i], int(batches[i])
        threads, on_gpu = int(row["threads"]), row["runtime"] in GPU_RUNTIMES
        precision = "" if pd.isna(row["precision"]) else f" {row['precision']}"
        command = f"make latency-{claim.study} RUNTIME={row['runtime']}"
        command += ("" if on_gpu else f" THREADS={threads}") + ("" if batch == 1 else f" BATCH={batch}")
        conditions = [f"{row['runtime']}{precision}"]
        conditions += [] if on_gpu else [counted(threads, "thread")]
        conditions += [] if batch == 1 else [f"batch {batch}"]
        shared: Row = {"command": command, "on": ", ".join([*conditions, str(row["device"])])}
        if pd.isna(row["ours"]):
            yield shared | _untested(row["why"])
            continue
        verdict, why = judge_latency(claim, row["ours"], row["low"], row["high"], on_gpu=on_gpu)
        if row["fell_back"]:
            why += f"; outside the runtime's fast kernels: {row['fell_back']}"
        measured = {name: row[name] for name in ("ours", "low", "high", "n")}
        yield {**shared, **measured, "why": why, "verdict": verdict}


def _plans_for(claim: Claim, plans: Mapping[str, Sequence[Plan]]) -> list[Plan]:
    """All plans, those of the claim's own study first: another study may have planned its networks."""
    return [plan for study in sorted(plans, key=lambda name: name != claim.study) for plan in plans[study]]


def _trained(
    claim: Claim, runs: RunIndex, commands: Commands, plans: Sequence[Plan], chosen: Collection[str]
) -> Iterator[Row]:
    """A claim about accuracy, mAP or mIoU in every context where both networks were trained."""
    for evidence in find_evidence(claim, runs, chosen):
        looks = next((plan.looks for plan in plans if evidence.is_within(plan.cells.values())), None)
        if looks is not None and evidence.n < looks[0]:  # before the first look of the plan
            continue
        judged = evidence.judge(claim, looks)
        delta, low, high = (float(judged[name]) for name in ("delta", "low", "high"))
        verdict = judge_difference(claim, delta, low, high)
        is_papers = evidence.context["dataset"] in PAPERS_DATA
        is_papers = is_papers and evidence.context.get("images") not in runs.own_images
        scale = "" if is_papers else "at small scale: "
        reasons = [reason_for(verdict, claim, "points", (low, high))]
        if verdict == "undecided" and (needed := judged["seeds_needed"]) > evidence.n:
            reasons.append(f"about {counted(round(needed - evidence.n), 'more seed')} would decide")
        yield {
            **{"ours": delta, "low": low, "high": high, "n": evidence.n, "verdict": verdict, "on": evidence.on},
            **dict(zip(("baseline", "variant"), map(_trial_name, evidence.trials), strict=True)),
            "why": "; ".join([*reasons, f"{scale}{evidence.on}"]),
            "command": " && ".join(evidence.commands(commands, claim.study)),
        }


def _untrained(claim: Claim, plan: RunIndex, commands: Commands, chosen: Collection[str]) -> Row:
    """The command that would train both networks of a claim, in the chosen setting if it has one."""
    possible = find_evidence(claim, plan, chosen)
    if not possible:
        return _untested("no study has both networks in the same setting")
    *_, shortest = (evidence for evidence in possible if evidence.rank[:2] == possible[0].rank[:2])
    if possible[0].is_within(chosen):
        shortest = possible[0]
    command = " && ".join(shortest.commands(commands, claim.study))
    return _untested(f"not trained yet; run {command}") | {"command": command}


def _dead_kernels(claim: Claim, runs: RunIndex, commands: Commands) -> Iterator[Row]:
    """The claim that most depthwise kernels of a model die, in each context in which the published model was
    trained; contexts with the recipe's weight decay first."""

    def order(context: Mapping[str, object]) -> tuple[bool, float]:
        other_decay = any(context.get(name, PAPER) != PAPER for name in ("weight_decay", "decay_depthwise"))
        return other_decay, -float(str(context["epochs"]))

    judged = set()
    for context in sorted(runs.contexts[task_of(None).name], key=order):
        trial = in_context({"model": claim.model}, context, None)
        shares = runs.dead(trial).to_numpy()
        if not len(shares) or trial.run_id in judged:
            continue
        judged.add(trial.run_id)
        low, high, _ = t_test(shares, rounding=100 * ROUNDING)
        verdict = claim_verdict(shares.mean() - MOST, low - MOST, high - MOST, claim.direction, 0)
        on = describe_context(context, (str(claim.model), str(claim.model)))
        yield {
            **{"ours": float(shares.mean()), "low": low, "high": high, "n": len(shares), "verdict": verdict, "on": on},
            "why": f"most means over {MOST:g}% of the kernels, dead a norm below 1% of the initial one; {on}",
            "variant": _trial_name(trial),
            "command": next(iter(commands.get(trial.run_id, {})), f"make ablate-{claim.study}"),
        }


def _searched(claim: Claim, searches: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    """The claim that a search beats scaling by width, in every search whose networks were trained."""
    for name, summary in searches.items():
        scaled, searched = summary.iloc[0], summary.iloc[1]
        if pd.isna(searched["delta"]):
            continue
        low, high = searched["low"], searched["high"]
        verdict = judge_difference(claim, searched["delta"], low, high)
        on = f"{name}, from scratch, at the same cost"
        why = f"{reason_for(verdict, claim, 'points', (low, high))}; at small scale: {on}"
        yield {
            **{"ours": searched["delta"], "low": low, "high": high, "n": searched["pairs"], "verdict": verdict},
            **{"why": why, "on": on, "baseline": scaled["cell"], "variant": searched["cell"]},
            "command": SEARCH_COMMAND,
        }


def _trial_name(trial: Trial) -> str:
    """The settings of a trial's network, its model first."""
    toggles = {name: value for name, value in trial.toggles().items() if value is not None}
    if trial.precision != "fp32":
        toggles["precision"] = trial.precision
    return setup_name({"model": trial.model, **toggles})
