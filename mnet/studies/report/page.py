"""The report as one HTML file."""

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

from mnet.errors import ConfigError, path_text, unknown
from mnet.files import write_atomic
from mnet.studies.claims.evidence import count_verdicts
from mnet.studies.claims.views import grouped_claims
from mnet.studies.report import tables
from mnet.studies.report.charts.export import Spec
from mnet.studies.report.charts.papers import paper_points
from mnet.studies.report.commands import ResultsFolder, offered
from mnet.studies.report.data import read_study
from mnet.studies.report.sections import Figure, overview, section
from mnet.studies.report.words import facts, limits
from mnet.studies.results.archive import studies_with
from mnet.studies.runs.store import LATENCY, SUMMARY

HERE = Path(__file__).parent

GLYPHS = {
    **{"reproduced": "✓", "weaker": "≲", "stronger": "≳", "absent": "∅", "contradicted": "✗"},
    **{"undecided": "?", "not tested here": "–"},
    **{"up": "↑", "down": "↓", "flat": "="},
}
"""Verdict -> the mark next to its word."""
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
    """Write the report of some studies: one HTML file, whole or not at all.

    Args:
        path: The file.
        root: The results folder. Its own tables take precedence over the published ones below it, study by study and
            table by table.
        studies: Name -> description, in the order of the page. Studies without any table are left out.
        claims: From `evidence.claims_table`: one row per claim and piece of evidence, the headline first.
        published: The papers' networks, from `papers.published_points` and `published_detectors`.
        rule: How a verdict on a claim is reached; paragraphs separated by empty lines.

    Returns:
        The studies that are in the report.

    Raises:
        ConfigError: No study has a table in `root`, or a table was not written by mnet.
    """
    reported = [data for name in studies if (data := read_study(root, name)) is not None]
    if not studies:
        raise ConfigError(f"no study has results in {path_text(root)}; make ablate-activation trains one")
    if not reported:
        raise unknown(f"study with results in {root}", ", ".join(studies), studies_with_results(root))
    points = [] if published is None else paper_points(published)
    folder = ResultsFolder(root)
    sections = [section(data, studies[data.name], points, folder) for data in reported]
    whole = overview(reported, points) if len(reported) > 1 else None
    figures = [figure for part in sections for figure in part.figures]
    specs, ids = _number_charts([*whole[:1], *figures] if whole else figures)
    bundle, script = _vega(), (HERE / "script.js").read_text()
    judged = None if claims is None or claims.empty else claims
    sources = ((f"{data.name}, {name}", frame) for data in reported for name, frame in data.sources())
    title = f"{reported[0].name}: report" if len(reported) == 1 else "What each design choice of MobileNets buys"
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            sections=sections,
            overview=whole and whole[0],
            cells=whole and whole[1],
            papers=tables.papers_table(pd.DataFrame(points)),
            ids=ids,
            claims=None if judged is None else grouped_claims(judged).without_empty_columns(),
            counts={} if judged is None else {verdict: n for verdict, n in count_verdicts(judged).items() if n},
            rule=[part for part in rule.split("\n\n") if part.strip()],
            provenance=tables.provenance_table(sources),
            limits=limits(reported),
            facts=facts(reported),
            style=Markup((HERE / "style.css").read_text()),  # noqa: S704 - a file of this package
            bundle=Markup(bundle),  # noqa: S704
            script=Markup(script),  # noqa: S704
            hashes=" ".join(map(_content_hash, (bundle, script))),
            specs=Markup(_inline_json(specs)),  # noqa: S704 - escaped there
        )
    )
    write_atomic(path, lambda stream: stream.write(page.encode()))
    return [data.name for data in reported]


def studies_with_results(root: Path) -> list[str]:
    """The studies for which a report can be written."""
    return sorted({*studies_with(root, SUMMARY), *studies_with(root, LATENCY)})


def _number_charts(figures: Sequence[Figure]) -> tuple[dict[str, Spec], dict[int, str]]:
    """Chart id -> specification, and `id(panel)` -> chart id."""
    panels = [panel for figure in figures for panel in figure.panels]
    ids = {id(panel): f"chart-{i}" for i, panel in enumerate(panels, 1)}
    return {ids[id(panel)]: panel.spec for panel in panels}, ids


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, in the version that Altair targets."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _content_hash(script: str) -> str:
    """The hash by which the page's security policy allows a script to run; all others are blocked."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _inline_json(content: object) -> str:
    """JSON for a script element: none of its characters can end the element or a line."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"), default=_python_number)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _python_number(value: Any) -> object:
    """A numpy number as a Python number."""
    return value.item()


def _environment() -> jinja2.Environment:
    """Templates in which all text is escaped and a missing name is an error."""
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["ident"] = id
    environment.filters["offered"] = offered
    environment.filters["minus"] = lambda text: text.replace("-", MINUS)
    environment.globals["verdicts"] = GLYPHS
    environment.globals["verdict_words"] = tables.VERDICT_WORDS
    return environment
