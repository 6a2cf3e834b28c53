"""The toggles: each is a field of `Toggles` and a function of the same name, Network -> Network.

To add one: a field with its docstring, a function with the same name below, and a test. The command line, the
validation of sweep files, the columns of the results and the documentation follow from the field.

Toggles are applied in the order of the fields (the head, which rows there are, what each row does, width and its
rounding last), so the order in which a user names them does not matter. Every function is idempotent, and refuses an
impossible combination before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal

from mnet.errors import ConfigError
from mnet.models.spec import (
    Activation,
    Block,
    Conv,
    Form,
    Gate,
    HeadKind,
    Hidden,
    Network,
    Shortcut,
    WidthRule,
    round_channels,
)
from mnet.models.tables import HEADS, table
from mnet.settings import check_types, parse

MIN_EXTRA_FILTERS = 16
"""The fewest filters of an extra map of SSDLite."""


@dataclass(frozen=True, kw_only=True)
class Toggles:
    """The differences from the paper's network. None = as in the paper."""

    # The head, and which rows there are.
    head: HeadKind | None = None
    """The head on the feature maps, which decides the task: None = the classifier, SSDLite for detection, LR-ASPP or
    R-ASPP for segmentation. Source: V2 §6.2 and §6.3, V3 §6.3 and §6.4."""
    head_filters: int | None = None
    """Filters in the branches of LR-ASPP (128) or R-ASPP (256). Source: V3, table 7."""
    lowest_boxes: Literal[3, 6] | None = None
    """Default boxes per position of C4, SSDLite's finest map: 3 (gives the costs in V3, table 6) or 6 (torchvision)."""
    shallow: bool | None = None
    """V1 without its five 14x14x512 blocks. Source: V1, table 5."""
    last_stage: Literal["streamlined", "full"] | None = None
    """Pool before (streamlined) or after (full) the last wide 1x1 convolution. Source: V3 §5.1, figure 5."""
    reduced_tail: bool | None = None
    """Halve the channels after C4. Source: V3 §6.3, table 6."""
    stem_channels: int | None = None
    """Filters of the first convolution, a multiple of 8. Source: V3 §5.1."""
    stem_stride: Literal[1, 2] | None = None
    """Stride of the first convolution; 1 for small images."""
    total_stride: Literal[4, 8, 16, 32] | None = None
    """Input size divided by the last feature map's size, reached by dropping the earliest strides; for small images."""
    # What each row does.
    uib: Literal["ib", "extra_dw", "convnext", "ffn"] | None = None
    """Depthwise convolutions of each row with an expansion: after it (ib), also before it (extra_dw), only before it
    (convnext), or none except in strided rows (ffn). Source: V4 §4, figure 4, table 1."""
    separable: bool | None = None
    """False: one full convolution instead of each depthwise convolution and the 1x1 after it. Source: V1, table 4."""
    kernel: Literal[3, 5] | None = None
    """Size of every depthwise kernel; 3 in the minimalistic V3."""
    activation: Activation | None = None
    """Every non-linearity outside SE. Source: V3 §5.2, table 5."""
    hswish_from: int | None = None
    """ReLU, then h-swish from the first layer with at least this many output channels on. Source: V3, table 5."""
    stem_activation: Activation | None = None
    """Non-linearity of the first convolution; None follows `activation`. Source: V3 §5.1."""
    bottleneck: Literal["linear", "relu", "relu6"] | None = None
    """Non-linearity after the projection. Source: V2, figure 6a."""
    shortcut: Shortcut | None = None
    """Shortcuts between bottlenecks, between expansions (in the same blocks, around the depthwise convolution after the
    expansion), or none. Source: V2, figure 6b."""
    se: bool | None = None
    """Squeeze-and-excite before the projection of every block, or of none. Source: V3 §5.3."""
    se_ratio: float | None = None
    """Channels inside SE as a fraction of the expansion, in (0, 1]. Source: V3 §5.3."""
    se_gate: Gate | None = None
    """The gate function of SE. Source: V3 §5.2."""
    output_stride: Literal[8, 16, 32] | None = None
    """The largest total stride; later strides become dilations of every kernel of their row and of later rows.
    Source: V3 §6.4."""
    # Width and its rounding, last.
    width_rule: WidthRule | None = None
    """How scaled channels are rounded: the authors' rule, or torchvision's for V3."""
    width: float | None = None
    """Width multiplier alpha. Source: V1 §3.3, table 6."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.activation is not None and self.hswish_from is not None:
            raise ConfigError("activation and hswish_from both choose every activation; give one of them")

    def apply(self, network: Network) -> Network:
        """`network` with these toggles applied.

        Raises:
            ConfigError: An impossible combination, with the reason.
        """
        for name, function in FUNCTIONS.items():
            value = getattr(self, name)
            if value is not None:
                network = function(network, value)
        return network


def describe(
    model: str, *, num_classes: int | None = None, in_channels: int | None = None, **toggles: object
) -> Network:
    """The network that `create_model` would build, as data.

    Args:
        model: One of `list_models()`, or a file written by `write_network`.
        num_classes: Outputs of the classifier; None = the table's number, 1000 in the papers.
        in_channels: Channels of the images; None = the table's number, 3 in the papers.
        toggles: Fields of `Toggles`.

    Raises:
        ConfigError: Unknown model, toggle or value, or an impossible combination.
    """
    return with_toggles(table(model), parse(Toggles, toggles, "toggle"), num_classes, in_channels)


@cache
def with_toggles(network: Network, toggles: Toggles, num_classes: int | None, in_channels: int | None) -> Network:
    """As `describe`, from parsed toggles; cached."""
    given = {"num_classes": num_classes, "in_channels": in_channels}
    return toggles.apply(replace(network, **{name: value for name, value in given.items() if value is not None}))  # type: ignore[arg-type]


def head(net: Network, value: HeadKind) -> Network:
    return replace(net, head=HEADS[value])


def head_filters(net: Network, value: int) -> Network:
    if net.head is None or net.head.kind == "ssdlite":
        kind = "the classifier" if net.head is None else net.head.kind
        raise ConfigError(f"head_filters={value}: {kind} has no branches; add head=lr_aspp or head=r_aspp")
    if value < 1:
        raise ConfigError(f"head_filters must be at least 1, not {value}")
    return replace(net, head=replace(net.head, filters=(value,)))


def lowest_boxes(net: Network, value: int) -> Network:
    if net.head is None or net.head.kind != "ssdlite":
        kind = "the classifier" if net.head is None else net.head.kind
        raise ConfigError(f"lowest_boxes={value}: {kind} has no default boxes; add head=ssdlite")
    return replace(net, head=replace(net.head, boxes=(value, *net.head.boxes[1:])))


def shallow(net: Network, value: bool) -> Network:
    if not value:
        return net
    if net.tail is not None:
        raise ConfigError(f"shallow=True drops V1's five 14x14x512 blocks; {net.name} has none")
    five = [i for i, row in enumerate(net.blocks) if i and row.out_channels == net.blocks[i - 1].out_channels == 512]
    return replace(net, blocks=tuple(row for i, row in enumerate(net.blocks) if i not in five))


def last_stage(net: Network, value: str) -> Network:
    """`full` ends V3 like V2: one more block, then the wide 1x1 before pooling. `streamlined` is the inverse.

    The full stage of V3-Small follows V3-Large's: an expansion to 576, a projection to twice the last block's channels
    (192), and the 1x1 to 1024 at 7x7.
    """
    last = net.blocks[-1]
    if net.tail is None:
        raise ConfigError(f"last_stage={value}: {net.name} has no 1x1 convolution after its last block")
    if value == "full" and net.hidden is not None and net.hidden.norm:
        raise ConfigError(
            f"last_stage=full undoes V3's redesign of V2's last stage (V3 §5.1); {net.name} was designed without one"
        )
    if value == "full" and net.hidden is not None:
        act = net.tail.activation
        block = Block(kernel=3, expansion=net.tail.out_channels, out_channels=2 * last.out_channels, activation=act)
        tail = Conv(kernel=1, out_channels=net.hidden.out_features, activation=net.hidden.activation)
        return replace(net, blocks=(*net.blocks, block), tail=tail, hidden=None)
    if value == "streamlined" and net.hidden is None and last.expansion is not None:
        hidden = Hidden(out_features=net.tail.out_channels, activation=net.tail.activation)
        tail = Conv(kernel=1, out_channels=last.expansion, activation=last.activation)
        return replace(net, blocks=net.blocks[:-1], tail=tail, hidden=hidden)
    return net


def reduced_tail(net: Network, value: bool) -> Network:
    """Everything after C4 is halved. C4 itself, the expansion of the last strided block, is kept for classification
    and detection; segmentation, which does not use C4, halves it too (see the parameters in V3, tables 6 and 7)."""
    if not value or net.reduced_tail:
        return net
    first = max(i for i, row in enumerate(net.blocks) if row.stride > 1)
    kept = 0 if net.head is None or net.head.kind == "ssdlite" else None
    tail = [
        replace(
            row,
            out_channels=row.out_channels // 2,
            expansion=row.expansion if row.expansion is None or i == kept else row.expansion // 2,
        )
        for i, row in enumerate(net.blocks[first:])
    ]
    return replace(
        net,
        blocks=(*net.blocks[:first], *tail),
        tail=net.tail and replace(net.tail, out_channels=net.tail.out_channels // 2),
        hidden=net.hidden and replace(net.hidden, out_features=net.hidden.out_features // 2),
        reduced_tail=True,
    )


def stem_channels(net: Network, value: int) -> Network:
    if value < 8 or value % 8:
        near = round_channels(value)
        raise ConfigError(f"stem_channels must be a positive multiple of 8, not {value}; the nearest is {near}")
    return replace(net, stem=replace(net.stem, out_channels=value))


def stem_stride(net: Network, value: int) -> Network:
    return replace(net, stem=replace(net.stem, stride=value))


def total_stride(net: Network, value: int) -> Network:
    rows: list[Conv | Block] = [net.stem, *net.blocks]
    total = math.prod(row.stride for row in rows)
    if total < value:
        raise ConfigError(f"total_stride={value}: {net.name} has only {total} here")
    for i, row in enumerate(rows):
        if total > value and row.stride > 1:
            total //= row.stride
            rows[i] = replace(row, stride=1)
    stem, *blocks = rows
    return replace(net, stem=stem, blocks=tuple(blocks))  # type: ignore[arg-type]


def uib(net: Network, value: Form) -> Network:
    """A missing kernel gets the size of the row's other one, or 3 if there is none.

    Rows without expansion and fused rows stay as they are: they are not universal inverted bottlenecks.
    """
    if all(row.expansion is None or row.fused for row in net.blocks):
        raise ConfigError(
            f"uib={value} has no effect: no row of {net.name} has an expansion and depthwise convolutions"
        )

    def change(row: Block) -> Block:
        if row.expansion is None or row.fused or (value == "ffn" and row.stride > 1):
            return row
        start, middle = row.start_kernel or row.kernel or 3, row.kernel or row.start_kernel or 3
        return replace(
            row,
            start_kernel=start if value in ("convnext", "extra_dw") else None,
            kernel=middle if value in ("ib", "extra_dw") else None,
        )

    return _each_block(net, change)


def separable(net: Network, value: bool) -> Network:
    return replace(net, separable=value)


def kernel(net: Network, value: int) -> Network:
    return _each_block(net, lambda row: row.with_kernel(value))


def activation(net: Network, value: Activation) -> Network:
    return _with_activations(net, lambda channels: value)


def hswish_from(net: Network, value: int) -> Network:
    """Counts the table's channels, before `width`. V3-Large as published is hswish_from=80 with an h-swish stem."""
    if value < 1:
        raise ConfigError(f"hswish_from must be at least 1, not {value}")
    reached = False

    def choose(channels: int) -> Activation:
        nonlocal reached
        reached = reached or channels >= value
        return "hswish" if reached else "relu"

    return _with_activations(net, choose)


