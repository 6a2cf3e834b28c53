"""The tables of README.md and docs/*.md, made from the published results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from common.markdown import fill_marks, markdown_table, pipe_table
from common.sweeps import SWEEPS, load_sweep
from mnet.errors import ConfigError
from mnet.studies.claims.evidence import count_verdicts, headlines
from mnet.studies.claims.scoreboard import scoreboard
from mnet.studies.claims.views import claims_table, latency_claims_table
from mnet.studies.results.archive import is_known, list_searches, read_table, studies_with, study_table
from mnet.studies.results.diagnosis import deaths_summary
from mnet.studies.results.table_view import (
    Cell,
    Column,
    Table,
    build_table,
    interval_cell,
    interval_column,
    join_tables,
    number_column,
    text_column,
)
from mnet.studies.results.views import deaths_table, effects_table, int8_table, summary_table
from mnet.studies.runs.store import (
    BENCH,
    BENCH_DECIDE,
    BENCH_LATENCY,
    CHECK,
    CLAIMS,
    EFFECTS,
    FOUND_NETWORK,
    GPU,
    GPU_ANSWERS,
    GPU_CORRECT,
    GPU_SEEDS,
    GPU_STEPS,
    LATENCY,
    RUNS,
    SUMMARY,
)
from mnet.studies.study import list_studies
from mnet.tasks import TASKS, task_in

LONGER = "longer"
"""The results folder of the profile with that name."""
NOT_MEASURED = "Not measured yet."
DATA = "fashion_mnist at 28 px"
"""The most common setting, which rows leave out."""
SINGLE = Cell("one sample")


def fill(text: str, root: Path) -> str:
    """A document with its tables filled in from the published results.

    Raises:
        ConfigError: The document names an unknown table.
    """

    def table(name: str) -> str:
        if name not in TABLES:
            raise ConfigError(f"a document wants the table {name!r}; there are {', '.join(TABLES)}")
        return TABLES[name](root)

    return fill_marks(text, table)


def claims(root: Path) -> str:
    """Every claim that was tested by training or timing, with its verdict, and a line of counts."""
    evidence = read_table(root / CLAIMS)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(evidence).items())
    heads = headlines(evidence)
    tested = heads[heads["n"].notna()]
    contexts = [on.removeprefix(f"{DATA}, ").partition(" thread")[0].removesuffix(", 1") for on in tested["on"]]
    table = claims_table(tested.assign(on=contexts))
    shown = table.select("statement", "paper", "ours", "95% interval", "verdict", "on")
    return f"{len(heads)} claims: {counts}.\n\n{markdown_table(shown)}"


def scores(root: Path) -> str:
    """How many claims of each kind have each verdict."""
    counts = scoreboard(read_table(root / CLAIMS))
    verdicts = [name for name in counts.columns if name != "claims"]
    rows = [[str(kind), *(str(count or "") for count in counts.loc[kind, verdicts])] for kind in counts.index]
    rows.append(["all", *(str(counts[name].sum()) for name in verdicts)])
    return pipe_table(("claims about", *verdicts), rows, right=verdicts)


def studies(root: Path) -> str:
    """The question and the cells of every sweep file, at the quick profile's settings."""
    rows = []
    for name in list_studies(SWEEPS):
        study = load_sweep(name, "quick")
        question, _, _ = " ".join(study.description.split()).partition("?")
        varied = ", ".join(f"`{option}`" for option in study.varied)
        rows.append([f"`{name}`", f"{question}?", varied, f"{len(study.cells)}", study.baseline])
    return pipe_table(("study", "question", "varies", "cells", "baseline"), rows, right=("cells",))


def commands(root: Path) -> str:
    """The two commands of the README, and the table that the second one prints."""
    titles = ("cell", "n", "top-1 %", "difference", "95% interval", "verdict")
    summary = study_table(root, "activation", SUMMARY)
    table, seeds, networks = summary_table(summary).select(*titles), summary["n"].max(), summary["n"].sum()
    rows = [list(titles), *map(list, table.texts())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        (
            "```sh",
            "make test                        # installs and runs the tests",
            f"make ablate-activation SEEDS={seeds}   # installs, trains {networks} networks, prints:",
            *(f"# {line}" for line in lines),
            "```",
        )
    )


