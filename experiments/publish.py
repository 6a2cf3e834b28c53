"""Publish what studies left: `python experiments/publish.py`: tables and figures to results/published, and from them
the tables of the READMEs, between `<!-- begin NAME -->` and `<!-- end NAME -->`.

With `--profile=longer` to results/published/longer, which claims read too. Without anything new only the READMEs are
written again.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from claims import evaluate
from common.options import HERE, SWEEPS, read_own_options
from search import CHECK

from mnet.errors import ConfigError
from mnet.files import write_atomic, write_csv
from mnet.search.netadapt import FOUND, SEED, SETTINGS
from mnet.studies.claims.evidence import RUNTIMES, count_verdicts, headlines
from mnet.studies.results.archive import read_table, study_table
from mnet.studies.results.archive import studies_with as with_table
from mnet.studies.results.diagnosis import SAID_OF_DEATHS, deaths_summary
from mnet.studies.results.views import interval, number, shown_claims
from mnet.studies.runs.store import (
    BENCH,
    CANDIDATES,
    CLAIMS,
    DEATHS,
    EFFECTS,
    FRONTIER,
    INSIDE,
    LATENCY,
    LATENCY_CLAIMS,
    PROXY,
    PUBLISHED,
    RUNS,
    SUMMARY,
    TRACE,
)
from mnet.studies.study import list_studies
from mnet.tasks import TASKS, task_in

OF_SEARCHES = (TRACE, CANDIDATES, PROXY, CHECK, SEED, FOUND, SETTINGS)
HOME = Path("results") / PUBLISHED
LARGEST = 300_000
"""Bytes of a published file."""
WHERE = HERE.parent / "results" / PUBLISHED
READMES = (HERE.parent / "README.md", WHERE / "README.md")
LONGER = "longer"
DATA = "fashion_mnist at 28 px"
"""That is not said again in every row."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for."""

    out: str = "results"
    """Folder of the results to publish."""
    profile: str = "quick"
    """That they were trained with; quick or longer."""
    into: str = str(WHERE)
    """Where to."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    try:
        _, options = read_own_options(parser, Options, arguments)
        if options.profile not in ("quick", LONGER):
            raise ConfigError(f"profile must be quick or {LONGER}, not {options.profile!r}")
        into = Path(options.into)
        target = into if options.profile == "quick" else into / LONGER
        for path in copy(Path(options.out), target):
            print(f"  {path}")
        write_csv(into / CLAIMS, evaluate(into))
        for readme in READMES:
            write_atomic(readme, lambda stream, readme=readme: stream.write(fill(readme.read_text(), into).encode()))  # type: ignore[misc]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def copy(root: Path, target: Path) -> Iterator[Path]:
    """Copy the tables and figures of every study in `root`, and what searches have found.

    Raises:
        ConfigError: A file is too large to be published.
    """
    tables = (RUNS, SUMMARY, EFFECTS, LATENCY, FRONTIER, LATENCY_CLAIMS, INSIDE, DEATHS, *OF_SEARCHES)
    for study in [*list_studies(SWEEPS), *searches(root)]:
        more = [path for pattern in ("blocks-*.csv", "*.png") for path in sorted((root / study).glob(pattern))]
        for path in [*(root / study / name for name in (*tables, f"{study}.yaml")), *more]:
            if not path.is_file():
                continue
            if path.stat().st_size > LARGEST:
                raise ConfigError(f"{path} has {path.stat().st_size} bytes, above {LARGEST}")
            (target / study).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / study / path.name)
            if path.suffix != ".png":  # cells are called by the file of the found network
                at_home(target / study / path.name, Path("results") / study / FOUND, HOME / study / FOUND)
            yield target / study / path.name


def searches(root: Path) -> list[str]:
    """Of a results folder, by their names."""
    found = [path for name in (TRACE, CANDIDATES) for path in root.glob(f"*/{name}")]
    return sorted({path.parent.name for path in found})


def at_home(path: Path, before: Path, after: Path) -> None:
    """Name a file by where it is published."""
    content = path.read_text()
    if str(before) in content:
        write_atomic(path, lambda stream: stream.write(content.replace(str(before), str(after)).encode()))


def fill(text: str, root: Path) -> str:
    """A README with its tables as the published results have them.

    Raises:
        ConfigError: It wants a table that there is not.
    """

    def table(name: str) -> str:
        if name not in TABLES:
            raise ConfigError(f"a README wants the table {name!r}; there are {', '.join(TABLES)}")
        return TABLES[name](root)

    return between_marks(text, table)


def between_marks(text: str, table: Callable[[str], str]) -> str:
    """A document with the table of each pair of marks, by name."""
    pattern = r"<!-- begin ([\w-]+) -->.*?<!-- end \1 -->"
    return re.sub(
        pattern,
        lambda found: f"<!-- begin {found[1]} -->\n{table(found[1])}\n<!-- end {found[1]} -->",
        text,
        flags=re.DOTALL,
    )


NUMERIC = {
    "n",
    "here",
    "top-1 %",
    "sd",
    "params",
    "MAdds",
    "paper",
    "points",
    "difference",
    "beyond",
    "95% interval",
    "MB",
}
"""Columns that are set to the right."""


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """A Markdown table; columns of `NUMERIC` and `right` are set to the right."""
    marks = ["--:" if head in NUMERIC or head in right else "---" for head in heads]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, marks, *rows))


def claims(root: Path) -> str:
    """Every claim that was tested by training or timing, with its verdict, and a line of counts."""
    table = read_table(root / CLAIMS)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(table).items())
    heads = headlines(table)
    shown = shown_claims(heads[heads["n"].notna()])
    shown["on"] = [on.removeprefix(f"{DATA}, ").partition(" thread")[0].removesuffix(", 1") for on in shown["on"]]
    rows = shown[["statement", "paper", "ours", "95% interval", "verdict", "on"]].to_numpy().tolist()
    return f"{len(heads)} claims: {counts}.\n\n" + grid(
        ("claim", "paper", "here", "95% interval", "verdict", "on"), rows
    )


def activation(root: Path) -> str:
    """The table that `make ablate-activation` ends with."""
    rows = []
    for _, cell in study_table(root, "activation", SUMMARY).iterrows():
        millions = [f"{cell[name] / 1e6:.{digits}f} M" for name, digits in (("params", 3), ("madds", 2))]
        delta = "baseline" if pd.isna(cell["delta"]) else number(cell["delta"])
        told = [cell["cell"], f"{cell['n']}", f"{cell['top1_mean']:.2f}", f"{cell['top1_sd']:.2f}", delta]
        rows.append([*told, interval(cell["low"], cell["high"]), *millions])
    return grid(("cell", "n", "top-1 %", "sd", "difference to paper", "95% interval", "params", "MAdds"), rows)


def summaries(root: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The studies of classification that compare their cells with the first; others compare within their networks."""
    within = with_table(root, EFFECTS)
    for study in with_table(root, SUMMARY):
        table = study_table(root, study, SUMMARY)
        if study not in (*within, *searches(root)) and task_in(table) == TASKS["classification"]:
            yield study, table


