"""The report: everything that studies left behind, in one HTML file that opens without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from mnet.errors import unknown
from mnet.files import write_atomic
from mnet.studies.claims.evidence import count_verdicts
from mnet.studies.claims.views import grouped_claims
from mnet.studies.report import charts, tables
from mnet.studies.report.commands import Place
from mnet.studies.report.marks import Spec
from mnet.studies.report.sections import Figure, overview_of, read_study, section
from mnet.studies.report.words import facts, limits
from mnet.studies.results.archive import studies_with
from mnet.studies.runs.store import LATENCY, SUMMARY

HERE = Path(__file__).parent

GLYPHS = {
    **{"reproduced": "✓", "contradicted": "✗", "inconclusive": "?", "not tested here": "–"},
    **{"up": "↑", "down": "↓", "flat": "="},
}
"""Verdict -> the mark beside its word."""
MINUS = "\u2212"


def write_report(
    path: Path,
    root: Path,
    studies: Mapping[str, str],
    *,
    claims: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
    rule: str = "",
) -> list[str]:
    """Write the report of some studies: one HTML file, whole or absent.

    Args:
        path: Where to write.
        root: The results folder. Its own tables win over the published ones below it, study by study and table by
            table.
        studies: Name -> description, in the order of the page. One without any table is left out.
        claims: Of `evidence.claims_table`: a row a claim and piece of evidence, the headline first.
        published: The papers' networks, of `papers.published_points` and `published_detectors`.
        rule: How a verdict on a claim is reached; paragraphs with an empty line between.

    Returns:
        The studies that are in it.

    Raises:
        ConfigError: None of the studies has a table in `root`, or a table is none of ours.
    """
    found = [data for name in studies if (data := read_study(root, name)) is not None]
    if not found:
        raise unknown(f"study with results in {root}", ", ".join(studies), reported(root))
    points = [] if published is None else charts.paper_points(published)
    place = Place(root)
    sections = [section(data, studies[data.name], points, place) for data in found]
    overview = overview_of(found, points) if len(found) > 1 else None
    figures = [figure for one in sections for figure in one.figures]
    specs, ids = number_charts([*overview[:1], *figures] if overview else figures)
    bundle, script = runtime(), (HERE / "script.js").read_text()
    tested = None if claims is None or claims.empty else claims
    sources = ((f"{one.name}, {name}", frame) for one in found for name, frame in one.frames())
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            title=f"{found[0].name}: report" if len(found) == 1 else "What the choices of the MobileNets buy",
            sections=sections,
            overview=overview and overview[0],
            cells=overview and overview[1],
            papers=tables.papers_table(pd.DataFrame(points)),
            ids=ids,
            claims=None if tested is None else grouped_claims(tested).without_empty_columns(),
            counts={} if tested is None else {verdict: n for verdict, n in count_verdicts(tested).items() if n},
            rule=[part for part in rule.split("\n\n") if part.strip()],
            provenance=tables.provenance_table(sources),
            limits=limits(found),
            facts=facts(found),
            style=Markup((HERE / "style.css").read_text()),  # noqa: S704 - our own files
            bundle=Markup(bundle),  # noqa: S704
            script=Markup(script),  # noqa: S704
            hashes=" ".join(map(content_hash, (bundle, script))),
            specs=Markup(inline_json(specs)),  # noqa: S704 - escaped there
        )
    )
    write_atomic(path, lambda stream: stream.write(page.encode()))
    return [data.name for data in found]


def reported(root: Path) -> list[str]:
    """The studies that a report can be written of."""
    return sorted({*studies_with(root, SUMMARY), *studies_with(root, LATENCY)})


def number_charts(figures: Sequence[Figure]) -> tuple[dict[str, Spec], dict[int, str]]:
    """Id -> specification, and the id of each panel by its identity."""
    panels = [panel for figure in figures for panel in figure.panels]
    ids = {id(panel): f"chart-{i}" for i, panel in enumerate(panels, 1)}
    return {ids[id(panel)]: panel.spec for panel in panels}, ids


@cache
def runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed, for the page itself, in the version that Altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def content_hash(script: str) -> str:
    """Of a script that may run: no other is allowed to."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def inline_json(content: object) -> str:
    """JSON that can stand in a page: no character of it ends the element or a line."""
    written = json.dumps(content, allow_nan=False, separators=(",", ":"), default=plain)
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def plain(value: Any) -> object:
    """A number of numpy as one of Python."""
    return value.item()


def environment() -> jinja2.Environment:
    """Every text is escaped; a name that is missing is an error."""
    loader = jinja2.FileSystemLoader(HERE)
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["ident"] = id
    made.filters["minus"] = lambda text: text.replace("-", MINUS)
    made.globals["verdicts"] = GLYPHS
    made.globals["verdict_words"] = tables.VERDICT_WORDS
    return made
