"""Weights for a network with fewer channels: the strongest channels are kept. Source: NetAdapt §3.2, V3 §4.2.

Layers share channels: removing a filter also removes a column of every layer that reads it and, across shortcuts, a
filter of every layer that adds to it. A `Space` is a set of channels that are kept or removed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnet.models.network import MobileNet
from mnet.models.resolved import ResolvedBlock, resolve_blocks
from mnet.models.spec import Network, Part

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")

Space = str
"""stem, bottleneck.3 (shared by block 3 and later blocks joined to it by shortcuts), expansion.3, squeeze.3, tail or
hidden."""


@dataclass(frozen=True)
class Wiring:
    """A layer, and the channels that it writes and reads."""

    layer: str
    """The name of a convolution or linear layer."""
    writes: Space | None
    """None = the classes."""
    reads: Space | None
    """None = the images, or, for a depthwise convolution, the space that it writes."""
    norm: str | None = None
    """The batch norm that follows."""
    rescales: bool = False
    """Whether it only scales channels that another layer writes."""


def bottleneck_spaces(network: Network) -> list[Space]:
    """The space of every block's output; a block with a shortcut shares the space of its input."""
    spaces: list[Space] = []
    for i, block in enumerate(resolve_blocks(network)):
        before = spaces[-1] if spaces else "stem"
        spaces.append(before if block.shortcut else f"bottleneck.{i}")
    return spaces


def wiring(network: Network) -> Iterator[Wiring]:
    """Every layer of a classifier, in the order of execution."""
    yield Wiring("stem.conv", "stem", None, "stem.norm")
    last = "stem"
    for i, (block, out) in enumerate(zip(resolve_blocks(network), bottleneck_spaces(network), strict=True)):
        yield from _block_wiring(i, block, last, out)
        last = out
    if network.tail is not None:
        yield Wiring("tail.conv", "tail", last, "tail.norm")
        last = "tail"
    if network.hidden is not None:
        norm = network.hidden.norm
        yield Wiring("hidden.conv" if norm else "hidden.0", "hidden", last, "hidden.norm" if norm else None)
        last = "hidden"
    yield Wiring("classifier", None, last)


def _block_wiring(i: int, block: ResolvedBlock, block_input: Space, out: Space) -> Iterator[Wiring]:
    name, wide = f"blocks.{i}", block_input if block.row.expansion is None else f"expansion.{i}"
    spaces: Mapping[Part, tuple[Space, Space | None]]
    spaces = {"start": (block_input, None), "expand": (wide, block_input), "depthwise": (wide, None)}
    for part in block.kernels:
        if part == "project" and block.squeeze:
            yield Wiring(f"{name}.se.fc1", f"squeeze.{i}", wide)
            yield Wiring(f"{name}.se.fc2", wide, f"squeeze.{i}", rescales=True)
        writes, reads = spaces.get(part, (out, wide))
        yield Wiring(f"{name}.{part}.conv", writes, reads, f"{name}.{part}.norm", rescales=part == "start")


def sizes(network: Network) -> dict[Space, int]:
    """The number of channels of every space."""
    channels = {"stem": network.stem.out_channels}
    for i, (block, out) in enumerate(zip(resolve_blocks(network), bottleneck_spaces(network), strict=True)):
        channels[out] = block.row.out_channels
        if block.row.expansion is not None:
            channels[f"expansion.{i}"] = block.expanded
        if block.squeeze:
            channels[f"squeeze.{i}"] = block.squeeze
    if network.tail is not None:
        channels["tail"] = network.tail.out_channels
    if network.hidden is not None:
        channels["hidden"] = network.hidden.out_features
    return channels


def strength(net: MobileNet) -> dict[Space, Tensor]:
    """Space -> (channels,): how much each channel contributes.

    The norm of what is written to the channel, times the norm of the weights that read it. The scale of a batch norm
    replaces the norm of the filter before it; of several writes within a block, the last counts.
    """
    state = net.state_dict()
    written: dict[tuple[Space, str], Tensor] = {}
    read: dict[Space, Tensor] = {}
    for wire in wiring(net.network):
        weight = state[f"{wire.layer}.weight"]
        if wire.writes is not None and not wire.rescales:
            scale = weight.flatten(1).norm(dim=1) if wire.norm is None else state[f"{wire.norm}.weight"]
            block = wire.layer.rpartition(".")[0].removesuffix(".expand").removesuffix(".depthwise")
            written[wire.writes, block] = scale
        if wire.reads is not None:
            columns = weight.transpose(0, 1).flatten(1).square().sum(1)
            read[wire.reads] = read.get(wire.reads, torch.zeros_like(columns)) + columns
    totals: dict[Space, Tensor] = {}
    for (space, _), scale in written.items():
        totals[space] = totals.get(space, torch.zeros_like(scale)) + scale.square()
    return {space: (total * read[space]).sqrt() for space, total in totals.items()}


def truncated(net: MobileNet, network: Network) -> dict[str, Tensor]:
    """The state of `net` with the strongest channels of every space, as many as `network` has.

    Args:
        net: A classifier.
        network: A network with as many blocks as `net`. Where it has more channels, all channels are kept.
    """
    strengths = strength(net)
    kept: Mapping[Space, Tensor] = {
        space: strengths[space].topk(min(size, len(strengths[space]))).indices.sort().values
        for space, size in sizes(network).items()
        if space in strengths
    }
    state = dict(net.state_dict())
    for wire in wiring(net.network):
        names = [f"{wire.layer}.weight", f"{wire.layer}.bias"]
        names += [f"{wire.norm}.{name}" for name in NORM_TENSORS] if wire.norm else []
        if wire.writes is not None and wire.writes in kept:
            state |= {name: state[name][kept[wire.writes]] for name in names if name in state}
        if wire.reads is not None and wire.reads in kept:
            state[names[0]] = state[names[0]][:, kept[wire.reads]]
    return state