def answers(root: Path) -> str:
    """The comparisons of the quick studies that found a difference."""
    rows = [
        [study, cell["cell"], table["cell"].iloc[0], number(cell["delta"]), interval(cell["low"], cell["high"])]
        for study, table in summaries(root)
        for _, cell in table.iterrows()
        if cell["verdict"] in ("up", "down")
    ]
    return grid(("study", "cell", "against", "difference", "95% interval"), rows)


def comparisons(root: Path) -> str:
    """Every cell of every study."""
    rows = []
    for study, table in summaries(root):
        for _, cell in table.iterrows():
            delta = "baseline" if pd.isna(cell["delta"]) else number(cell["delta"])
            verdict = "" if pd.isna(cell["verdict"]) else cell["verdict"]
            told = [study, cell["cell"], f"{cell['n']}", f"{cell['top1_mean']:.2f}", delta]
            rows.append([*told, interval(cell["low"], cell["high"]), verdict])
    return grid(("study", "cell", "n", "top-1 %", "difference", "95% interval", "verdict"), rows)


def longer(root: Path) -> str:
    return comparisons(root / LONGER)


def found(root: Path) -> str:
    """What searches found, beside the same network scaled by width, and whole."""
    rows = []
    for study in searches(root):
        table, check = study_table(root, study, SUMMARY), root / study / CHECK
        ratios = dict(read_table(check)[["variant", "ratio"]].to_numpy()) if check.is_file() else {}
        for _, cell in table.iterrows():
            settings = dict(word.partition("=")[::2] for word in str(cell["cell"]).split())
            own = " ".join(str(cell["cell"]).split()[1:]) or "whole"
            name = "found" if settings["model"].endswith(FOUND) else own
            key = "found" if name == "found" else f"width {settings.get('width', '1')}"
            delta = "baseline" if pd.isna(cell["delta"]) else number(cell["delta"])
            told = [study, name, f"{cell['n']}", f"{cell['top1_mean']:.2f}", delta, interval(cell["low"], cell["high"])]
            told += ["" if pd.isna(cell["verdict"]) else cell["verdict"], f"{ratios[key]:.3f}" if key in ratios else ""]
            rows.append([*told, f"{cell['params'] / 1e6:.3f} M", f"{cell['madds'] / 1e6:.2f} M"])
    heads = ("search", "network", "n", "top-1 %", "difference", "95% interval", "verdict", "latency", "params", "MAdds")
    return grid(heads, rows, right=("latency",))


def dead(root: Path) -> str:
    """Depthwise kernels that died, by how they were trained."""
    rows = []
    for _, cell in deaths_summary(study_table(root, "dead-kernels")).iterrows():
        told = [cell["cell"].removeprefix("model=mobilenet_"), f"{cell['n']}", f"{cell['top1']:.2f}"]
        delta = "first" if pd.isna(cell["delta"]) else number(cell["delta"])
        said = "" if pd.isna(cell["verdict"]) else SAID_OF_DEATHS[cell["verdict"]]
        rows.append([*told, f"{cell['dead']:.2f}", delta, interval(cell["low"], cell["high"]), said])
    return grid(("cell", "n", "top-1 %", "dead %", "difference", "95% interval", ""), rows, right=("dead %",))