def summaries(root: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """(study, summary) for every classification study that compares cells with the first, except those of searches."""
    within = studies_with(root, EFFECTS)
    for study in studies_with(root, SUMMARY):
        table = study_table(root, study, SUMMARY)
        if study not in (*within, *list_searches(root)) and task_in(table) == TASKS["classification"]:
            yield study, table


def comparisons(root: Path) -> str:
    """Every cell of every study."""
    tables = [summary_table(summary, more=[text_column("study")]) for _, summary in summaries(root)]
    titles = ("study", "cell", "n", "top-1 %", "difference", "95% interval", "verdict")
    return markdown_table(join_tables(tables).select(*titles))


def longer(root: Path) -> str:
    return comparisons(root / LONGER)


def found(root: Path) -> str:
    """The networks that searches found, next to the start network, scaled by width and whole."""
    tables = []
    more = (text_column("search"), text_column("network"), number_column("latency", digits=3))
    for study in list_searches(root):
        summary, check = study_table(root, study, SUMMARY), root / study / CHECK
        ratios = dict(read_table(check)[["variant", "ratio"]].to_numpy()) if check.is_file() else {}
        networks, latencies = [], []
        for cell in summary["cell"].astype(str):
            settings = dict(word.partition("=")[::2] for word in cell.split())
            is_found = settings["model"].endswith(FOUND_NETWORK)
            networks.append("found" if is_found else " ".join(cell.split()[1:]) or "whole")
            latencies.append(ratios.get("found" if is_found else f"width {settings.get('width', '1')}"))
        named = summary.assign(search=study, network=networks, latency=pd.Series(latencies, dtype=float))
        tables.append(summary_table(named, more=more))
    difference = ("difference", "95% interval", "verdict")
    titles = ("search", "network", "n", "top-1 %", *difference, "latency", "params", "MAdds")
    return markdown_table(join_tables(tables).select(*titles))


def dead(root: Path) -> str:
    """Depthwise kernels that died, by how they were trained."""
    table = deaths_table(deaths_summary(study_table(root, "dead-kernels")))
    return short_models(table.select("cell", "n", "top-1 %", "dead %", "difference", "95% interval", "verdict"))


def short_models(table: Table) -> str:
    return markdown_table(table).replace("model=mobilenet_", "")


def cells(root: Path, study: str) -> str:
    """Every cell of a study, with the other metrics of its task and its costs."""
    summary, runs = study_table(root, study, SUMMARY), study_table(root, study)
    measured = [f"{metric.label} %" for metric in task_in(summary).metrics]
    titles = ("cell", "n", *measured, "difference", "95% interval", "verdict", "params", "MAdds")
    return short_models(summary_table(summary, runs).select(*titles))


def detection(root: Path) -> str:
    return cells(root, "detection")


def segmentation(root: Path) -> str:
    return cells(root, "segmentation")


def effects(root: Path) -> str:
    """The effect of int8 within every network."""
    return within_networks(root, "quantization")


def bf16(root: Path) -> str:
    """The effect of training in 16 bits within every network."""
    return within_networks(root, "precision")


def within_networks(root: Path, study: str) -> str:
    titles = ("variant", "compared", "difference", "95% interval", "verdict", "beyond the first", "its 95% interval")
    return markdown_table(effects_table(study_table(root, study, EFFECTS)).select(*titles))


def latency(root: Path) -> str:
    """The latency claims on every runtime."""
    return markdown_table(latency_claims_table(read_table(root / CLAIMS)))


def laboratory(root: Path) -> str:
    """How often `make bench-latency` called equal networks different, and found a planted slowdown."""
    trials = read_table(root / BENCH_LATENCY)
    equal, slowed = trials[trials["planted"] == 0], trials[trials["planted"] > 0]
    wrong, found = int(((equal["low"] > 1) | (equal["high"] < 1)).sum()), int((slowed["low"] > 1).sum())
    low, high = binomtest(wrong, len(equal)).proportion_ci()
    return (
        f"- The same network twice is called different in {wrong} of {len(equal)} trials ({wrong / len(equal):.1%}, "
        f"95% interval {100 * low:.1f} to {100 * high:.1f}%).\n"
        f"- A network slowed down by {slowed['planted'].iloc[0]:.0%} is found in {found} of {len(slowed)} trials, in "
        f"{slowed['seconds'].median():.1f} s (median; {slowed['seconds'].max():.0f} s at most)."
    )


def int8(root: Path) -> str:
    """int8 networks against the same in fp32, on every runtime with int8 kernels."""
    return markdown_table(int8_table(study_table(root, "quantization", LATENCY)))


DECISION_COLUMNS = (
    *(text_column("studies"), text_column("rule"), number_column("wrong", digits=1, scale=0.01, unit="%")),
    *(number_column("coverage", "covered", 1, scale=0.01, unit="%"), number_column("seeds", digits=1)),
    number_column("undecided", digits=1, scale=0.01, unit="%"),
)


def decisions(root: Path) -> str:
    """How often simulated studies are judged wrongly, and how many seeds a decision takes."""
    return markdown_table(build_table("Decisions", DECISION_COLUMNS, read_table(root / BENCH_DECIDE)))


BENCH_COLUMNS = (
    *(text_column("what"), text_column("ours"), text_column("theirs"), number_column("ratio", digits=3)),
    Column("95% interval", lambda row: interval_cell(row["low"], row["high"], 3) if is_known(row["low"]) else SINGLE),
    *(text_column("goal"), text_column("verdict")),
)


def bench(root: Path) -> str:
    """What `make bench` measured, including missed goals."""
    return markdown_table(build_table("Bench", BENCH_COLUMNS, read_table(root / BENCH)))


def gpu_tests(root: Path) -> str:
    """Outcomes of the tests that need a GPU."""
    path = root / GPU / GPU_CORRECT
    if not path.is_file():
        return NOT_MEASURED
    tests = read_table(path)
    counts = tests["outcome"].value_counts()
    failed = "".join(f"; failed: `{name}`" for name in tests.loc[tests["outcome"] == "failed", "test"])
    skipped = f", {counts['skipped']} not reached in the time" if "skipped" in counts else ""
    made_on = tests[["device", "torch", "revision"]].drop_duplicates().agg(", ".join, axis=1)
    return f"{counts.get('passed', 0)} of {len(tests)} passed{skipped}{failed} ({'; '.join(made_on)})."


RATE_COLUMNS = (
    *(text_column("device"), text_column("network"), number_column("replicas", "seeds as one", digits=0)),
    *(text_column("compile", "steps"), number_column("total", "images/s, all seeds", digits=0)),
    *(number_column("seconds", "s a run", digits=1), number_column("n", "runs", digits=0)),
)


def gpu_runs(root: Path) -> str:
    """How fast the runs of claims trained on a GPU."""
    studies = studies_with(root / GPU, RUNS) if (root / GPU).is_dir() else []
    if not studies:
        return NOT_MEASURED
    runs = pd.concat([study_table(root / GPU, study, RUNS) for study in studies]).drop_duplicates("run_id")
    keys = ["device", "cell", "replicas", "compile"]
    rates = runs.groupby(keys, sort=False).agg(
        total=("images_per_second", "median"), seconds=("train_seconds", "median"), n=("run_id", "size")
    )
    rows = rates.reset_index().rename(columns={"cell": "network"})
    return markdown_table(build_table("Runs", RATE_COLUMNS, rows)).replace("model=mobilenet_", "")


def gpu_steps(root: Path) -> str:
    """The speed of a training step on a GPU."""
    return gpu_bench(root / GPU / GPU_STEPS)


def gpu_seeds(root: Path) -> str:
    """The gain from training seeds as one network on a GPU."""
    return gpu_bench(root / GPU / GPU_SEEDS)


def gpu_bench(path: Path) -> str:
    """A table of ratios, with images per second and memory if the file has them."""
    if not path.is_file():
        return NOT_MEASURED
    rows = read_table(path)
    more = (number_column("images_per_second", "images/s", digits=0), number_column("peak_gb", "peak GiB", digits=1))
    known = [column for column, name in zip(more, ("images_per_second", "peak_gb"), strict=True) if name in rows]
    devices = ", ".join(dict.fromkeys(map(str, rows["device"]))) if "device" in rows else ""
    table = markdown_table(build_table("GPU", (*BENCH_COLUMNS[:3], *known, *BENCH_COLUMNS[3:]), rows))
    return f"{devices}\n\n{table}" if devices else table


ANSWER_COLUMNS = (
    *(text_column("statement"), number_column("paper_value", "paper", sign=True), number_column("ours", sign=True)),
    *(interval_column("low", "high", sign=True), number_column("n", digits=0)),
    *(text_column("before"), text_column("verdict", "now")),
)


def gpu_answers(root: Path) -> str:
    """The claims that were undecided, and their verdicts with many seeds on a GPU."""
    path = root / GPU / GPU_ANSWERS
    return markdown_table(build_table("Answers", ANSWER_COLUMNS, read_table(path))) if path.is_file() else NOT_MEASURED


TABLES: dict[str, Callable[[Path], str]] = {
    function.__name__: function
    for function in (
        claims,
        scores,
        studies,
        commands,
        comparisons,
        longer,
        effects,
        bf16,
        detection,
        segmentation,
        found,
        dead,
        latency,
        laboratory,
        decisions,
        int8,
        bench,
        gpu_tests,
        gpu_runs,
        gpu_steps,
        gpu_seeds,
        gpu_answers,
    )
}
