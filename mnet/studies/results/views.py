"""The columns of every table of a study, declared once: for the terminal, the READMEs, the notebooks and the report."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mnet.studies.results.archive import is_known
from mnet.studies.results.table_view import (
    MILLION,
    Cell,
    Column,
    Row,
    Table,
    build_table,
    flag_column,
    format_number,
    interval_cell,
    interval_column,
    is_number,
    number_cell,
    number_column,
    text_column,
)
from mnet.studies.results.tables import MACRO
from mnet.tasks import Metric, Task, metric_of, task_in

BASELINE, FAILED, SAME_NETWORK = "baseline", "failed", "same network"
"""What a row of a summary shows instead of a difference."""
DEATH_VERDICTS = {"up": "more die", "down": "fewer die", "flat": "as many die"}

CELL = text_column("cell")
SEEDS = number_column("n", digits=0)
P = number_column("p", digits=3)
VERDICT = text_column("verdict")
COST = (
    number_column("params", digits=3, scale=MILLION, unit=" M"),
    number_column("madds", "MAdds", scale=MILLION, unit=" M"),
)
PIXELS = number_column("resolution", "pixels", 0)
THREADS = number_column("threads", digits=0)
DIFFERENCE = (number_column("delta", "difference", sign=True), interval_column("low", "high", sign=True))
RATIO = (number_column("ratio", digits=3), interval_column("low", "high", digits=3))
SOFTWARE = (text_column("version"), text_column("kernels"), text_column("device"))

EFFECT_COLUMNS = (
    *(text_column("variant"), text_column("compared"), SEEDS, *DIFFERENCE, P, VERDICT),
    number_column("beyond", "beyond the first", sign=True),
    interval_column("beyond_low", "beyond_high", "its 95% interval", sign=True),
)
LATENCY_COLUMNS = (
    *(text_column("variant"), text_column("runtime"), text_column("precision"), PIXELS, THREADS),
    *(number_column("batch", digits=0), number_column("median_ms", "ms", 3), *RATIO),
    *(number_column("rounds", digits=0), text_column("stopped"), *COST),
    *(text_column("undelegated_ops", "not delegated"), number_column("file_bytes", "MB", 1, scale=MILLION)),
    *(*SOFTWARE, number_column("load"), text_column("torch"), text_column("revision")),
)
INT8_COLUMNS = (
    *(text_column("variant", "network in int8"), text_column("runtime")),
    number_column("to_fp32", "ms / ms in fp32", 3),
    interval_column("to_fp32_low", "to_fp32_high", digits=3),
    number_column("file_bytes", "MB", 1, scale=MILLION),
    number_column("agreement", "agreement", 0, scale=0.01, unit="%"),
    text_column("undelegated_ops", "operators that fall back"),
)
BLOCK_COLUMNS = (
    *(text_column("block"), text_column("kind"), PIXELS, number_column("in_channels", "in", 0)),
    *(number_column("out_channels", "out", 0), number_column("params", digits=0), number_column("madds", "MAdds", 0)),
    *(number_column("ms", digits=3), interval_column("low", "high", digits=3)),
)
LAYER_COLUMNS = (
    *(text_column("layer"), text_column("kind"), number_column("in_channels", "in", 0)),
    *(number_column("out_channels", "out", 0), number_column("kernel", digits=0), number_column("stride", digits=0)),
    *(PIXELS, number_column("params", digits=0), number_column("madds", "MAdds", 0)),
    number_column("activation_bytes", "memory, bytes", 0),
)
NETADAPT_COLUMNS = (
    *(number_column("step", digits=0), text_column("space", "where"), number_column("before", "channels", 0)),
    *(number_column("after", "then", 0), number_column("cost", digits=4), number_column("accuracy", "validation, %")),
    *(flag_column("taken"), text_column("run_id", "run")),
)
CANDIDATE_COLUMNS = (
    *(number_column("generation", digits=0), number_column("accuracy", "short training, validation, %")),
    *(number_column("cost", digits=3), number_column("reward"), text_column("run_id", "run")),
)


def summary_table(summary: pd.DataFrame, runs: pd.DataFrame | None = None, more: Sequence[Column] = ()) -> Table:
    """The cells of a study, the baseline first, each with its difference to the baseline.

    Args:
        summary: Rows of `summary.csv`.
        runs: Rows of `runs.csv`, to add further metrics of the task and mark cells that are the baseline's network.
        more: Further columns of `summary`, placed first.
    """
    metric = metric_of(summary)
    further = () if runs is None else further_metrics(runs)
    frame = summary.assign(state=summary_states(summary, runs))
    if further and runs is not None:
        means = runs.groupby("cell")[[one.name for one in further]].mean()
        frame = frame.merge(means, left_on="cell", right_index=True, how="left")
    columns = (
        *(*more, CELL, SEEDS, percent_column(metric.mean, metric), number_column(metric.half_width, "half width")),
        *((number_column(MACRO, "macro %"),) if MACRO in summary else ()),
        *(number_column(metric.sd, "sd"), *(percent_column(one.name, one) for one in further)),
        *(Column("difference", difference_cell), Column("95% interval", difference_interval), P),
        *(Column("verdict", verdict_cell, numeric=False), number_column("at_most", "at most")),
        *(number_column("seeds_needed", "seeds needed", 0), *COST),
    )
    return build_table("Cells", columns, frame)


def further_metrics(runs: pd.DataFrame) -> tuple[Metric, ...]:
    """The metrics of a task that runs have in addition to the headline metric."""
    return tuple(metric for metric in task_in(runs).metrics[1:] if metric.name in runs)


def summary_states(summary: pd.DataFrame, runs: pd.DataFrame | None) -> list[str]:
    """For each cell `BASELINE`, `FAILED`, `SAME_NETWORK` (as the baseline), or empty."""
    networks = {} if runs is None else runs.groupby("cell")["run_id"].agg(frozenset).to_dict()
    cells = summary["cell"].tolist()
    states = []
    for cell, n in zip(cells, summary["n"], strict=True):
        same = cell in networks and networks[cell] == networks.get(cells[0])
        states.append(BASELINE if cell == cells[0] else SAME_NETWORK if same else FAILED if not n else "")
    return states


def difference_cell(row: Row) -> Cell:
    if row["state"] == BASELINE:
        return Cell(BASELINE)
    return Cell("0", 0.0) if row["state"] == SAME_NETWORK else number_cell(row.get("delta"), sign=True)


def difference_interval(row: Row) -> Cell:
    if row["state"] in (BASELINE, FAILED):
        return Cell("")
    if row["state"] == SAME_NETWORK:
        return Cell(SAME_NETWORK)
    return interval_cell(row["low"], row["high"], sign=True) if is_number(row.get("low")) else Cell("needs 2 seeds")


def verdict_cell(row: Row) -> Cell:
    if row["state"] == FAILED:
        return Cell(FAILED)
    return Cell(str(row["verdict"]) if row["state"] == "" and is_known(row.get("verdict")) else "")


def percent_column(name: str, metric: Metric) -> Column:
    return number_column(name, f"{metric.label} %")


def runs_table(runs: pd.DataFrame) -> Table:
    task: Task = task_in(runs)
    columns = (
        *(CELL, number_column("seed", digits=0), *(percent_column(one.name, one) for one in task.metrics)),
        *(number_column(f"val_{task.headline.name}", "validation %"), *COST),
        *(number_column("train_seconds", "training, s", 0), text_column("run_id", "run"), text_column("device")),
        *(THREADS, text_column("torch"), text_column("revision"), text_column("finished")),
    )
    return build_table("Every run", columns, runs)


def effects_table(effects: pd.DataFrame) -> Table:
    """The values of one option against each other, within every variant of a study."""
    compared = [f"{value} - {against}" for value, against in zip(effects["value"], effects["against"], strict=True)]
    return build_table("Within each variant", EFFECT_COLUMNS, effects.assign(compared=compared))


def latency_table(latency: pd.DataFrame) -> Table:
    return build_table("Latency", LATENCY_COLUMNS, latency)


def int8_table(latency: pd.DataFrame) -> Table:
    """int8 networks against themselves in fp32, on the runtimes that have int8 kernels."""
    rows = latency[latency["to_fp32"].notna() & (latency["runtime"] != "eager")]
    networks = rows["variant"].astype(str).str.replace(r"precision=int8, | precision=int8", "", regex=True)
    return build_table("int8 against fp32", INT8_COLUMNS, rows.assign(variant=networks))


def frontier_table(frontier: pd.DataFrame) -> Table:
    metric = metric_of(frontier)
    columns = (
        *(CELL, text_column("runtime"), percent_column(metric.mean, metric)),
        *(number_column(metric.half_width, "half width"), number_column("median_ms", "ms", 3)),
        *(number_column("ratio", digits=3), interval_column("ratio_low", "ratio_high", digits=3)),
        *(flag_column("best", "on the frontier"), *COST, PIXELS, THREADS),
        *(text_column("device"), text_column("version")),
    )
    return build_table("Accuracy and latency", columns, frontier)


def blocks_table(caption: str, blocks: pd.DataFrame) -> Table:
    """The blocks of a network with their counts, and latencies if `blocks` has them."""
    return build_table(caption, BLOCK_COLUMNS, blocks).without_empty_columns()


def layers_table(caption: str, layers: pd.DataFrame) -> Table:
    return build_table(caption, LAYER_COLUMNS, layers)


def netadapt_table(trace: pd.DataFrame) -> Table:
    return build_table("The search, step by step", NETADAPT_COLUMNS, trace)


def candidates_table(candidates: pd.DataFrame) -> Table:
    return build_table("The search, candidate by candidate", CANDIDATE_COLUMNS, candidates)


def inside_table(summary: pd.DataFrame) -> Table:
    """Means over seeds with half their 95% t interval, from `diagnosis.inside_summary`."""
    columns = (
        *(CELL, SEEDS, mean_column("dead", "dead depthwise kernels %"), mean_column("silent", "silent channels %")),
        mean_column("rank_kept", "effective rank, after / before", 3),
    )
    return build_table("Inside the networks", columns, summary)


def deaths_table(summary: pd.DataFrame) -> Table:
    """Dead depthwise kernels by cell, from `diagnosis.deaths_summary`."""
    deaths = summary.reindex(columns=["cell", "n", "top1", "dead", "half_width", "delta", "low", "high", "verdict"])
    states = ["" if is_known(delta) else "first" for delta in deaths["delta"]]
    verdicts = [DEATH_VERDICTS.get(str(verdict), verdict) for verdict in deaths["verdict"]]
    columns = (
        *(CELL, SEEDS, number_column("top1", "top-1 %"), number_column("dead", "dead %")),
        *(number_column("half_width", "half width"), Column("difference", death_difference)),
        *(interval_column("low", "high", sign=True), VERDICT),
    )
    return build_table("Dead depthwise kernels", columns, deaths.assign(state=states, verdict=verdicts))


def death_difference(row: Row) -> Cell:
    return Cell(row["state"]) if row["state"] else number_cell(row["delta"], sign=True)


def mean_column(name: str, title: str, digits: int = 2) -> Column:
    """A column of means, each with half its interval if there is one."""

    def cell(row: Row) -> Cell:
        mean, half = number_cell(row.get(name), digits), row.get(f"{name}_half_width")
        return Cell(f"{mean.text} ± {format_number(half, digits)}", mean.value) if is_number(half) else mean

    return Column(title, cell)
