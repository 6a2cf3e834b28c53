"""The tables of a study as a reader wants them: rounded, intervals written out, the papers' numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, unknown
from mnet.studies.claims.evidence import headlines
from mnet.studies.results.archive import find_table, read_claims, study_table
from mnet.studies.runs.store import CLAIMS, EFFECTS, LATENCY, PUBLISHED, RUNS, SUMMARY
from mnet.tasks import metric_of


def reading(root: Path, *studies: str, name: str = RUNS) -> pd.DataFrame:
    """Where the numbers of studies come from: this machine's own, or the published table.

    Args:
        root: The results folder.
        studies: Their names.
        name: Of the table: `RUNS` or `LATENCY`.

    Returns:
        One row a study: `study`, `numbers` (own or published), and what they were taken with.

    Raises:
        ConfigError: A study has no such table.
    """
    return pd.DataFrame([reading_of(root, study, name) for study in studies]).set_index("study")


def reading_of(root: Path, study: str, name: str) -> dict[str, object]:
    table = study_table(root, study, name)
    path = find_table(root, study, name)
    published = path is not None and path.is_relative_to(root / PUBLISHED)
    row: dict[str, object] = {"study": study, "numbers": "published" if published else "own", "rows": len(table)}
    for column in ("model", "dataset", "resolution", "epochs", "seed", "runtime", "threads", "device", "torch"):
        if column in table:
            row[column] = spoken(table[column])
    return row


def spoken(column: pd.Series) -> str:
    """The different values of a column, in order; numbers that follow each other as a range."""
    values = list(dict.fromkeys(column.dropna()))
    counted = len(values) > 2 and pd.api.types.is_integer_dtype(column)
    if counted and values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def summary_of(root: Path, study: str) -> pd.DataFrame:
    """A study's cells, the baseline first.

    Args:
        root: The results folder.
        study: Its name.

    Returns:
        By cell: `n` seeds, `top-1 %` (or what else the task compares) with half its 95% t interval, `difference` to the
        first in points, paired by seed, its `95% interval`, the `verdict` after Holm's correction, the size that a
        difference has `at most`, the `seeds` that an interval of half the margin takes, `params` and `MAdds` in
        millions.

    Raises:
        ConfigError: There is no such study.
    """
    table = study_table(root, study, SUMMARY)
    metric = metric_of(table)
    shown = {
        "n": table["n"],
        f"{metric.label} %": [
            spread(mean, half) for mean, half in zip(table[metric.mean], table[metric.half_width], strict=True)
        ],
        "difference": ["baseline", *(number(value) for value in table["delta"].iloc[1:])],
        "95% interval": [interval(low, high) for low, high in zip(table["low"], table["high"], strict=True)],
        "verdict": table["verdict"].fillna(""),
        "at most": [number(value, sign="") for value in table["at_most"]],
        "seeds": [number(value, sign="", digits=0) for value in table["seeds_needed"]],
        "params M": (table["params"] / 1e6).round(3),
        "MAdds M": (table["madds"] / 1e6).round(2),
    }
    return pd.DataFrame(shown).set_axis(pd.Index(table["cell"], name="cell"))


def effects_of(root: Path, study: str, value: str, against: str) -> pd.DataFrame:
    """What one value of an option does against another, within every variant.

    Args:
        root: The results folder.
        study: One that has `EFFECTS`.
        value, against: Of the option, as `int8` and `fp32`.

    Returns:
        By variant: `n`, `difference` in points with its `95% interval` and `verdict`; `beyond the first` is the
        difference less that of the first variant, with its interval.

    Raises:
        ConfigError: There is no such study, or no such pair of values.
    """
    table = study_table(root, study, EFFECTS)
    own = table[(table["value"] == value) & (table["against"] == against)]
    if own.empty:
        pairs = table[["value", "against"]].drop_duplicates().itertuples(index=False)
        raise unknown("pair of values", f"{value} - {against}", [f"{one} - {other}" for one, other in pairs])
    shown = {
        "n": own["n"],
        "difference": [number(one) for one in own["delta"]],
        "95% interval": [interval(low, high) for low, high in zip(own["low"], own["high"], strict=True)],
        "verdict": own["verdict"].fillna(""),
        "beyond the first": [number(one) for one in own["beyond"]],
        "its 95% interval": [
            interval(low, high) for low, high in zip(own["beyond_low"], own["beyond_high"], strict=True)
        ],
    }
    return pd.DataFrame(shown).set_axis(pd.Index(own["variant"], name="variant"))


def latency_of(root: Path, study: str, *, precision: str | None = None) -> pd.DataFrame:
    """The latency of a study's networks as ratios to the first, a column a runtime.

    Args:
        root: The results folder.
        study: One that has `LATENCY`.
        precision: Only networks in it, each as a ratio to itself in fp32.

    Returns:
        By variant: `ratio [95% interval]` for each runtime, or why there is none.

    Raises:
        ConfigError: There is no such study, or nothing of this precision in it.
    """
    table = study_table(root, study, LATENCY)
    names = ("ratio", "low", "high")
    if precision is not None:
        table, names = table[table["precision"] == precision], ("to_fp32", "to_fp32_low", "to_fp32_high")
        table = table[table["to_fp32"].notna()]
        if table.empty:
            raise ConfigError(f"nothing in {precision} was timed beside fp32 for {study}")
    table = table.assign(variant=table["variant"].astype(str), told=[ratio(row, names) for _, row in table.iterrows()])
    order = list(dict.fromkeys(table["variant"])), list(dict.fromkeys(table["runtime"]))
    wide = table.pivot_table(index="variant", columns="runtime", values="told", aggfunc="first")
    return wide.reindex(index=order[0], columns=order[1]).fillna("").rename_axis(columns=None)


def ratio(row: pd.Series, names: Sequence[str]) -> str:
    value, low, high = (row[name] for name in names)
    if pd.isna(value):
        return str(row["stopped"])
    return f"{value:.3f}" if low == high else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def claims_of(root: Path, *studies: str, every: bool = False) -> pd.DataFrame:
    """What the papers claim that studies test, beside what was measured.

    Args:
        root: The results folder; its own claims.csv, or the published one.
        studies: Their names; none = all.
        every: Every piece of evidence, as one a runtime, instead of the first of each claim.

    Returns:
        By claim: its `statement` and `source`; `paper` and `ours`, in points, ratios or millions, with our `95%
        interval` and `n` of seeds or rounds; the `verdict`, and what it was tested `on`. `paper` is empty where the
        paper prints no number.

    Raises:
        ConfigError: There is no claims.csv, or no claim names a study.
    """
    table = read_claims(root)
    if table is None:
        raise ConfigError(f"no {CLAIMS} in {root}; `make claims` writes it")
    for study in studies:
        if study not in set(table["study"]):
            raise unknown("study with claims", study, sorted(set(table["study"])))
    own = table[table["study"].isin(studies)] if studies else table
    return shown_claims(own if every else headlines(own))


def shown_claims(own: pd.DataFrame) -> pd.DataFrame:
    """Rows of `evidence.claims_table` as `claims_of` shows them."""
    ratios = own["metric"].str.startswith("latency")
    alone = (own["kind"] == "arithmetic") & own["baseline"].isna()  # one network's number, no difference
    digits = [(3, "") if one else (2, "" if single else "+") for one, single in zip(ratios, alone, strict=True)]
    shown = {
        "statement": own["statement"],
        "source": own["paper"] + ", " + own["source"],
        "paper": [number(one, digits=n, sign=sign) for one, (n, sign) in zip(own["paper_value"], digits, strict=True)],
        "ours": [number(one, digits=n, sign=sign) for one, (n, sign) in zip(own["ours"], digits, strict=True)],
        "95% interval": [
            interval(low, high, digits=n, sign=sign)
            for low, high, (n, sign) in zip(own["low"], own["high"], digits, strict=True)
        ],
        "n": [number(one, digits=0, sign="") for one in own["n"]],
        "verdict": own["verdict"],
        "on": own["on"].fillna(""),
    }
    return pd.DataFrame(shown).set_axis(pd.Index(own["id"], name="claim"))


def number(value: float, digits: int = 2, sign: str = "+") -> str:
    """A number as it is read; nothing where there is none."""
    return "" if pd.isna(value) else f"{value:{sign}.{digits}f}"


def interval(low: float, high: float, digits: int = 2, sign: str = "+") -> str:
    return "" if pd.isna(low) or pd.isna(high) else f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def spread(mean: float, half: float) -> str:
    """A mean with half its interval; without one (a single seed) the mean alone."""
    return number(mean, sign="") + ("" if pd.isna(half) else f" ± {half:.2f}")
