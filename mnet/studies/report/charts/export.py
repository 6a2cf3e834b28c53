"""A chart as part of a page, or as a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import altair as alt
import vl_convert
from PIL import Image

from mnet.files import write_atomic
from mnet.studies.report.charts.colours import BLUE, GREY, TEXT
from mnet.studies.report.charts.marks import Chart

Spec = dict[str, Any]

COLOURS = 128
"""Colours of a PNG file: a third of the bytes, without a visible difference."""
PAGE = {TEXT: "currentColor"}
"""Colours that the report sets itself."""
DARK = {TEXT: "#e6e4df", BLUE: "#4a9fd8", GREY: "#a3a3a3"}
"""Lighter colours for a dark background."""
SVG_FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
"""Fonts of equal widths, because a browser draws text that was measured when the file was written."""


def page_spec(chart: alt.LayerChart) -> tuple[str, Spec]:
    """The title of a chart and its Vega-Lite specification, as wide as its container and in the page's own colours."""
    spec = _spec(chart, PAGE, background="transparent")
    spec.pop("$schema")  # a URL that the page does not need
    title = spec.pop("title", "")
    fitted = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    return title, {**spec, **fitted, "padding": {"left": 1, "right": 1, "top": 4, "bottom": 4}}


def save_png(chart: Chart, path: Path, *, scale: float = 1.5) -> None:
    """Write a chart as PNG on white, whole or not at all.

    Args:
        chart: A chart from any function of this package.
        path: The file.
        scale: Pixels of the image per pixel of the chart.
    """
    content = vl_convert.vegalite_to_png(_spec(chart), scale=scale)
    image = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    write_atomic(path, lambda stream: image.save(stream, format="png", optimize=True))


def save_svg(chart: Chart, path: Path, *, dark: bool = False) -> None:
    """Write a chart as SVG on a transparent background, whole or not at all.

    Args:
        chart: A chart from any function of this package.
        path: The file.
        dark: Whether it is for a dark page.
    """
    spec = _spec(chart, DARK if dark else {}, background="transparent")
    spec["config"]["font"] = SVG_FONT
    spec["padding"] = {"left": 32, "right": 5, "top": 5, "bottom": 5}  # left: for wider fonts than these
    content = vl_convert.vegalite_to_svg(spec)
    write_atomic(path, lambda stream: stream.write(content.encode() + b"\n"))


def _spec(chart: Chart, colours: Mapping[str, str] = MappingProxyType({}), background: str = "white") -> Spec:
    spec = cast(Spec, _recoloured(chart.to_dict(validate=False), colours))
    spec["config"]["background"] = background
    return spec


def _recoloured(part: object, colours: Mapping[str, str]) -> object:
    """A specification with these colours replaced."""
    if isinstance(part, dict):
        return {name: _recoloured(value, colours) for name, value in part.items()}
    if isinstance(part, list):
        return [_recoloured(value, colours) for value in part]
    return colours.get(part, part) if isinstance(part, str) else part