def cells(root: Path, study: str) -> str:
    """Every cell of a study, with the other metrics of its task and its costs."""
    table, runs, rows = study_table(root, study, SUMMARY), study_table(root, study), []
    headline, *others = task_in(table).metrics
    for _, cell in table.iterrows():
        means = runs[runs["cell"] == cell["cell"]][[one.name for one in others]].mean()
        told = [cell["cell"].replace("model=mobilenet_", ""), f"{cell['n']}", f"{cell[headline.mean]:.2f}"]
        told += [f"{mean:.2f}" for mean in means]
        told += ["baseline" if pd.isna(cell["delta"]) else number(cell["delta"]), interval(cell["low"], cell["high"])]
        told += ["" if pd.isna(cell["verdict"]) else cell["verdict"]]
        rows.append([*told, f"{cell['params'] / 1e6:.3f} M", f"{cell['madds'] / 1e6:.2f} M"])
    measured = [f"{one.label} %" for one in (headline, *others)]
    heads = ("cell", "n", *measured, "difference", "95% interval", "verdict", "params", "MAdds")
    return grid(heads, rows, right=measured)


def detection(root: Path) -> str:
    return cells(root, "detection")


def segmentation(root: Path) -> str:
    return cells(root, "segmentation")


def effects(root: Path) -> str:
    """What int8 does within every network."""
    return within_networks(root, "quantization")


def bf16(root: Path) -> str:
    """What training in 16 bits does within every network."""
    return within_networks(root, "precision")


def within_networks(root: Path, study: str) -> str:
    rows = []
    for _, row in study_table(root, study, EFFECTS).iterrows():
        beyond = [number(row["beyond"]), interval(row["beyond_low"], row["beyond_high"])]
        told = [row["variant"], f"{row['value']} - {row['against']}", number(row["delta"])]
        rows.append([*told, interval(row["low"], row["high"]), row["verdict"], *beyond])
    return grid(("network", "difference", "points", "95% interval", "verdict", "beyond", "95% interval"), rows)


def latency(root: Path) -> str:
    """The latency claims on every runtime."""
    table = read_table(root / CLAIMS)
    own = table[(table["kind"] == "latency") & table["command"].str.startswith("make latency") & table["on"].notna()]
    rows = []
    for name, found in own.groupby("id", sort=False):
        paper = found["paper_value"].iloc[0]
        by_runtime = {str(row["on"]).split()[0].rstrip(","): row for _, row in found.iterrows()}
        cells = [ratio(by_runtime.get(runtime)) for runtime in RUNTIMES]
        rows.append([str(name), "" if pd.isna(paper) else f"{paper:.3f}", *cells])
    return grid(("claim", "paper", *RUNTIMES), rows)


def ratio(row: pd.Series | None) -> str:
    if row is None or pd.isna(row["ours"]):
        return "not tested here"
    return f"{row['ours']:.3f} {interval(row['low'], row['high'], 3, '')} {row['verdict']}"


def int8(root: Path) -> str:
    """int8 networks against the same in fp32, on every runtime that is quick at it."""
    rows = []
    for _, row in study_table(root, "quantization", LATENCY).dropna(subset=["to_fp32"]).iterrows():
        if row["runtime"] == "eager":
            continue
        network = str(row["variant"]).replace("precision=int8, ", "").replace(" precision=int8", "")
        told = [network, row["runtime"], f"{row['to_fp32']:.3f}"]
        told += [interval(row["to_fp32_low"], row["to_fp32_high"], 3, ""), f"{row['file_bytes'] / 1e6:.1f}"]
        slow = "" if pd.isna(row["undelegated_ops"]) else row["undelegated_ops"]
        rows.append([*told, f"{row['agreement']:.0%}", slow])
    heads = (
        "network in int8",
        "runtime",
        "ms / ms in fp32",
        "95% interval",
        "MB",
        "agreement",
        "operators that fall back",
    )
    return grid(heads, rows)


def bench(root: Path) -> str:
    """What `make bench` measured, misses too."""
    rows = []
    for _, row in read_table(root / BENCH).iterrows():
        limits = "one sample" if pd.isna(row["low"]) else interval(row["low"], row["high"], 3, "")
        rows.append(
            [row["what"], row["ours"], row["theirs"], f"{row['ratio']:.3f}", limits, row["goal"], row["verdict"]]
        )
    return grid(("what", "ours", "theirs", "ratio", "95% interval", "goal", ""), rows, right=("ratio",))


TABLES: dict[str, Callable[[Path], str]] = {
    function.__name__: function
    for function in (
        claims,
        activation,
        answers,
        comparisons,
        longer,
        effects,
        bf16,
        detection,
        segmentation,
        found,
        dead,
        latency,
        int8,
        bench,
    )
}


if __name__ == "__main__":
    sys.exit(main())