def stem_activation(net: Network, value: Activation) -> Network:
    return replace(net, stem=replace(net.stem, activation=value))


def bottleneck(net: Network, value: Literal["linear", "relu", "relu6"]) -> Network:
    projection = None if value == "linear" else value
    return _each_block(net, lambda row: replace(row, projection=projection))


def shortcut(net: Network, value: Shortcut) -> Network:
    if value == "expansion" and not net.separable:
        raise ConfigError("shortcut=expansion goes around the depthwise convolution, which separable=False removes")
    without = next((row.form for row in net.blocks if row.form not in ("ib", "extra_dw") and row.stride == 1), None)
    if value == "expansion" and without is not None:
        raise ConfigError(
            "shortcut=expansion goes around the depthwise convolution after the expansion, which rows of the form "
            f"{without} in {net.name} lack; add uib=ib or uib=extra_dw"
        )
    return replace(net, shortcut=value)


def se(net: Network, value: bool) -> Network:
    return _each_block(net, lambda row: replace(row, se=value))


def se_ratio(net: Network, value: float) -> Network:
    if not 0 < value <= 1:
        raise ConfigError(f"se_ratio must be in (0, 1], not {value}")
    return replace(_require_se(net, f"se_ratio={value}"), se_ratio=value)


def se_gate(net: Network, value: Gate) -> Network:
    return replace(_require_se(net, f"se_gate={value}"), se_gate=value)


