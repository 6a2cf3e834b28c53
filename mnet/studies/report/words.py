"""The sentences of the report: what was asked, what came out, and what it cannot say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from mnet.studies.report.data import StudyData
from mnet.studies.report.tables import VERDICT_WORDS, distinct
from mnet.studies.results.archive import is_known
from mnet.studies.results.table_view import Row, format_interval, format_number, rows_of
from mnet.studies.runs.store import RUNS

SPELLED_OUT = 4
"""Decided comparisons, at most, that are named one by one."""


def parts_of(description: str, name: str) -> tuple[str, list[str], str]:
    """The question, what else a sweep file says, and the command that answers it."""
    lines = [line.strip() for line in description.strip().splitlines()]
    said = (line.partition(":")[2].strip() for line in lines if line.startswith("Command:"))
    command = next(said, f"make ablate-{name}")
    prose = " ".join(line for line in lines if not line.startswith("Command:")).replace(" Cost: ", "\nCost: ")
    question, mark, rest = prose.partition("?")
    if not mark:
        return name, prose.splitlines(), command
    return f"{question}?", [part.strip() for part in rest.splitlines() if part.strip()], command


def answer(summary: pd.DataFrame | None, effects: pd.DataFrame | None) -> str:
    """How many of a study's comparisons were decided, and how; of its own, within each network, where it has any."""
    if effects is not None and not effects.empty:
        rows = rows_of(effects)
        names = [f"{row['variant']}, {row['value']} against {row['against']}" for row in rows]
        what = "comparisons of precisions within a network"
    elif summary is not None and summary["delta"].notna().any():
        rows = rows_of(summary[summary["delta"].notna()])
        names = [str(row["cell"]) for row in rows]
        what = f"comparisons with “{summary['cell'].iloc[0]}”"
    else:
        return ""
    seeds = "/".join(sorted({f"{row['n']:.0f}" for row in rows}))
    decided = [(name, row) for name, row in zip(names, rows, strict=True) if row["verdict"] in ("up", "down", "flat")]
    if not decided:
        return f"Open: with {seeds} seeds none of {len(rows)} {what} is decided; small effects cannot be seen yet."
    said = [f"“{name}” {change(row)}, {VERDICT_WORDS[row['verdict']]}" for name, row in decided]
    if len(said) > SPELLED_OUT:
        found = Counter(VERDICT_WORDS[row["verdict"]] for _, row in decided)
        said = [f"{count} {word}" for word, count in found.items()]
    return f"Decided with {seeds} seeds: {len(decided)} of {len(rows)} {what}: {'; '.join(said)}."


def change(row: Row) -> str:
    return f"{format_number(row['delta'], sign=True)} points {format_interval(row['low'], row['high'], sign=True)}"


def sources(data: StudyData) -> str:
    """Which tables are this machine's own and which were published with the project."""
    if not data.published:
        return "All tables were measured in this folder."
    return f"Published with the project, not measured in this folder: {', '.join(data.published)}."


def limits(found: Sequence[StudyData]) -> list[str]:
    """What these numbers cannot say."""
    runs = pd.concat([data.runs for data in found if data.runs is not None] or [pd.DataFrame()], ignore_index=True)
    said = []
    if not runs.empty:
        sizes = sorted({int(size) for size in runs["resolution"].dropna()})
        pixels = f" at {sizes[0]} px" if len(sizes) == 1 else f" at {sizes[0]} to {sizes[-1]} px" if sizes else ""
        epochs = sorted({int(value) for value in runs["epochs"].dropna() if value > 0})
        lasted = " or ".join(map(str, epochs))
        counts = runs.groupby(["study", "cell"])["seed"].nunique()
        seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        said = [
            f"The data are {distinct(runs, 'dataset')}{pixels}, not ImageNet at 224 px: easier images, "
            "on which networks differ less. What the papers report is tested in direction at most.",
            f"Training lasted {lasted} epochs, where the papers train to convergence: which "
            "network learns fast counts as much as which is best in the end.",
            f"Each cell has {seeds} seeds. The intervals are wide, and “inconclusive” means that the question is open, "
            "not that there is no difference.",
            "Several studies use narrower or smaller networks than the papers; the settings of each run say how. What "
            "a study compares is trained by one recipe, but for what cells’ names say; no cell was tuned on its own.",
        ]
    if any(data.latency is not None for data in found):
        devices = sorted({distinct(data.latency, "device") for data in found if data.latency is not None})
        said.append(
            f"Latencies are of {', '.join(devices)}, not of a phone. Ratios between networks carry over in part only; "
            "milliseconds do not carry over at all. Weights of timed networks are drawn, not trained."
        )
    said.append("Counts of parameters and multiply-adds are exact; they leave out memory traffic and activations.")
    return said


def facts(found: Sequence[StudyData]) -> list[str]:
    """What the page is of, in a line."""
    runs = [data.runs for data in found if data.runs is not None]
    different = len(set(pd.concat(runs)["run_id"])) if runs else 0
    days = sorted({str(day)[:10] for one in runs if "finished" in one for day in one["finished"] if is_known(day)})
    published = sum(RUNS in data.published for data in found)
    said = [f"{len(found)} {'study' if len(found) == 1 else 'studies'}"]
    said += [f"{published} published with the project"] if published else []
    said += [f"{different} different runs"] if different else []
    return said + ([f"trained {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else "")] if days else [])
