"""The effect of one option within every variant of a study: its values compared, all else equal, seed by seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mnet.errors import text, unknown
from mnet.studies.options import cell_name
from mnet.studies.results.statistics import ROUNDING, holm, t_test, verdict
from mnet.studies.study import Study

ALL = "all"
"""The row of the mean over the variants."""

PAIR = ("variant", "value", "against", "n", "delta", "low", "high", "p")
BEYOND = ("beyond", "beyond_low", "beyond_high")
COLUMNS = ("study", *PAIR, "p_holm", "verdict", *BEYOND, "beyond_p_holm")


def effects_table(study: Study, runs: pd.DataFrame, option: str, margin: float | None = None) -> pd.DataFrame:
    """Each value of an option minus each earlier one, within each variant (the other options), paired by seed.

    Args:
        study: A study that varies `option`.
        runs: From `tables.runs_table`.
        option: One of `study.varied`.
        margin: For `statistics.verdict`.

    Returns:
        One row per variant and pair of values, and one named `ALL`: the mean over the variants, over the seeds that all
        of them have. `delta` is in points of the headline metric, with its 95% t interval; `p_holm` is Holm's over the
        variants of a pair. `beyond` is the delta minus that of the first variant, with its interval, and Holm's p over
        the other variants.

    Raises:
        ConfigError: The study does not vary `option`.
    """
    if option not in study.varied:
        raise unknown("option that the study varies", option, study.varied)
    metric = study.task.headline.name
    by_variant: dict[str, dict[str, pd.Series]] = {}
    for cell in study.cells:
        rest = {name: value for name, value in cell.options.items() if name != option}
        variant = cell_name(rest) if rest else cell.trials[0].model
        by_seed = runs[runs["cell"] == cell.name].set_index("seed")[metric].astype(float)
        by_variant.setdefault(variant, {})[text(cell.options[option])] = by_seed
    values = list(dict.fromkeys(text(cell.options[option]) for cell in study.cells))
    pairs = [(value, against) for against, value in itertools.combinations(values, 2)]
    tables = [_compare(value, against, by_variant, margin) for value, against in pairs]
    return pd.concat(tables, ignore_index=True).assign(study=study.name).reindex(columns=COLUMNS)


def _compare(
    value: str, against: str, by_variant: Mapping[str, Mapping[str, pd.Series]], margin: float | None
) -> pd.DataFrame:
    """The rows of one pair of values.

    Args:
        value: The value that is compared.
        against: The value that it is compared with.
        by_variant: Variant -> value -> headline metric by seed.
        margin: For `statistics.verdict`.
    """
    deltas = {
        variant: (metrics[value] - metrics[against]).dropna()
        for variant, metrics in by_variant.items()
        if value in metrics and against in metrics
    }
    deltas = {variant: delta for variant, delta in deltas.items() if len(delta)}
    first = next(iter(deltas.values()), pd.Series(dtype=float))
    beyond = {variant: (delta - first).dropna() for variant, delta in list(deltas.items())[1:]}
    rows = [
        {"variant": variant, "value": value, "against": against, **_estimate(delta)}
        | {f"beyond_{name}".removesuffix("_delta"): number for name, number in _estimate(beyond.get(variant)).items()}
        for variant, delta in deltas.items()
    ]
    table = pd.DataFrame(rows, columns=[*PAIR, *BEYOND, "beyond_p"])
    table["p_holm"] = holm(table["p"].to_numpy(float))
    table["beyond_p_holm"] = holm(table["beyond_p"].to_numpy(float))
    if len(deltas) > 1:
        mean = _estimate(pd.DataFrame(deltas).dropna().mean(axis=1))
        row = {"variant": ALL, "value": value, "against": against, **mean, "p_holm": mean["p"]}
        table.loc[len(table)] = pd.Series(row)
    intervals = table[["low", "high", "p_holm"]].to_numpy(float)
    table["verdict"] = ["" if math.isnan(low) else verdict(low, high, p, margin) for low, high, p in intervals]
    return table.astype({"n": int})


def _estimate(deltas: pd.Series | None) -> dict[str, float]:
    """n, mean, 95% interval and p of differences by seed; nan where there are none."""
    values = np.array([]) if deltas is None else deltas.to_numpy(float)
    low, high, p = t_test(values, rounding=100 * ROUNDING)  # metrics are percentages
    return {"n": len(values), "delta": values.mean() if len(values) else math.nan, "low": low, "high": high, "p": p}
