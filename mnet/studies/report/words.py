"""The sentences of the report: the question, the answer, and the limits of the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from mnet.errors import counted
from mnet.studies.report.data import StudyData
from mnet.studies.report.tables import VERDICT_WORDS, distinct
from mnet.studies.results.archive import is_known
from mnet.studies.results.table_view import Row, format_interval, format_number, rows_of
from mnet.studies.runs.store import RUNS

SPELLED_OUT = 4
"""Up to this many decided comparisons are listed one by one; more are only counted."""


def parts_of(description: str, name: str) -> tuple[str, list[str], str]:
    """The question, the other paragraphs, and the command in the description of a sweep file."""
    lines = [line.strip() for line in description.strip().splitlines()]
    commands = (line.partition(":")[2].strip() for line in lines if line.startswith("Command:"))
    command = next(commands, f"make ablate-{name}")
    prose = " ".join(line for line in lines if not line.startswith("Command:")).replace(" Cost: ", "\nCost: ")
    question, mark, rest = prose.partition("?")
    if not mark:
        return name, prose.splitlines(), command
    return f"{question}?", [part.strip() for part in rest.splitlines() if part.strip()], command


def answer(summary: pd.DataFrame | None, effects: pd.DataFrame | None) -> str:
    """How many comparisons of a study are decided, and how: those within each network if there are any, else those with
    the baseline."""
    if effects is not None and not effects.empty:
        rows = rows_of(effects)
        names = [f"{row['variant']}, {row['value']} against {row['against']}" for row in rows]
        kind = "comparisons of precisions within a network"
    elif summary is not None and summary["delta"].notna().any():
        rows = rows_of(summary[summary["delta"].notna()])
        names = [str(row["cell"]) for row in rows]
        kind = f"comparisons with “{summary['cell'].iloc[0]}”"
    else:
        return ""
    seeds = "/".join(sorted({f"{row['n']:.0f}" for row in rows}))
    decided = [(name, row) for name, row in zip(names, rows, strict=True) if row["verdict"] in ("up", "down", "flat")]
    if not decided:
        return f"Open: {seeds} seeds decide none of {len(rows)} {kind}. Small effects need more seeds."
    results = [f"“{name}” {_difference(row)}, {VERDICT_WORDS[row['verdict']]}" for name, row in decided]
    if len(results) > SPELLED_OUT:
        counts = Counter(VERDICT_WORDS[row["verdict"]] for _, row in decided)
        results = [f"{count} {word}" for word, count in counts.items()]
    return f"Decided with {seeds} seeds: {len(decided)} of {len(rows)} {kind}: {'; '.join(results)}."


def _difference(row: Row) -> str:
    return f"{format_number(row['delta'], sign=True)} points {format_interval(row['low'], row['high'], sign=True)}"


def sources(data: StudyData) -> str:
    """Which tables were measured in this folder and which were published with the project."""
    if not data.published:
        return "All tables were measured in this folder."
    return f"Published with the project, not measured in this folder: {', '.join(data.published)}."


def limits(studies: Sequence[StudyData]) -> list[str]:
    """What these results do not show."""
    runs = pd.concat([data.runs for data in studies if data.runs is not None] or [pd.DataFrame()], ignore_index=True)
    sentences = []
    if not runs.empty:
        sizes = sorted({int(size) for size in runs["resolution"].dropna()})
        pixels = f" at {sizes[0]} px" if len(sizes) == 1 else f" at {sizes[0]} to {sizes[-1]} px" if sizes else ""
        epochs = " or ".join(map(str, sorted({int(value) for value in runs["epochs"].dropna() if value > 0})))
        counts = runs.groupby(["study", "cell"])["seed"].nunique()
        seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        sentences = [
            f"The data are {distinct(runs, 'dataset')}{pixels}, not ImageNet at 224 px. The images are easier, and "
            "networks differ less on them, so effects differ in size from the papers’.",
            f"Training lasts {epochs} epochs; the papers train to convergence. How fast a network learns matters "
            "as much as how good it is in the end.",
            f"Each cell has {seeds} seeds. The intervals are wide, and “undecided” means that the question is open, "
            "not that there is no difference.",
            "Several studies use narrower or smaller networks than the papers; see the settings of each run. All cells "
            "of a study share one recipe, except for the settings in their names. No cell was tuned separately.",
        ]
    if any(data.latency is not None for data in studies):
        devices = sorted({distinct(data.latency, "device") for data in studies if data.latency is not None})
        sentences.append(
            f"Latencies were measured on {', '.join(devices)}, not on a phone. Ratios between networks carry over in "
            "part, milliseconds do not. Timed networks have random weights."
        )
    sentences.append("Counts of parameters and multiply-adds are exact. They leave out memory traffic and activations.")
    return sentences


def facts(studies: Sequence[StudyData]) -> list[str]:
    """How many studies and runs the page shows, and when they were trained."""
    tables = [data.runs for data in studies if data.runs is not None]
    runs = len(set(pd.concat(tables)["run_id"])) if tables else 0
    days = sorted(
        {str(day)[:10] for table in tables if "finished" in table for day in table["finished"] if is_known(day)}
    )
    published = sum(RUNS in data.published for data in studies)
    parts = [counted(len(studies), "study", "studies")]
    parts += [f"{published} published with the project"] if published else []
    parts += [counted(runs, "different run")] if runs else []
    return parts + ([f"trained {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else "")] if days else [])
