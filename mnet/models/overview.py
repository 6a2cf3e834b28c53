"""The family to look at: a network as the papers print their tables, where its cost lies, what each toggle changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from mnet.errors import ConfigError, text, unknown
from mnet.figures import finish
from mnet.models.cost import Cost, cost
from mnet.models.parts import part_name
from mnet.models.spec import Network, resolve_blocks
from mnet.models.toggles import Toggles, describe
from mnet.settings import field_help, hints

SHORT = {"relu": "RE", "relu6": "R6", "hswish": "HS", "swish": "SW"}
"""V3's own abbreviations, and two more."""

STUDIED: Mapping[str, tuple[object, ...]] = {
    "head_filters": (128, 256),
    "stem_channels": (16, 32),
    "hswish_from": (16, 80, 112),
    "se_ratio": (0.125, 0.25, 0.5),
    "width": (0.5, 0.75, 1.4),
}
"""Values that are tried of toggles that take any number: those of the papers and of our studies."""

COSTS: Mapping[str, str] = {
    "params": "parameters",
    "madds": "multiply-adds",
    "peak_activation_bytes": "peak activation memory",
}
"""Field of `Cost` -> what a reader is told."""

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INKS = ("#000000", ORANGE, BLUE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
# Okabe and Ito's palette, as everywhere; light enough to write on where a colour fills a square.
KINDS = {
    "stem": "#000000",
    "expand": "#0072B2",
    "depthwise": "#D55E00",
    "se": "#CC79A7",
    "project": "#56B4E9",
    "full": "#999999",
    "tail": "#009E73",
    "hidden": "#F0E442",
    "classifier": "#E69F00",
}
FILLS = {"relu": "#9ECAE9", "relu6": "#C6E2F5", "hswish": "#F2A66A", "swish": "#F6CF71"}


def rows_table(network: Network, resolution: int = 224) -> pd.DataFrame:
    """A network laid out as the papers print theirs, a row an operator.

    Args:
        network: Of `describe`.
        resolution: Height and width of the images, in pixels.

    Returns:
        The columns of V3's tables 1 and 2: `Input` (height², channels), `Operator`, `exp size` (channels of the
        depthwise convolution), `#out`, `SE`, `NL` (RE ReLU, R6 ReLU6, HS h-swish, SW swish) and `s`, the stride.
        `bneck` is a bottleneck with a linear projection, `dw` a depthwise and a pointwise convolution with a
        non-linearity after both, `NBN` a layer without batch norm.

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
    for at in resolve_blocks(network):
        row = at.row
        kind = "conv2d" if not network.separable else "bneck" if row.projection is None else "dw"
        operator = f"{kind}, {row.kernel}x{row.kernel}" + (f", dilated {at.dilation}" if at.dilation > 1 else "")
        add(operator, row.out_channels, stride=at.stride, wide=at.expanded, se=row.se, act=row.activation)
    if network.tail is not None:
        add("conv2d, 1x1", network.tail.out_channels, act=network.tail.activation)
    add(f"pool, {size}x{size}", channels)
    size = 1
    if network.hidden is not None:
        add("conv2d, 1x1, NBN", network.hidden.out_features, act=network.hidden.activation)
    add("conv2d, 1x1, NBN", network.num_classes)
    return pd.DataFrame(rows)


def toggles_table() -> pd.DataFrame:
    """Every toggle in the order of application: `toggle`, the `values` it takes, `what` it does, with its source."""
    docs = field_help(Toggles)
    rows = [{"toggle": name, "values": told(hint), "what": docs[name]} for name, hint in hints(Toggles).items()]
    return pd.DataFrame(rows)


def told(hint: object) -> str:
    """The values of a toggle, in words."""
    (kind,) = (one for one in get_args(hint) if one is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(map(text, get_args(kind)))
    return {bool: "true, false", int: "a whole number", float: "a number"}.get(kind, str(kind))


def values_of(name: str) -> tuple[object, ...]:
    """What is tried of a toggle: every value that it has, or those of `STUDIED`.

    Raises:
        ConfigError: There is no such toggle.
    """
    if name not in hints(Toggles):
        raise unknown("toggle", name, hints(Toggles))
    (kind,) = (one for one in get_args(hints(Toggles)[name]) if one is not type(None))
    if get_origin(kind) is Literal:
        return get_args(kind)
    return (True, False) if kind is bool else STUDIED.get(name, ())


def toggle_costs(model: str, resolution: int = 224) -> pd.DataFrame:
    """What each value of each toggle, alone, changes of a model's cost.

    Args:
        model: One of `mnet.list_models()`.
        resolution: Height and width of the images, in pixels.

    Returns:
        One row a toggle and value: `toggle, value`, then `params, madds, peak_activation_bytes`: the change in percent,
        nan where the value is refused. `note`: as in the paper, where the network is the same; the reason of a refusal.

    Raises:
        ConfigError: No such model, or `resolution` is below 1.
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
                changes = {one: 100 * (getattr(after, one) / getattr(before, one) - 1) for one in COSTS}
                note = "as in the paper" if network == paper else ""
            rows.append({"toggle": name, "value": text(value), **changes, "note": note})
    return pd.DataFrame(rows)


def plot_toggle_costs(costs: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """What each toggle changes of the cost, a row a value that changes anything. Written as PNG to `path`.

    Args:
        costs: Of `toggle_costs`.
        path: Where to write; None = nowhere.
        title: Of which model.
    """
    shown = costs[(costs[list(COSTS)].abs() > 0.05).any(axis=1)]  # percent; less would read 0
    figure = Figure(figsize=(10, 1.4 + 0.26 * len(shown)), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, (column, name), ink in zip(panels, COSTS.items(), (BLUE, ORANGE, GREEN), strict=True):
        times = 1 + shown[column] / 100
        axes.barh(range(len(shown)), times - 1, left=1, color=ink, height=0.62)
        for row, (end, percent) in enumerate(zip(times, shown[column], strict=True)):
            side = 4 if end >= 1 else -4
            label = "0" if abs(percent) <= 0.05 else f"{percent:+.0f}%" if percent >= 100 else f"{percent:+.1f}%"
            axes.annotate(label, (end, row), (side, 0), textcoords="offset points", va="center", fontsize=7,
                          ha="left" if end >= 1 else "right")  # fmt: skip
        low, high = min(0.5, times.min()), max(2.0, times.max())
        axes.set_xscale("log", base=2)
        room = (high / low) ** 0.3  # for what is written beside the bars
        axes.set_xlim(low / room, high * room)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.axvline(1, color="#555555", linewidth=1)
        axes.set_xlabel(f"{name}\n(times the paper's)", fontsize=9)
    labels = [f"{toggle} = {value}" for toggle, value in zip(shown["toggle"], shown["value"], strict=True)]
    panels[0].set_yticks(range(len(shown)), labels, fontsize=8)
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    return finish(figure, path, title)


def plot_kinds(networks: Mapping[str, Network], path: Path | None, title: str, resolution: int = 224) -> Figure:
    """In which kind of layer parameters and multiply-adds lie, a bar a network. Written as PNG to `path`.

    Args:
        networks: By name.
        path: Where to write; None = nowhere.
        title: What is shown.
        resolution: Height and width of the images, in pixels.
    """
    figure = Figure(figsize=(10, 1.7 + 0.36 * len(networks)), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    costs = {name: cost(network, resolution) for name, network in networks.items()}
    for axes, column, unit in zip(panels, ("params", "madds"), ("M parameters", "M multiply-adds"), strict=True):
        for row, one in enumerate(costs.values()):
            sums = one.layers.groupby("kind")[column].sum()
            total, left = sums.sum(), 0.0
            for kind in (kind for kind in KINDS if kind in sums):
                share = 100 * sums[kind] / total
                axes.barh(row, share, left=left, color=KINDS[kind], height=0.66)
                left += share
            axes.annotate(f"{total / 1e6:.3g}", (100, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_xlim(0, 114)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlabel(f"share (%); at the end, {unit}", fontsize=9)
    panels[0].set_yticks(range(len(costs)), list(costs))
    panels[0].set_ylim(len(costs) - 0.5, -0.5)
    seen = {row.kind for one in costs.values() for row in one.rows}
    handles = [Patch(color=ink, label=kind) for kind, ink in KINDS.items() if kind in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return finish(figure, path, title)


def plot_depth(networks: Mapping[str, Network], path: Path | None, title: str, resolution: int = 224) -> Figure:
    """Where in the network the cost lies, from the stem to the classifier, a line a network. PNG to `path`.

    Args:
        networks: By name, the baseline first.
        path: Where to write; None = nowhere.
        title: What is shown.
        resolution: Height and width of the images, in pixels.
    """
    units = {"params": (1e3, "parameters\n(thousands)"), "madds": (1e6, "multiply-adds\n(millions)"),
             "activation_bytes": (2**20, "activations alive\n(MiB in float32)")}  # fmt: skip
    layers = {name: by_part(cost(network, resolution)) for name, network in networks.items()}
    parts = list(max(layers.values(), key=len).index)
    parts += [part for one in layers.values() for part in one.index if part not in parts]
    figure = Figure(figsize=(9, 6.2), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(len(units), 1, sharex=True)
    for axes, (column, (unit, label)) in zip(panels, units.items(), strict=True):
        for i, (name, one) in enumerate(layers.items()):
            look = {"color": INKS[i % len(INKS)], "lw": 1.4, "ms": 5 - i, "marker": "o", "ls": ("-", "--", ":")[i % 3]}
            axes.plot([parts.index(part) for part in one.index], one[column] / unit, label=name, **look)
        axes.set_ylabel(label, fontsize=9)
        axes.set_ylim(bottom=0)
    panels[-1].set_xticks(range(len(parts)), [part.removeprefix("blocks.") for part in parts], fontsize=8)
    panels[-1].set_xlabel("part of the network; numbers are blocks", fontsize=9)
    return finish(figure, path, title, legend=True, grid="both")


def by_part(found: Cost) -> pd.DataFrame:
    """Parameters, multiply-adds and the most that is alive, by part, in the order of execution."""
    sums = {"params": "sum", "madds": "sum", "activation_bytes": "max"}
    layers = found.layers
    return layers.groupby(layers["layer"].map(part_name), sort=False).agg(sums)


def plot_choices(networks: Mapping[str, Network], path: Path | None, title: str) -> Figure:
    """What a count of multiply-adds does not show: every row's non-linearity, kernel and SE, and whether its projection
    is linear; a line a network. Written as PNG to `path`.

    Args:
        networks: By name.
        path: Where to write; None = nowhere.
        title: What is shown.
    """
    longest = max(len(network.blocks) for network in networks.values())
    parts = ["stem", *map(str, range(longest)), "tail", "hidden"]
    figure = Figure(figsize=(10, 1.6 + 0.42 * len(networks)), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for row, network in enumerate(networks.values()):
        for part, activation, note, bent in choices(network):
            at = parts.index(part)
            axes.barh(row, 0.94, left=at - 0.47, height=0.8, color=FILLS[activation],
                      edgecolor="#333333" if bent else FILLS[activation], lw=1.4)  # fmt: skip
            axes.annotate(note, (at, row), ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(networks)), list(networks), fontsize=8)
    axes.set_ylim(len(networks) - 0.5, -0.5)
    axes.set_xticks(range(len(parts)), parts, fontsize=8)
    axes.set_xlim(-0.7, len(parts) - 0.3)
    axes.set_xlabel("block; with its kernel, and SE where it has one; framed: a non-linearity follows the projection")
    seen = {activation for network in networks.values() for _, activation, *_ in choices(network)}
    handles = [Patch(color=fill, label=name) for name, fill in FILLS.items() if name in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return finish(figure, path, title)


def choices(network: Network) -> list[tuple[str, str, str, bool]]:
    """Part, non-linearity, kernel and SE, and whether the projection is non-linear, of every row."""
    found: list[tuple[str, str, str, bool]] = [("stem", network.stem.activation, str(network.stem.kernel), False)]
    for i, row in enumerate(network.blocks):
        found.append((str(i), row.activation, f"{row.kernel}\nSE" if row.se else str(row.kernel), bool(row.projection)))
    if network.tail is not None:
        found.append(("tail", network.tail.activation, str(network.tail.kernel), False))
    if network.hidden is not None:
        found.append(("hidden", network.hidden.activation, "", False))
    return found
