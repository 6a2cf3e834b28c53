"""How many claims of each kind have each verdict."""

from __future__ import annotations

import pandas as pd

from mnet.studies.claims.evidence import headlines
from mnet.studies.claims.verdicts import VERDICTS

KINDS = {
    "arithmetic": "counts",
    "latency": "latency",
    "accuracy": "accuracy",
    "detection": "detection",
    "segmentation": "segmentation",
    "quantization": "int8",
    "search": "search",
}
"""Kind of a claim in claims.yaml -> its name in the scoreboard; claims of the study `search` are a separate kind."""


def scoreboard(claims: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of claim, one column per verdict, each claim counted by its headline.

    Args:
        claims: Rows of `claims.csv`; the first row of an id is its headline.

    Returns:
        Counts, indexed by `kind`, with the columns `VERDICTS` and `claims`, their sum.
    """
    heads = headlines(claims)
    kinds = heads["kind"].where(heads["study"] != "search", "search").map(KINDS)
    counts = pd.crosstab(kinds, heads["verdict"]).reindex(index=list(KINDS.values()), columns=list(VERDICTS))
    counts = counts.fillna(0).astype(int).rename_axis(index="kind", columns=None)
    return counts.assign(claims=counts.sum(axis="columns"))