def output_stride(net: Network, value: int) -> Network:
    total = net.stem.stride * math.prod(row.stride for row in net.blocks)
    if total < value:
        raise ConfigError(f"output_stride={value}: {net.name} has only {total} here")
    if net.stem.stride > value:
        raise ConfigError(f"output_stride={value} is less than the stem's stride {net.stem.stride}")
    return replace(net, output_stride=value)


def width_rule(net: Network, value: WidthRule) -> Network:
    return replace(net, width_rule=value)


def width(net: Network, value: float) -> Network:
    """Every channel count x `value`, rounded to a multiple of 8.

    `paper`: an expansion keeps its ratio to its input; below width 1, the last layer before the classifier is not
    scaled. `torchvision` (differs for V3 only): expansions are rounded independently, the 1x1 tail keeps its ratio to
    the last block, and the last layer is scaled too. At width 1 the rules agree.
    """
    if value == net.width:
        return net
    if net.width != 1 or value <= 0:
        reason = f"the rows already include width {net.width}" if net.width != 1 else "it must be positive"
        raise ConfigError(f"width={value}: {reason}")
    by_torchvision = net.width_rule == "torchvision" and net.torchvision_rounds

    def scaled(channels: float) -> int:
        return round_channels(channels * value)

    stem = replace(net.stem, out_channels=scaled(net.stem.out_channels))
    before, after, blocks = net.stem.out_channels, stem.out_channels, []
    for row in net.blocks:
        expansion = row.expansion
        if expansion is not None:
            expansion = scaled(expansion) if by_torchvision else round_channels(expansion / before * after)
        before, after = row.out_channels, scaled(row.out_channels)
        blocks.append(replace(row, expansion=expansion, out_channels=after))

    def feature_layer(channels: int) -> int:
        return scaled(channels) if by_torchvision or net.head else round_channels(channels * max(1.0, value))

    tail, hidden = net.tail, net.hidden
    if tail is not None and hidden is not None:
        out = tail.out_channels // before * after if by_torchvision else scaled(tail.out_channels)
        tail, hidden = replace(tail, out_channels=out), replace(hidden, out_features=feature_layer(hidden.out_features))
    elif tail is not None:
        tail = replace(tail, out_channels=feature_layer(tail.out_channels))
    head = net.head
    if head is not None and head.kind == "ssdlite":  # as the authors do; LR-ASPP's branches are not scaled
        head = replace(head, filters=tuple(max(MIN_EXTRA_FILTERS, int(filters * value)) for filters in head.filters))
    return replace(net, stem=stem, blocks=tuple(blocks), tail=tail, hidden=hidden, head=head, width=float(value))


def _each_block(net: Network, change: Callable[[Block], Block]) -> Network:
    return replace(net, blocks=tuple(change(row) for row in net.blocks))


def _with_activations(net: Network, choose: Callable[[int], Activation]) -> Network:
    """The network with activations chosen by the output channels of their rows, in order from the input."""

    def change(row: Block) -> Block:
        chosen = choose(row.out_channels)
        return replace(row, activation=chosen, projection=row.projection and chosen)

    stem = replace(net.stem, activation=choose(net.stem.out_channels))
    net = replace(_each_block(net, change), stem=stem)
    tail = net.tail and replace(net.tail, activation=choose(net.tail.out_channels))
    hidden = net.hidden and replace(net.hidden, activation=choose(net.hidden.out_features))
    return replace(net, tail=tail, hidden=hidden)


def _require_se(net: Network, setting: str) -> Network:
    if not any(row.se for row in net.blocks):
        raise ConfigError(f"{setting} has no effect: {net.name} has no squeeze-and-excite here; add se=True")
    return net


FUNCTIONS: dict[str, Callable[[Network, object], Network]] = {
    field.name: globals()[field.name] for field in fields(Toggles)
}
"""Field of `Toggles` -> the function of that name, in the order of application."""
