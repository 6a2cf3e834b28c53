"""The papers' claims: their numbers next to our estimates and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import pandas as pd

from mnet.studies.claims.evidence import headlines
from mnet.studies.report.charts.colours import TEXT, VERDICTS
from mnet.studies.report.charts.marks import DESCRIBED, beside, data, ends, finish, line_at, series, vertical, x_axis
from mnet.studies.results.table_view import Row, format_interval, is_number, rows_of

ROW = 27
"""Height of a row in pixels."""
PAPER = "the paper's number"
BAR = "M-0.2,-1.3h0.4v2.6h-0.4z"
"""The shape of the mark for the paper's number, as an SVG path."""


OURS = "marks and lines: ours, with 95% interval"


class Topic(NamedTuple):
    """What is compared, and the ids of the claims about its accuracy and its latency."""

    name: str
    accuracy: str | None = None
    latency: str | None = None


TOPICS = (
    Topic("V1: separable against full convolutions", "v1-separable-accuracy"),
    Topic("V1: width 0.5 against 1", "v1-width-050"),
    Topic("V2: linear bottleneck against ReLU6", "v2-linear-bottleneck"),
    Topic("V2: shortcut against none", "v2-shortcut-none"),
    Topic("V2 against V1", "v2-vs-v1-accuracy", "v2-vs-v1-latency"),
    Topic("V3-Large against V2", "v3-large-vs-v2-accuracy", "v3-large-vs-v2-latency"),
    Topic("V3: squeeze-and-excite against none", "v3-se-accuracy", "v3-se-latency"),
    Topic("V3: ReLU against h-swish", "v3-relu-accuracy", "v3-relu-latency"),
    Topic("V3: 16 filters in the stem against 32", "v3-stem-accuracy", "v3-stem-latency"),
    Topic("V3: streamlined against full last stage", "v3-last-stage-accuracy", "v3-last-stage-latency"),
    Topic("V3: minimalistic against V3-Large", "v3-minimalistic-accuracy", "v3-minimalistic-latency"),
    Topic("V3-Large: int8 against float", "v3-int8-large", "v3-int8-large-latency"),
    Topic("V4-Conv-S against V2 (time in int8)", "v4-s-vs-v2-accuracy", "v4-s-vs-v2-latency"),
    Topic("NetAdapt against uniform width", "v3-netadapt"),
)
"""The comparisons that people ask about most."""


def claims_forest(claims: pd.DataFrame, topics: Sequence[Topic] = TOPICS) -> alt.ConcatChart:
    """One row per topic, the claim about accuracy on the left, about latency on the right: our estimate with its 95%
    interval, coloured by verdict, and the paper's number as a bar.

    Args:
        claims: Rows of `claims.csv`; the first row of an id is its headline.
        topics: The topics of the rows. A claim that we have not estimated is left out.
    """
    headline_of = {str(row["id"]): row for row in rows_of(headlines(claims))}
    styles = {**VERDICTS, PAPER: (TEXT, BAR)}
    styles = {name: style for name, style in styles.items() if name != "not tested here"}
    left = [headline_of.get(topic.accuracy or "") for topic in topics]
    right = [headline_of.get(topic.latency or "") for topic in topics]
    names = [topic.name for topic in topics]
    panels = [
        _panel(
            left, names, styles, ["accuracy: difference in points, better to the right", OURS], reference=0, legend=True
        ),
        _panel(right, (), styles, ["latency: ratio on a log scale, faster to the left", OURS], reference=1),
    ]
    return beside(panels)


def _panel(
    claims: Sequence[Row | None],
    names: Sequence[str],
    styles: dict[str, tuple[str, str]],
    x_title: list[str],
    *,
    reference: float,
    legend: bool = False,
) -> alt.LayerChart:
    height = ROW * len(claims)
    estimates, printed = [], []
    for i, row in enumerate(claims):
        if row is None or not is_number(row["ours"]):
            continue
        y = ROW * i + ROW / 2
        text = f"{row['statement']}: {row['verdict']}\nours {row['ours']:.3g} "
        text += format_interval(row["low"], row["high"], 3)
        estimate = {"x": row["ours"], **ends(row["ours"], row["low"], row["high"]), "y": y, "text": text}
        estimates.append({**estimate, "series": str(row["verdict"])})
        if is_number(row["paper_value"]):
            text = f"{row['statement']}: {row['paper_value']:.3g}"
            printed.append({"x": row["paper_value"], "y": y, "text": text, "series": PAPER})
    x = x_axis(x_title, [*estimates, *printed], through=reference, log=reference == 1)
    rows = vertical(height)
    lines = [{"y": ROW * i} for i in range(len(claims) + 1)]
    labels = [{"y": ROW * i + ROW / 2, "label": name} for i, name in enumerate(names)]
    side = alt.Chart(data(labels)).mark_text(align="right", baseline="middle", dx=-10, clip=False, aria=False)
    colours = series(styles, legend=legend, shape=False)
    layers = [
        alt.Chart(data(lines)).mark_rule(strokeOpacity=0.12, color=TEXT, aria=False).encode(y=rows),
        line_at(reference, x),
        alt.Chart(data(estimates))
        .mark_rule(strokeWidth=2, aria=False)
        .encode(x=alt.X("low:Q"), x2="high:Q", y=rows, **colours),
        alt.Chart(data([*printed, *estimates]))
        .mark_point(filled=True, size=65, opacity=1)
        .encode(x=x, y=rows, **series(styles, legend=legend), **DESCRIBED),
        side.encode(x=alt.value(0), y=rows, text="label:N"),
    ]
    return finish("", layers, height, width=310)
