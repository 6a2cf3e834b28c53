"""The meaning of colours and shapes: the same in every chart, and safe for colour-blind readers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

Style = tuple[str, str]
"""Colour and shape of a mark."""

TEXT = "#1b1c1e"
"""Colour of text and lines. In the report it becomes `currentColor`, in a dark image a light colour."""
GREY = "#8c8c8c"
BLUE, SKY, GREEN, ORANGE, YELLOW, PINK = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7"
"""Okabe and Ito's palette."""
PALETTE = (GREEN, PINK, BLUE, YELLOW, SKY, ORANGE)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")

_VARIANTS = {"paper": TEXT, "relu": BLUE, "relu6": SKY, "hswish": ORANGE, "swish": YELLOW, "true": GREEN, "false": PINK}

RUNTIMES: dict[str, Style] = {
    "litert": (YELLOW, "triangle-down"),
    "executorch": (ORANGE, "cross"),
    "onnxruntime": (SKY, "diamond"),
    "eager": (TEXT, "circle"),
    "compile": (BLUE, "square"),
    "cuda-graphs": (GREEN, "triangle-up"),
    "cuda-eager": (PINK, "circle"),
    "cuda-compile": (PINK, "square"),
}
"""A style for each of `mnet.latency.RUNTIMES`."""
MODELS = {
    "mobilenet_v1": "V1",
    "mobilenet_v2": "V2",
    "mobilenet_v3_large": "V3-Large",
    "mobilenet_v3_small": "V3-Small",
    "mobilenet_v4_conv_small": "V4-S",
    "mobilenet_v4_conv_medium": "V4-M",
    "mobilenet_v4_conv_large": "V4-L",
}
OTHER_NETWORKS = "others"
NETWORKS: dict[str, Style] = {
    "V1": (TEXT, "circle"),
    "V2": (BLUE, "square"),
    "V3-Large": (ORANGE, "triangle-up"),
    "V3-Small": (YELLOW, "diamond"),
    "V4-S": (PINK, "triangle-down"),
    "V4-M": (SKY, "triangle-left"),
    "V4-L": (GREY, "triangle-right"),
    OTHER_NETWORKS: (GREEN, "cross"),
}
VERDICTS: dict[str, Style] = {
    "reproduced": (BLUE, "circle"),
    "weaker": (SKY, "triangle-down"),
    "stronger": (GREEN, "triangle-up"),
    "absent": (YELLOW, "triangle-left"),
    "contradicted": (ORANGE, "diamond"),
    "undecided": (GREY, "square"),
    "not tested here": (GREY, "cross"),
}
COSTS: dict[str, Style] = {
    "latency": (ORANGE, "square"),
    "multiply-adds": (BLUE, "square"),
    "parameters": (YELLOW, "square"),
}
LAYER_KINDS: dict[str, Style] = {
    "stem": (TEXT, "square"),
    "start": ("#8C510A", "square"),
    "expand": (BLUE, "square"),
    "depthwise": (ORANGE, "square"),
    "se": (PINK, "square"),
    "project": (SKY, "square"),
    "full": (GREY, "square"),
    "tail": (GREEN, "square"),
    "hidden": ("#F0E442", "square"),
    "classifier": (YELLOW, "square"),
}
ACTIVATIONS: dict[str, Style] = {
    "relu": ("#9ECAE9", "square"),
    "relu6": ("#C6E2F5", "square"),
    "hswish": ("#F2A66A", "square"),
    "swish": ("#F6CF71", "square"),
}
"""Light enough to write on."""


def colour(variant: str) -> str:
    """The colour of a variant in all charts; if its name contains a model, the colour of that network."""
    model = re.search(r"\bmodel=([^\s,]+)", variant)
    if model and model[1] in MODELS:
        return NETWORKS[MODELS[model[1]]][0]
    return _VARIANTS.get(variant, PALETTE[zlib.crc32(variant.encode()) % len(PALETTE)])


def cell_styles(cells: Iterable[object]) -> dict[str, Style]:
    """The colour of each cell, and a shape to tell apart those that share a colour."""
    names = dict.fromkeys(map(str, cells))
    return {name: (colour(name), SHAPES[i % len(SHAPES)]) for i, name in enumerate(names)}


def enumerated(names: Sequence[str]) -> dict[str, Style]:
    """A colour and a shape for each name, by its position."""
    return {
        name: (PALETTE[i % len(PALETTE)], SHAPES[(i + i // len(PALETTE)) % len(SHAPES)]) for i, name in enumerate(names)
    }
