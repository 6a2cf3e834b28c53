"""The papers' published networks as points: counted here, drawn beside what was trained and timed here."""

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
}
"""Table below `published` in claims.yaml -> the model that all of it is about, and its columns."""

DETECTORS = "v3_table6"
COLUMNS = ("source", "model", "width", "resolution", "top1", "madds_millions", "params_millions", "pixel1_ms")
OWN_RESOLUTION = 224
"""Of the papers' images, in pixels, unless they vary it."""


def published_points(claims: Path) -> pd.DataFrame:
    """Every network whose cost and ImageNet accuracy the papers or their authors' pages print.

    Args:
        claims: experiments/claims.yaml.

    Returns:
        `COLUMNS`, a row a network: `top1` in percent of ImageNet, `pixel1_ms` on one big core of a Pixel 1; nan where
        none is printed.

    Raises:
        ConfigError: The file has no such tables, or a row of another length.
    """
    source = read_source(claims)
    rows: list[dict[str, object]] = []
    for name, (model, columns) in TABLES.items():
        for i, row in enumerate(published_table(source, name)):
            if len(row) != len(columns):
                raise source.error(("published", name, i), f"a row of {name} has {len(columns)} values: {columns}")
            told = dict(zip(columns, row, strict=True))
            rows.append({"source": name, **told, "model": model or f"mobilenet_v3_{told['model']}"})
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def published_table(source: Source, name: str) -> list[list[Any]]:
    """A table below `published`, a list a network.

    Raises:
        ConfigError: There is none.
    """
    tables = source.content.get("published") if isinstance(source.content, dict) else None
    if not isinstance(tables, dict) or not isinstance(tables.get(name), list):
        raise source.error((), f"no table {name} below published")
    return tables[name]


def published_detectors(claims: Path) -> pd.DataFrame:
    """SSDLite on the papers' networks: cost and COCO's mAP. Source: V3, table 6.

    Args:
        claims: experiments/claims.yaml.

    Returns:
        `COLUMNS` with `map`, in percent, for `top1`; and `reduced_tail`.

    Raises:
        ConfigError: The file has no such table, or a network in it that is none of ours.
    """
    source = read_source(claims)
    rows: list[dict[str, object]] = []
    for i, (name, found, ms, params, madds) in enumerate(published_table(source, DETECTORS)):
        told = re.fullmatch(r"(v\d(?:_large|_small)?)(_reduced_tail)?(?:_([\d.]+))?", name)
        if told is None:
            raise source.error(("published", DETECTORS, i), f"{name!r} is no network of the family")
        row = {"source": DETECTORS, "model": f"mobilenet_{told[1]}", "width": float(told[3] or 1), "resolution": 320}
        row |= {"reduced_tail": bool(told[2]), "map": found, "madds_millions": 1000 * madds}
        rows.append({**row, "params_millions": params, "pixel1_ms": ms})
    return pd.DataFrame(rows)


def counted_beside(points: pd.DataFrame) -> pd.DataFrame:
    """Our counts beside the printed ones.

    Args:
        points: Of `published_points`.

    Returns:
        A row a network: `source, model, width, resolution`; multiply-adds and parameters in millions as printed and
        as counted, and how far the counted ones are off, in percent.
    """
    rows = []
    for _, row in points.iterrows():
        spent = cost(describe(row["model"], width=float(row["width"])), int(row["resolution"]))
        told: dict[str, object] = {name: row[name] for name in ("source", "model", "width", "resolution")}
        for name, ours in (("MAdds", spent.madds / 1e6), ("params", spent.params / 1e6)):
            printed = row[f"{name.lower()}_millions"]
            told |= {f"{name} M": printed, f"{name} counted": round(ours, 2)}
            told[f"{name} off %"] = round(100 * (ours / printed - 1), 1) + 0.0  # not -0.0
        rows.append(told)
    return pd.DataFrame(rows)


def own_points(root: Path, studies: Iterable[str]) -> pd.DataFrame:
    """What was trained here: a row a cell, `study, cell, model, n, top1, half_width, madds_millions`.

    Args:
        root: The results folder.
        studies: Of classification, whose cells; each may have other images and another recipe than the next.

    Raises:
        ConfigError: A study has no tables.
    """
    frames = []
    for study in studies:
        summary, runs = study_table(root, study, SUMMARY), study_table(root, study)
        models = runs.drop_duplicates("cell").set_index("cell")["model"]
        own = summary[summary["n"] > 0]
        named = {"top1_mean": "top1", "top1_half_width": "half_width"}
        own = own.assign(model=own["cell"].map(models), madds_millions=own["madds"] / 1e6).rename(columns=named)
        frames.append(own[["study", "cell", "model", "n", "top1", "half_width", "madds_millions"]])
    if not frames:
        raise ConfigError("no study to draw points of; name one")
    return pd.concat(frames, ignore_index=True)


def timed_points(points: pd.DataFrame, root: Path, studies: Iterable[str], runtime: str) -> pd.DataFrame:
    """The published networks that were timed here too, on one runtime.

    Args:
        points: Of `published_points`.
        root: The results folder.
        studies: With latencies of networks as published.
        runtime: One of `mnet.latency.RUNTIMES`.

    Returns:
        `points` of those networks with `ms`, the median of what this machine took.

    Raises:
        ConfigError: A study has no latencies, or none on this runtime.
    """
    kept = [name for name in hints(Toggles) if name != "width"]
    frames = []
    for study in studies:
        table = study_table(root, study, LATENCY)
        if runtime not in set(table["runtime"]):
            raise unknown(f"runtime in {LATENCY} of {study}", runtime, table["runtime"].unique())
        as_published = (table[[name for name in kept if name in table]] == text(None)).all(axis=1)
        plain = as_published & (table["precision"] == "fp32") & (table["runtime"] == runtime)
        own = table[plain & (table["threads"] == 1) & (table["batch"] == 1)]
        widths = own["width"].replace(text(None), "1").astype(float)
        frames.append(own.assign(width=widths)[["model", "width", "resolution", "median_ms"]])
    timed = pd.concat(frames).dropna().drop_duplicates(["model", "width", "resolution"])
    return points.merge(timed.rename(columns={"median_ms": "ms"}), on=["model", "width", "resolution"])
