"""A network's weights in one with fewer channels: the strongest channels are kept. Source: NetAdapt §3.2, V3 §4.2.

Layers share channels: a filter that is left out takes with it a column of every layer that reads it, and in blocks with
shortcuts a filter of every layer that adds to it. A `Space` is a set of channels that stay or go together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnet.models.network import MobileNet
from mnet.models.spec import Network, ResolvedBlock, resolve_blocks

OF_NORMS = ("weight", "bias", "running_mean", "running_var")

Space = str
"""stem, bottleneck.3 (of the blocks from the third on that share it), expansion.3, squeeze.3, tail or hidden."""


@dataclass(frozen=True)
class Wiring:
    """A layer, and the channels that it writes and reads."""

    layer: str
    """Of convolution or linear layer."""
    writes: Space | None
    """None = the classes."""
    reads: Space | None
    """None = the images, or as a depthwise convolution what it writes."""
    norm: str | None = None


def bottleneck_spaces(network: Network) -> list[Space]:
    """Block -> the space of its output: where shortcuts join several blocks, or the first to the stem, one of all."""
    found: list[Space] = []
    for i, at in enumerate(resolve_blocks(network)):
        before = found[-1] if found else "stem"
        found.append(before if at.shortcut else f"bottleneck.{i}")
    return found


def wiring(network: Network) -> Iterator[Wiring]:
    """Every layer of a classifier, in the order of execution."""
    yield Wiring("stem.conv", "stem", None, "stem.norm")
    last = "stem"
    for i, (at, out) in enumerate(zip(resolve_blocks(network), bottleneck_spaces(network), strict=True)):
        yield from block_wiring(network, i, at, last, out)
        last = out
    if network.tail is not None:
        yield Wiring("tail.conv", "tail", last, "tail.norm")
        last = "tail"
    if network.hidden is not None:
        yield Wiring("hidden.0", "hidden", last)
        last = "hidden"
    yield Wiring("classifier", None, last)


def block_wiring(network: Network, i: int, at: ResolvedBlock, into: Space, out: Space) -> Iterator[Wiring]:
    name, wide = f"blocks.{i}", into if at.row.expansion is None else f"expansion.{i}"
    if at.row.expansion is not None:
        yield Wiring(f"{name}.expand.conv", wide, into, f"{name}.expand.norm")
    if network.separable:
        yield Wiring(f"{name}.depthwise.conv", wide, None, f"{name}.depthwise.norm")
    if at.squeeze:
        yield Wiring(f"{name}.se.fc1", f"squeeze.{i}", wide)
        yield Wiring(f"{name}.se.fc2", wide, f"squeeze.{i}")
    yield Wiring(f"{name}.project.conv", out, wide, f"{name}.project.norm")


def sizes(network: Network) -> dict[Space, int]:
    """Channels of every space."""
    found = {"stem": network.stem.out_channels}
    for i, (at, out) in enumerate(zip(resolve_blocks(network), bottleneck_spaces(network), strict=True)):
        found[out] = at.row.out_channels
        if at.row.expansion is not None:
            found[f"expansion.{i}"] = at.expanded
        if at.squeeze:
            found[f"squeeze.{i}"] = at.squeeze
    if network.tail is not None:
        found["tail"] = network.tail.out_channels
    if network.hidden is not None:
        found["hidden"] = network.hidden.out_features
    return found


def strength(net: MobileNet) -> dict[Space, Tensor]:
    """Space -> (channels,): how much each channel carries.

    The norm of what is written to it, times that of the weights that read it. What a batch norm follows is written at
    the batch norm's scale, whatever the filter's own; of several in a row the last counts.
    """
    state = net.state_dict()
    written: dict[tuple[Space, str], Tensor] = {}
    read: dict[Space, Tensor] = {}
    for one in wiring(net.network):
        weight = state[f"{one.layer}.weight"]
        if one.writes is not None and one.layer.rpartition(".")[2] != "fc2":  # which gates what is there
            scale = weight.flatten(1).norm(dim=1) if one.norm is None else state[f"{one.norm}.weight"]
            written[one.writes, one.layer.rpartition(".")[0].removesuffix(".expand").removesuffix(".depthwise")] = scale
        if one.reads is not None:
            columns = weight.transpose(0, 1).flatten(1).square().sum(1)
            read[one.reads] = read.get(one.reads, torch.zeros_like(columns)) + columns
    found: dict[Space, Tensor] = {}
    for (space, _), scale in written.items():
        found[space] = found.get(space, torch.zeros_like(scale)) + scale.square()
    return {space: (total * read[space]).sqrt() for space, total in found.items()}


def truncated(net: MobileNet, network: Network) -> dict[str, Tensor]:
    """The state of `net` with the strongest channels of every space, as many as `network` has of it.

    Args:
        net: A classifier.
        network: With as many blocks. Where it has more channels than `net`, all are kept.
    """
    wanted, carried = sizes(network), strength(net)
    kept: Mapping[Space, Tensor] = {
        space: carried[space].topk(min(size, len(carried[space]))).indices.sort().values
        for space, size in wanted.items()
        if space in carried
    }
    state = dict(net.state_dict())
    for one in wiring(net.network):
        names = [f"{one.layer}.weight", f"{one.layer}.bias"]
        names += [f"{one.norm}.{name}" for name in OF_NORMS] if one.norm else []
        if one.writes is not None and one.writes in kept:
            state |= {name: state[name][kept[one.writes]] for name in names if name in state}
        if one.reads is not None and one.reads in kept:
            state[names[0]] = state[names[0]][:, kept[one.reads]]
    return state
