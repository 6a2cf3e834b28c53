"""The tables of the report: every cell as it is read, and as it is sorted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mnet.studies.report.commands import Place, Row, latency_command, records, run_command, told
from mnet.studies.results.archive import known
from mnet.tasks import Metric, Task, metric_of, task_in

MILLION = 1e6
MINUS = "\u2212"
WORDS = {
    "up": "better",
    "down": "worse",
    "flat": "no difference beyond the margin",
    "inconclusive": "inconclusive",
}
"""Of a study's verdicts."""


@dataclass(frozen=True)
class Cell:
    """What is read, and the number that it is sorted by; None = by what is read."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Record:
    """A row, what is said below it when it is opened, and the command that makes it again."""

    cells: Sequence[Cell]
    details: Sequence[str] = ()
    command: str = ""
    more: Sequence[Record] = ()
    """Further rows that belong to it, shown on demand."""
    tags: dict[str, str] = field(default_factory=dict)
    """What it can be filtered by."""


@dataclass(frozen=True)
class Table:
    """`columns` is title -> whether it holds numbers."""

    caption: str
    columns: dict[str, bool]
    records: Sequence[Record]


@dataclass(frozen=True)
class Column:
    """A column of a table, from a row of a frame."""

    title: str
    show: Callable[[Row], Cell]
    numeric: bool = True


def number(value: Any, digits: int = 2, *, sign: bool = False, scale: float = 1) -> Cell:
    """A number, with a true minus; empty where there is none."""
    if not is_number(value):
        return Cell("")
    return Cell(written(float(value) / scale, digits, sign=sign), float(value))


def written(value: float, digits: int = 2, *, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", MINUS)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def span(low: Any, high: Any, digits: int = 2, *, sign: bool = False) -> str:
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{written(float(low), digits, sign=sign)}, {written(float(high), digits, sign=sign)}]"


def plain(name: str, title: str | None = None) -> Column:
    """A column of text."""
    return Column(title or name, lambda row: Cell(str(row[name]) if known(row.get(name)) else ""), numeric=False)


def figure(name: str, title: str, digits: int = 2, *, sign: bool = False, scale: float = 1) -> Column:
    """A column of numbers."""
    return Column(title, lambda row: number(row.get(name), digits, sign=sign, scale=scale))


def interval(low: str, high: str, title: str = "95% interval", digits: int = 2, *, sign: bool = False) -> Column:
    """A column of intervals, sorted by their lower end."""

    def show(row: Row) -> Cell:
        text = span(row.get(low), row.get(high), digits, sign=sign)
        return Cell(text, float(row[low]) if text else None)

    return Column(title, show)


COST = (figure("params", "params, M", 3, scale=MILLION), figure("madds", "MAdds, M", 2, scale=MILLION))
VERDICT = Column("verdict", lambda row: Cell(WORDS.get(str(row["verdict"]), "")), numeric=False)


def percent(name: str, label: str) -> Column:
    return figure(name, label.replace("-", "\u2011") + ", %")


def summary_columns(metric: Metric) -> tuple[Column, ...]:
    return (
        *(plain("cell"), figure("n", "seeds", 0), percent(metric.mean, metric.label), figure(metric.sd, "sd")),
        *(figure("delta", "difference", sign=True), interval("low", "high", sign=True), figure("p_holm", "p, Holm", 3)),
        *(VERDICT, figure("at_most", "at most"), figure("seeds_needed", "seeds needed", 0), *COST),
    )


def run_columns(task: Task) -> tuple[Column, ...]:
    return (
        *(plain("cell"), figure("seed", "seed", 0), *(percent(one.name, one.label) for one in task.metrics)),
        *(figure(f"val_{task.headline.name}", "validation, %"), *COST, figure("train_seconds", "training, s", 0)),
        *(plain("run_id", "run"), plain("device"), figure("threads", "threads", 0), plain("torch"), plain("revision")),
        plain("finished"),
    )


def frontier_columns(metric: Metric) -> tuple[Column, ...]:
    return (
        *(plain("cell"), plain("runtime"), percent(metric.mean, metric.label), figure(metric.half_width, "half width")),
        *(figure("median_ms", "ms", 3), figure("ratio", "ratio", 3), interval("ratio_low", "ratio_high", digits=3)),
        *(Column("on the frontier", lambda row: Cell("yes" if row["best"] else "no"), numeric=False), *COST),
        *(figure("resolution", "pixels", 0), figure("threads", "threads", 0), plain("device"), plain("version")),
    )


EFFECTS = (
    *(plain("variant"), plain("value"), plain("against"), figure("n", "seeds", 0)),
    *(figure("delta", "difference", sign=True), interval("low", "high", sign=True), figure("p_holm", "p, Holm", 3)),
    *(VERDICT, figure("beyond", "beyond the first", sign=True)),
    interval("beyond_low", "beyond_high", "interval of that", sign=True),
)
RATIO = (figure("ratio", "ratio", 3), interval("low", "high", digits=3))
LATENCY = (
    *(plain("variant"), plain("runtime"), plain("precision"), figure("resolution", "pixels", 0)),
    *(figure("threads", "threads", 0), figure("batch", "batch", 0), figure("median_ms", "ms", 3), *RATIO),
    *(figure("rounds", "rounds", 0), plain("stopped"), *COST, plain("undelegated_ops", "not delegated")),
    *(plain("version"), plain("kernels"), plain("device"), figure("load", "load"), plain("torch"), plain("revision")),
)
CELLS = (
    *(plain("cell"), plain("study"), plain("network"), figure("n", "seeds", 0), figure("y", "top\u20111, %"), *COST),
)
PAPERS = (
    *(plain("name", "network"), plain("network", "family"), plain("measure"), figure("y", "%", 1)),
    *(figure("madds", "MAdds, M", 0), figure("params", "params, M", 2), figure("ms", "Pixel 1, ms", 1)),
    plain("source"),
)
BLOCKS = (
    *(plain("block"), plain("kind"), figure("resolution", "pixels", 0), figure("in_channels", "in", 0)),
    *(figure("out_channels", "out", 0), figure("params", "params", 0), figure("madds", "MAdds", 0)),
)
TIMED = (figure("ms", "ms", 3), interval("low", "high", digits=3))
STEPS = (
    *(figure("step", "step", 0), plain("space", "where"), figure("before", "channels", 0), figure("after", "then", 0)),
    *(figure("cost", "cost", 4), figure("accuracy", "validation, %")),
    Column("taken", lambda row: Cell("yes" if row["taken"] else "no"), numeric=False),
    plain("run_id", "run"),
)
CANDIDATES = (
    *(figure("generation", "generation", 0), figure("accuracy", "short training, validation, %")),
    *(figure("cost", "cost", 3), figure("reward", "reward"), plain("run_id", "run")),
)
INSIDE = (
    *(plain("cell"), figure("n", "seeds", 0), figure("dead", "dead depthwise kernels, %")),
    *(figure("dead_half_width", "half width"), figure("silent", "silent channels, %")),
    *(figure("silent_half_width", "half width of that"), figure("rank_kept", "effective rank, after over before", 3)),
)
LAYERS = (
    *(plain("layer"), plain("kind"), figure("in_channels", "in", 0), figure("out_channels", "out", 0)),
    *(figure("kernel", "kernel", 0), figure("stride", "stride", 0), figure("resolution", "pixels", 0)),
    *(figure("params", "params", 0), figure("madds", "MAdds", 0), figure("activation_bytes", "memory, bytes", 0)),
)


def table(
    caption: str,
    columns: Sequence[Column],
    frame: pd.DataFrame,
    command: Callable[[Row], str] = lambda row: "",
    details: Callable[[Row], Sequence[str]] = lambda row: (),
) -> Table:
    """A table of a frame, without the columns that are empty in every row."""
    rows = records(frame)
    shown = [(column, [column.show(row) for row in rows]) for column in columns if rows and fits(column, rows[0])]
    filled = [(column, cells) for column, cells in shown if any(cell.text for cell in cells)]
    made = [
        Record([cells[i] for _, cells in filled], details(row), command(row) if row else "")
        for i, row in enumerate(rows)
    ]
    return Table(caption, {column.title: column.numeric for column, _ in filled}, made)


def fits(column: Column, row: Row) -> bool:
    """Whether a table is new enough to have the column."""
    try:
        column.show(row)
    except KeyError:
        return False
    return True


def runs_table(runs: pd.DataFrame, place: Place) -> Table:
    rates = list(dict.fromkeys(runs["lr"])) if "lr" in runs else []

    def settings(row: Row) -> Sequence[str]:
        return ["settings: " + (", ".join(f"{name}={value}" for name, value in told(row).items()) or "as in the paper")]

    return table("Every run", run_columns(task_in(runs)), runs, lambda row: run_command(place, row, rates), settings)


def summary_table(summary: pd.DataFrame, runs: pd.DataFrame, place: Place) -> Table:
    """The command of a cell trains its seeds."""
    rates = list(dict.fromkeys(runs["lr"])) if "lr" in runs else []
    own: dict[str, list[str]] = {}
    for run in records(runs):
        own.setdefault(str(run["cell"]), []).append(run_command(place, run, rates))

    def reason(row: Row) -> Sequence[str]:
        failed = row.get("failed")
        return [f"{failed:.0f} failed: {row['reason']}"] if is_number(failed) and failed else []

    return table(
        "Cells",
        summary_columns(metric_of(summary)),
        summary,
        lambda row: "\n".join(own.get(str(row["cell"]), ())),
        reason,
    )


def latency_table(latency: pd.DataFrame) -> Table:
    def details(row: Row) -> Sequence[str]:
        said = [f"exported: {row['file']}, sha256 {row['sha256']}"] if known(row.get("file")) else []
        return [*said, *([f"note: {row['note']}"] if known(row.get("note")) else [])]

    return table("Latency", LATENCY, latency, latency_command, details)


def frontier_table(frontier: pd.DataFrame) -> Table:
    return table(
        "Accuracy and latency",
        frontier_columns(metric_of(frontier)),
        frontier,
        lambda row: latency_command(row, "frontier"),
    )


def effects_table(effects: pd.DataFrame) -> Table:
    return table("Within each network", EFFECTS, effects, lambda row: f"make ablate-{row['study']}")


UNITS = {
    **{"top1_points": (2, True, " points"), "map": (1, True, " mAP"), "miou": (2, True, " mIoU")},
    **{"_millions": (2, True, " M"), "_billions": (2, True, " G"), "_percent": (2, False, " %")},
    **{"_ms": (3, False, "\u00d7"), "_ratio": (3, False, "\u00d7")},
}
"""How a metric, or one that ends so, is written: digits, whether it is a difference, the unit. Milliseconds are
measured, and so written, as ratios."""


def style_of(row: Row) -> tuple[int, bool, str]:
    metric = str(row["metric"])
    return next((style for end, style in UNITS.items() if metric.endswith(end)), (3, False, ""))


def amount(row: Row, value: Any) -> Cell:
    digits, sign, unit = style_of(row)
    cell = number(value, digits, sign=sign)
    return Cell(cell.text + unit, cell.value) if cell.text else cell


def claim_span(row: Row) -> Cell:
    digits, sign, _ = style_of(row)
    text = span(row["low"], row["high"], digits, sign=sign)
    return Cell(text, float(row["low"]) if text else None)


CLAIMS = (
    *(plain("statement", "claim"), plain("verdict")),
    *(
        Column("the paper’s", lambda row: amount(row, row["paper_value"])),
        Column("ours", lambda row: amount(row, row["ours"])),
    ),
    *(Column("95% interval", claim_span), figure("n", "n", 0), plain("why"), plain("kind")),
    Column("source", lambda row: Cell(f"{row['paper']}, {row['source']}"), numeric=False),
)


def claims_table(claims: pd.DataFrame) -> Table:
    """One record a claim: its headline, and the further evidence below it."""

    def record(row: Row, more: Sequence[Record] = ()) -> Record:
        compared = f"{row['variant']} against {row['baseline']}" if known(row["variant"]) else ""
        where = f"on {row['on']}" if known(row["on"]) else ""
        said = "; ".join(filter(None, [compared, where]))
        tags = {"verdict": str(row["verdict"]), "kind": str(row["kind"])}
        command = str(row["command"]) if known(row["command"]) else ""
        return Record([column.show(row) for column in CLAIMS], [said] if said else [], command, more, tags)

    made = []
    for _, rows in claims.groupby("id", sort=False):
        first, *others = records(rows)
        made.append(record(first, [record(row) for row in others]))
    return Table("Claims", {column.title: column.numeric for column in CLAIMS}, made)


def provenance_table(frames: Iterable[tuple[str, pd.DataFrame]]) -> Table:
    """On what, by what and when the numbers were made: the distinct values of every table."""
    made = []
    for name, frame in frames:
        columns = ("device", "threads", "runtime", "version", "torch", "mnet", "revision", "finished")
        cells = [Cell(name), *(Cell(distinct(frame, column)) for column in columns)]
        made.append(Record(cells))
    titles = ("table", "hardware", "threads", "runtime", "its version", "torch", "mnet", "revision", "finished")
    return Table("Hardware and versions", dict.fromkeys(titles, False), made)


def distinct(frame: pd.DataFrame, column: str) -> str:
    if column not in frame:
        return ""
    values = list(dict.fromkeys(str(value) for value in frame[column] if known(value)))
    if column == "finished":
        days = sorted({value[:10] for value in values})
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""
    return ", ".join(values)
