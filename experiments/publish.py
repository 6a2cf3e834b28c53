"""Publish what studies left: `python experiments/publish.py`: tables and figures to results/published, and from them
the tables of the READMEs, between `<!-- begin NAME -->` and `<!-- end NAME -->`.

With `--profile=longer` to results/published/longer, which claims read too. Without anything new only the READMEs are
written again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from claims import evaluate
from common.markdown import fill_marks, markdown_table
from common.options import HERE, SWEEPS, read_own_options
from search import CHECK

from mnet.errors import ConfigError
from mnet.files import write_atomic, write_csv
from mnet.search.netadapt import FOUND, SEED, SETTINGS
from mnet.studies.claims.evidence import count_verdicts, headlines
from mnet.studies.claims.views import claims_table, latency_claims_table
from mnet.studies.results.archive import known, read_table, study_table
from mnet.studies.results.archive import studies_with as with_table
from mnet.studies.results.diagnosis import deaths_summary
from mnet.studies.results.table_view import (
    Cell,
    Column,
    Table,
    build_table,
    interval_cell,
    join_tables,
    number_column,
    text_column,
)
from mnet.studies.results.views import deaths_table, effects_table, int8_table, summary_table
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
DECIDED = ("up", "down")
ONE_SAMPLE = Cell("one sample")


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

    return fill_marks(text, table)


def claims(root: Path) -> str:
    """Every claim that was tested by training or timing, with its verdict, and a line of counts."""
    evidence = read_table(root / CLAIMS)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(evidence).items())
    heads = headlines(evidence)
    tested = heads[heads["n"].notna()]
    contexts = [on.removeprefix(f"{DATA}, ").partition(" thread")[0].removesuffix(", 1") for on in tested["on"]]
    table = claims_table(tested.assign(on=contexts))
    shown = table.select("statement", "paper", "ours", "95% interval", "verdict", "on")
    return f"{len(heads)} claims: {counts}.\n\n{markdown_table(shown)}"


def summaries(root: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The studies of classification that compare their cells with the first; others compare within their networks."""
    within = with_table(root, EFFECTS)
    for study in with_table(root, SUMMARY):
        table = study_table(root, study, SUMMARY)
        if study not in (*within, *searches(root)) and task_in(table) == TASKS["classification"]:
            yield study, table


def answers(root: Path) -> str:
    """The comparisons of the quick studies that found a difference."""
    tables = []
    for _, summary in summaries(root):
        named = summary.assign(against=summary["cell"].iloc[0])
        table = summary_table(named, more=(text_column("study"), text_column("against")))
        decided = [row for row, verdict in zip(table.records, summary["verdict"], strict=True) if verdict in DECIDED]
        tables.append(replace(table, records=decided))
    return markdown_table(join_tables(tables).select("study", "cell", "against", "difference", "95% interval"))


def comparisons(root: Path) -> str:
    """Every cell of every study."""
    tables = [summary_table(summary, more=[text_column("study")]) for _, summary in summaries(root)]
    titles = ("study", "cell", "n", "top-1 %", "difference", "95% interval", "verdict")
    return markdown_table(join_tables(tables).select(*titles))


def longer(root: Path) -> str:
    return comparisons(root / LONGER)


def found(root: Path) -> str:
    """What searches found, beside the same network scaled by width, and whole."""
    tables = []
    more = (text_column("search"), text_column("network"), number_column("latency", digits=3))
    for study in searches(root):
        summary, check = study_table(root, study, SUMMARY), root / study / CHECK
        ratios = dict(read_table(check)[["variant", "ratio"]].to_numpy()) if check.is_file() else {}
        networks, latencies = [], []
        for cell in summary["cell"].astype(str):
            settings = dict(word.partition("=")[::2] for word in cell.split())
            is_found = settings["model"].endswith(FOUND)
            networks.append("found" if is_found else " ".join(cell.split()[1:]) or "whole")
            latencies.append(ratios.get("found" if is_found else f"width {settings.get('width', '1')}"))
        named = summary.assign(search=study, network=networks, latency=pd.Series(latencies, dtype=float))
        tables.append(summary_table(named, more=more))
    difference = ("difference", "95% interval", "verdict")
    titles = ("search", "network", "n", "top-1 %", *difference, "latency", "params", "MAdds")
    return markdown_table(join_tables(tables).select(*titles))


def dead(root: Path) -> str:
    """Depthwise kernels that died, by how they were trained."""
    table = deaths_table(deaths_summary(study_table(root, "dead-kernels")))
    return short_models(table.select("cell", "n", "top-1 %", "dead %", "difference", "95% interval", "verdict"))


def short_models(table: Table) -> str:
    return markdown_table(table).replace("model=mobilenet_", "")


def cells(root: Path, study: str) -> str:
    """Every cell of a study, with the other metrics of its task and its costs."""
    summary, runs = study_table(root, study, SUMMARY), study_table(root, study)
    measured = [f"{metric.label} %" for metric in task_in(summary).metrics]
    titles = ("cell", "n", *measured, "difference", "95% interval", "verdict", "params", "MAdds")
    return short_models(summary_table(summary, runs).select(*titles))


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
    titles = ("variant", "compared", "difference", "95% interval", "verdict", "beyond the first", "its 95% interval")
    return markdown_table(effects_table(study_table(root, study, EFFECTS)).select(*titles))


def latency(root: Path) -> str:
    """The latency claims on every runtime."""
    return markdown_table(latency_claims_table(read_table(root / CLAIMS)))


def int8(root: Path) -> str:
    """int8 networks against the same in fp32, on every runtime that is quick at it."""
    return markdown_table(int8_table(study_table(root, "quantization", LATENCY)))


BENCH_COLUMNS = (
    *(text_column("what"), text_column("ours"), text_column("theirs"), number_column("ratio", digits=3)),
    Column("95% interval", lambda row: interval_cell(row["low"], row["high"], 3) if known(row["low"]) else ONE_SAMPLE),
    *(text_column("goal"), text_column("verdict")),
)


def bench(root: Path) -> str:
    """What `make bench` measured, misses too."""
    return markdown_table(build_table("Bench", BENCH_COLUMNS, read_table(root / BENCH)))


TABLES: dict[str, Callable[[Path], str]] = {
    function.__name__: function
    for function in (
        claims,
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
