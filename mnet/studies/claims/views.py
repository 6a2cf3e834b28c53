"""The columns of the table of claims, declared once: for the terminal, the READMEs, the notebooks and the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, unknown
from mnet.latency.runtimes import RUNTIMES
from mnet.studies.claims.claims import SECOND_HAND
from mnet.studies.claims.evidence import headlines
from mnet.studies.results.archive import is_known, read_claims
from mnet.studies.results.table_view import (
    Cell,
    Column,
    Record,
    Row,
    Table,
    build_table,
    format_interval,
    format_number,
    interval_cell,
    interval_column,
    is_number,
    number_cell,
    number_column,
    rows_of,
    text_column,
)
from mnet.studies.runs.store import CLAIMS

UNITS = {
    **{"_points": "points", "map": "mAP", "miou": "mIoU", "_millions": "M", "_billions": "G", "_percent": "%"},
    **{"_ms": "×", "_ratio": "×"},
}
"""End of a metric's name -> its unit. Milliseconds are measured as ratios."""


def unit_of(row: Row) -> str:
    metric = str(row["metric"])
    return next((unit for end, unit in UNITS.items() if metric.endswith(end)), "")


def digits_of(row: Row) -> tuple[int, bool]:
    """Digits after the point of a claim's numbers, and whether they have a sign: differences do."""
    if str(row["metric"]).startswith("latency"):
        return 3, False
    return 2, row["kind"] != "arithmetic" or is_known(row["baseline"])


def amount_column(name: str, title: str) -> Column:
    def cell(row: Row) -> Cell:
        digits, sign = digits_of(row)
        return number_cell(row[name], digits, sign=sign)

    return Column(title, cell)


def printed_column(title: str, digits: int | None = None) -> Column:
    """A column of the papers' numbers, marked if read only in a third party's copy."""
    plain = amount_column("paper_value", title) if digits is None else number_column("paper_value", title, digits)

    def cell(row: Row) -> Cell:
        number = plain.cell(row)
        marked = number.text and str(row["source"]).endswith(SECOND_HAND)
        return replace(number, text=f"{number.text} {SECOND_HAND}") if marked else number

    return Column(title, cell)


def measured_interval(row: Row) -> Cell:
    digits, sign = digits_of(row)
    return interval_cell(row["low"], row["high"], digits, sign=sign)


COLUMNS = (
    *(text_column("statement"), text_column("id", "claim"), text_column("verdict")),
    *(printed_column("paper"), amount_column("ours", "ours"), Column("95% interval", measured_interval)),
    *(Column("unit", lambda row: Cell(unit_of(row)), numeric=False), number_column("n", digits=0)),
    *(text_column("on"), text_column("why"), text_column("kind")),
    Column("source", lambda row: Cell(f"{row['paper']}, {row['source']}"), numeric=False),
)


def claims_table(evidence: pd.DataFrame) -> Table:
    """One record per row of evidence.

    Args:
        evidence: Rows of `evidence.claims_table`.
    """
    return build_table("Claims", COLUMNS, evidence)


def timed_claims_table(rows: pd.DataFrame) -> Table:
    """Rows of `latency-claims.csv`."""
    columns = (
        *(text_column("id", "claim"), text_column("statement"), text_column("runtime")),
        number_column("batch", digits=0),
        *(number_column("paper_value", "paper", 3), number_column("ours", digits=3)),
        *(interval_column("low", "high", digits=3), text_column("verdict")),
    )
    return build_table("Latency claims", columns, rows)


def grouped_claims(evidence: pd.DataFrame) -> Table:
    """One record per claim: its headline with the other evidence below it, and tags for verdict and kind."""

    columns = [column for column in COLUMNS if column.title not in ("claim", "on")]  # `on` is among the details

    def record(row: Row, further: list[Record]) -> Record:
        compared = f"{row['variant']} against {row['baseline']}" if is_known(row["variant"]) else ""
        context = f"on {row['on']}" if is_known(row["on"]) else ""
        details = "; ".join(filter(None, [compared, context]))
        tags = {"verdict": str(row["verdict"]), "kind": str(row["kind"])}
        command = str(row["command"]) if is_known(row["command"]) else ""
        cells = [column.cell(row) for column in columns]
        return Record(cells, [details] if details else [], command, further, tags)

    records = []
    for _, rows in evidence.groupby("id", sort=False):
        first, *rest = rows_of(rows)
        records.append(record(first, [record(row, []) for row in rest]))
    return Table("Claims", {column.title: column.numeric for column in columns}, records)


def latency_claims_table(evidence: pd.DataFrame) -> Table:
    """The latency claims that `make latency-<study>` tests: the paper's ratio, and the measured ones by runtime, at
    batch 1."""
    timed = evidence[
        (evidence["kind"] == "latency") & evidence["command"].str.startswith("make latency") & evidence["on"].notna()
    ]
    timed = timed[~timed["on"].str.contains(", batch ", regex=False)]
    names = timed["on"].str.split().str[0].str.rstrip(",")
    runtimes = [name for name in RUNTIMES if name in set(names)]
    columns = [text_column("claim"), printed_column("paper", 3), *map(text_column, runtimes)]
    rows = []
    for name, group in timed.groupby("id", sort=False):
        by_runtime = dict(zip(names[group.index], rows_of(group), strict=True))
        ratios = {runtime: format_ratio(by_runtime.get(runtime)) for runtime in runtimes}
        rows.append({"claim": name, **group.iloc[0][["paper_value", "source"]], **ratios})
    return build_table("Latency claims", columns, pd.DataFrame(rows))


def format_ratio(row: Row | None) -> str:
    if row is None or not is_number(row["ours"]):
        return "not tested here"
    return f"{format_number(row['ours'], 3)} {format_interval(row['low'], row['high'], 3)} {row['verdict']}"


def claims_of(root: Path, *studies: str, every: bool = False) -> pd.DataFrame:
    """The claims that studies test, as a data frame of strings.

    Args:
        root: The results folder; its own claims.csv, or the published one.
        studies: Names of studies; none = all.
        every: All evidence, such as one row per runtime, instead of the headline of each claim.

    Returns:
        By the claim's id: `statement`, `source`, `paper` (empty if the paper prints no number), `ours`, `95%
        interval`, `n` seeds or rounds, `verdict` and `on`.

    Raises:
        ConfigError: There is no claims.csv, or no claim names a study.
    """
    evidence = read_claims(root)
    if evidence is None:
        raise ConfigError(f"no {CLAIMS} in {root}; `make claims` writes it")
    for study in studies:
        if study not in set(evidence["study"]):
            raise unknown("study with claims", study, sorted(set(evidence["study"])))
    rows = evidence[evidence["study"].isin(studies)] if studies else evidence
    titles = ("claim", "statement", "source", "paper", "ours", "95% interval", "n", "verdict", "on")
    return claims_table(rows if every else headlines(rows)).select(*titles).frame("claim")
