"""Tables for readers: a network as the papers print it, all toggles, and how each changes the cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args, get_origin

import pandas as pd

from mnet.errors import ConfigError, text, unknown
from mnet.models.cost import cost
from mnet.models.resolved import resolve_blocks
from mnet.models.spec import Network
from mnet.models.toggles import Toggles, describe
from mnet.settings import field_help, hints

SHORT = {"relu": "RE", "relu6": "R6", "hswish": "HS", "swish": "SW"}
"""V3's abbreviations, and two more."""

STUDIED: Mapping[str, tuple[object, ...]] = {
    "head_filters": (128, 256),
    "stem_channels": (16, 32),
    "hswish_from": (16, 80, 112),
    "se_ratio": (0.125, 0.25, 0.5),
    "width": (0.5, 0.75, 1.4),
}
"""Values to show for toggles that take any number: those of the papers and of the studies."""

COSTS: Mapping[str, str] = {
    "params": "parameters",
    "madds": "multiply-adds",
    "peak_activation_bytes": "peak activation memory",
}
"""Field of `Cost` -> its name for readers."""


def rows_table(network: Network, resolution: int = 224) -> pd.DataFrame:
    """A network in the layout of the papers' tables, one row per operator.

    Args:
        network: From `describe`.
        resolution: Height and width of the images, in pixels.

    Returns:
        The columns of V3's tables 1 and 2: `Input` (height², channels), `Operator`, `exp size` (channels of the
        depthwise convolution), `#out`, `SE`, `NL` (RE ReLU, R6 ReLU6, HS h-swish, SW swish) and `s`, the stride.
        `bneck` is a bottleneck with a linear projection, `dw` a depthwise and a pointwise convolution with a
        non-linearity after both; `extra_dw` (start and middle kernel), `convnext`, `ffn` and `fused` are V4's other
        forms of a row; `NBN` is a layer without batch norm.

    Raises:
        ConfigError: `resolution` is below 1.
    """
    if resolution < 1:
        raise ConfigError(f"resolution must be at least 1, not {resolution}")
    rows: list[dict[str, object]] = []
    size, channels = resolution, network.in_channels

    def add(operator: str, out: int, *, stride: int = 1, wide: int = 0, se: bool = False, act: str = "") -> None:
        nonlocal size, channels
        rows.append(
            {
                "Input": f"{size}² × {channels}",
                "Operator": operator,
                "exp size": str(wide or "-"),
                "#out": out,
                "SE": "✓" if se else "-",
                "NL": SHORT.get(act, "-"),
                "s": stride,
            }
        )
        size, channels = (size - 1) // stride + 1, out

    stem = network.stem
    add(f"conv2d, {stem.kernel}x{stem.kernel}", stem.out_channels, stride=stem.stride, act=stem.activation)
    for block in resolve_blocks(network):
        row = block.row
        kind = "bneck" if row.projection is None else "dw"
        kind = row.form if row.form != "ib" else kind if network.separable else "conv2d"
        operator = ", ".join(filter(None, [kind, row.sizes, f"dilated {block.dilation}" * (block.dilation > 1)]))
        add(operator, row.out_channels, stride=block.stride, wide=block.expanded, se=row.se, act=row.activation)
    if network.tail is not None:
        add("conv2d, 1x1", network.tail.out_channels, act=network.tail.activation)
    add(f"pool, {size}x{size}", channels)
    size = 1
    if (hidden := network.hidden) is not None:
        add("conv2d, 1x1" if hidden.norm else "conv2d, 1x1, NBN", hidden.out_features, act=hidden.activation)
    add("conv2d, 1x1, NBN", network.num_classes)
    return pd.DataFrame(rows)


def toggles_table() -> pd.DataFrame:
    """Every toggle in the order of application: `toggle`, its possible `values`, and `what` it does and its source."""
    docs = field_help(Toggles)
    rows = [{"toggle": name, "values": _value_text(name), "what": docs[name]} for name in hints(Toggles)]
    return pd.DataFrame(rows)


def _toggle_type(name: str) -> object:
    """The type of a toggle, without None."""
    (kind,) = (option for option in get_args(hints(Toggles)[name]) if option is not type(None))
    return kind


def _value_text(name: str) -> str:
    kind = _toggle_type(name)
    if get_origin(kind) is Literal:
        return ", ".join(map(text, get_args(kind)))
    return {bool: "true, false", int: "a whole number", float: "a number"}[kind]  # type: ignore[index]


def values_of(name: str) -> tuple[object, ...]:
    """All values of a toggle, or those of `STUDIED` if it takes any number.

    Raises:
        ConfigError: Unknown toggle.
    """
    if name not in hints(Toggles):
        raise unknown("toggle", name, hints(Toggles))
    kind = _toggle_type(name)
    if get_origin(kind) is Literal:
        return get_args(kind)
    return (True, False) if kind is bool else STUDIED.get(name, ())


def toggle_costs(model: str, resolution: int = 224) -> pd.DataFrame:
    """How each value of each toggle, applied alone, changes a model's cost.

    Args:
        model: One of `mnet.list_models()`.
        resolution: Height and width of the images, in pixels.

    Returns:
        One row per toggle and value: `toggle, value`; `params, madds, peak_activation_bytes`: the change in percent,
        nan if the value is refused; `note`: "as in the paper" if the network is the same, or why it is refused.

    Raises:
        ConfigError: Unknown model, or `resolution` is below 1.
    """
    paper = describe(model)
    before = cost(paper, resolution)
    rows: list[dict[str, object]] = []
    for name in hints(Toggles):
        for value in values_of(name):
            try:
                network = describe(model, **{name: value})  # type: ignore[arg-type]
            except ConfigError as error:
                changes, note = dict.fromkeys(COSTS, math.nan), f"refused: {error}"
            else:
                after = cost(network, resolution)
                changes = {field: 100 * (getattr(after, field) / getattr(before, field) - 1) for field in COSTS}
                note = "as in the paper" if network == paper else ""
            rows.append({"toggle": name, "value": text(value), **changes, "note": note})
    return pd.DataFrame(rows)
