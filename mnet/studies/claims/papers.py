"""The networks that the papers publish, next to what we count, train and time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mnet.errors import ConfigError, text, unknown
from mnet.models.cost import cost
from mnet.models.toggles import Toggles, describe
from mnet.settings import hints
from mnet.studies.results.archive import study_table
from mnet.studies.runs.store import LATENCY, SUMMARY
from mnet.studies.sources import Source, read_source

SIZE = ("width", "resolution", "madds_millions", "params_millions", "top1")
TABLES = {
    "slim_v1": ("mobilenet_v1", (*SIZE, "top5", "int8_top1")),
    "slim_v2": ("mobilenet_v2", (*SIZE, "top5", "pixel1_ms")),
    "v3_table9": (None, ("model", "resolution", "width", "top1", "madds_millions", "params_millions", "pixel1_ms")),
    "v4_table6": (None, ("model", *SIZE)),
}
"""Table below `published` in claims.yaml -> the model of all its rows, and its columns."""

DETECTORS = "v3_table6"
COLUMNS = ("source", "model", "width", "resolution", "top1", "madds_millions", "params_millions", "pixel1_ms")
OWN_RESOLUTION = 224
"""Image size of the papers in pixels, unless they vary it."""


def published_points(claims: Path) -> pd.DataFrame:
    """Every network whose cost and ImageNet accuracy the papers or their authors' pages print.

    Args:
        claims: experiments/claims.yaml.

    Returns:
        `COLUMNS`, a row per network: `top1` in percent on ImageNet, `pixel1_ms` on one big core of a Pixel 1; nan if
        nothing is printed.

    Raises:
        ConfigError: A table is missing, or a row has the wrong length.
    """
    source = read_source(claims)
    rows: list[dict[str, object]] = []
    for name, (model, columns) in TABLES.items():
        for i, values in enumerate(_published_table(source, name)):
            if len(values) != len(columns):
                raise source.error(("published", name, i), f"a row of {name} has {len(columns)} values: {columns}")
            row = dict(zip(columns, values, strict=True))
            rows.append({"source": name, **row, "model": model or f"mobilenet_{name[:2]}_{row['model']}"})
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _published_table(source: Source, name: str) -> list[list[Any]]:
    """A table below `published`, one list per network.

    Raises:
        ConfigError: There is no such table.
    """
    tables = source.content.get("published") if isinstance(source.content, dict) else None
    if not isinstance(tables, dict) or not isinstance(tables.get(name), list):
        raise source.error((), f"no table {name} under published")
    return tables[name]


def published_detectors(claims: Path) -> pd.DataFrame:
    """SSDLite on the papers' networks: cost and mAP on COCO. Source: V3, table 6.

    Args:
        claims: experiments/claims.yaml.

    Returns:
        `COLUMNS` with `map`, in percent, instead of `top1`; and `reduced_tail`.

    Raises:
        ConfigError: The table is missing, or names a network that is not in the family.
    """
    source = read_source(claims)
    rows: list[dict[str, object]] = []
    for i, (name, mean_ap, ms, params, madds) in enumerate(_published_table(source, DETECTORS)):
        match = re.fullmatch(r"(v\d(?:_large|_small)?)(_reduced_tail)?(?:_([\d.]+))?", name)
        if match is None:
            raise source.error(("published", DETECTORS, i), f"{name!r} is not a network of the family")
        row = {"source": DETECTORS, "model": f"mobilenet_{match[1]}", "width": float(match[3] or 1), "resolution": 320}
        row |= {"reduced_tail": bool(match[2]), "map": mean_ap, "madds_millions": 1000 * madds}
        rows.append({**row, "params_millions": params, "pixel1_ms": ms})
    return pd.DataFrame(rows)


def compare_counts(points: pd.DataFrame) -> pd.DataFrame:
    """Counted multiply-adds and parameters next to the printed ones.

    Args:
        points: From `published_points`.

    Returns:
        A row per network: `source, model, width, resolution`; multiply-adds and parameters in millions as printed and
        as counted, and the error of the counted ones in percent.
    """
    rows = []
    for _, row in points.iterrows():
        network_cost = cost(describe(row["model"], width=float(row["width"])), int(row["resolution"]))
        counts: dict[str, object] = {name: row[name] for name in ("source", "model", "width", "resolution")}
        for name, counted in (("MAdds", network_cost.madds / 1e6), ("params", network_cost.params / 1e6)):
            printed = row[f"{name.lower()}_millions"]
            counts |= {f"{name} M": printed, f"{name} counted": round(counted, 2)}
            counts[f"{name} off %"] = round(100 * (counted / printed - 1), 1) + 0.0  # not -0.0
        rows.append(counts)
    return pd.DataFrame(rows)


def trained_points(root: Path, studies: Iterable[str]) -> pd.DataFrame:
    """The trained cells of studies: a row per cell, `study, cell, model, n, top1, half_width, madds_millions`.

    Args:
        root: The results folder.
        studies: Names of classification studies; data and recipe may differ between them.

    Raises:
        ConfigError: A study has no tables.
    """
    frames = []
    for study in studies:
        summary, runs = study_table(root, study, SUMMARY), study_table(root, study)
        models = runs.drop_duplicates("cell").set_index("cell")["model"]
        cells = summary[summary["n"] > 0]
        titles = {"top1_mean": "top1", "top1_half_width": "half_width"}
        cells = cells.assign(model=cells["cell"].map(models), madds_millions=cells["madds"] / 1e6)
        columns = ["study", "cell", "model", "n", "top1", "half_width", "madds_millions"]
        frames.append(cells.rename(columns=titles)[columns])
    if not frames:
        raise ConfigError("no study given; name at least one")
    return pd.concat(frames, ignore_index=True)


def timed_points(points: pd.DataFrame, root: Path, studies: Iterable[str], runtime: str) -> pd.DataFrame:
    """The published networks that we also timed on one runtime.

    Args:
        points: From `published_points`.
        root: The results folder.
        studies: Names of studies with latencies of networks as published.
        runtime: One of `mnet.latency.RUNTIMES`.

    Returns:
        The `points` of those networks with `ms`, the median latency, all on the machine that timed most of them:
        milliseconds of two machines cannot be compared.

    Raises:
        ConfigError: A study has no latencies, or none on this runtime.
    """
    kept = [name for name in hints(Toggles) if name != "width"]
    frames = []
    for study in studies:
        table = study_table(root, study, LATENCY)
        if runtime not in set(table["runtime"]):
            raise unknown(f"runtime in {LATENCY} of {study}", runtime, table["runtime"].unique())
        toggles = table[[name for name in kept if name in table]].fillna(text(None))  # older rows lack some
        as_published = (toggles == text(None)).all(axis=1)
        plain = as_published & (table["precision"] == "fp32") & (table["runtime"] == runtime)
        rows = table[plain & (table["threads"] == 1) & (table["batch"] == 1)]
        widths = rows["width"].replace(text(None), "1").astype(float)
        frames.append(rows.assign(width=widths)[["model", "width", "resolution", "median_ms", "device"]])
    timed = pd.concat(frames).dropna().drop_duplicates(["model", "width", "resolution", "device"])
    timed = timed[timed["device"].isin(timed["device"].mode().head(1))].drop(columns="device")
    return points.merge(timed.rename(columns={"median_ms": "ms"}), on=["model", "width", "resolution"])
