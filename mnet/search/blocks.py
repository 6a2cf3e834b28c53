"""The search space over the blocks of a network: kernel, expansion, SE, activation and channels of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from mnet.models.spec import Block, Network, round_channels

KNOBS: Mapping[str, tuple[object, ...]] = {
    "kernel": (None, 3, 5),
    "expansion": (0.5, 0.75, 1.0, 1.25),
    "se": (None, False, True),
    "activation": (None, "relu", "hswish"),
    "channels": (0.75, 1.0, 1.25),
}
"""Values for each stage: None = as in the start network; expansion and channels are factors on its values."""
_UNCHANGED: Mapping[str, object] = {"expansion": 1.0, "channels": 1.0}

Choices = Mapping[str, object]
"""`<stage>.<knob>` -> one of `KNOBS`."""


def stages(network: Network) -> list[range]:
    """Rows that are changed together: each stage begins with a strided row."""
    starts = sorted({0, *(i for i, row in enumerate(network.blocks) if row.stride > 1)})
    return [range(i, j) for i, j in zip(starts, [*starts[1:], len(network.blocks)], strict=True)]


def space(network: Network) -> dict[str, tuple[object, ...]]:
    """The values of every choice, by its name."""
    return {f"{i}.{knob}": values for i in range(len(stages(network))) for knob, values in KNOBS.items()}


def unchanged_choices(network: Network) -> dict[str, object]:
    """The choices that leave the network unchanged."""
    return {name: _UNCHANGED.get(name.partition(".")[2]) for name in space(network)}


def apply_choices(network: Network, choices: Choices) -> Network:
    """The network with the choices applied to its stages."""
    rows = list(network.blocks)
    for number, stage in enumerate(stages(network)):
        values = {knob: choices[f"{number}.{knob}"] for knob in KNOBS}
        for i in stage:
            rows[i] = _changed_row(rows[i], values)
    return replace(network, blocks=tuple(rows))


def _changed_row(row: Block, values: Mapping[str, object]) -> Block:
    changed: dict[str, Any] = {name: values[name] for name in ("se", "activation")}
    changed = {name: value for name, value in changed.items() if value is not None}
    if values["kernel"] is not None:
        row = row.with_kernel(cast(int, values["kernel"]))
    if row.expansion is not None:
        changed["expansion"] = round_channels(row.expansion * cast(float, values["expansion"]))
    return replace(row, **changed, out_channels=round_channels(row.out_channels * cast(float, values["channels"])))
