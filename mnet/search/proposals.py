"""NetAdapt's proposals for a network: fewer channels in one expansion or one bottleneck.

Source: V3 §4.2. Blocks joined by shortcuts share their bottleneck and are narrowed together; no proposal adds or
removes a shortcut. The last 1x1 and the hidden layer keep their channels, as does the stem unless a shortcut joins it
to the first bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mnet.models.cost import cost as cost_of
from mnet.models.spec import Network
from mnet.weights.truncation import Space, bottleneck_spaces, sizes

DIVISOR = 8
"""Channels stay multiples of this, as in the papers' tables."""

Cost = Callable[[Network], float]
"""The cost of a network: milliseconds, or multiply-adds."""


@dataclass(frozen=True)
class MAdds:
    """Multiply-adds, in millions, at a resolution in pixels."""

    resolution: int

    def __call__(self, network: Network) -> float:
        return cost_of(network, self.resolution).madds / 1e6

    def __str__(self) -> str:
        return f"madds at {self.resolution} px"


@dataclass(frozen=True)
class Proposal:
    """A network with fewer channels in one space."""

    space: Space
    before: int
    after: int
    network: Network
    cost: float

    def __str__(self) -> str:
        return f"{self.space} {self.before} -> {self.after}"


def proposals(network: Network, cost: Cost, saving: float) -> Iterator[Proposal]:
    """A proposal for every space that can save enough, with as few channels removed as possible.

    Args:
        network: The network to narrow.
        cost: The cost of a network.
        saving: Smallest reduction of the cost, in its unit.
    """
    limit, shortcuts = cost(network) - saving, bottleneck_spaces(network)
    for space, before in sizes(network).items():
        if not space.startswith(("expansion", "bottleneck")) and space not in shortcuts:
            continue
        for after in range((before - 1) // DIVISOR * DIVISOR, 0, -DIVISOR):
            narrowed = resized(network, space, after)
            if bottleneck_spaces(narrowed) == shortcuts and (narrowed_cost := cost(narrowed)) <= limit:
                yield Proposal(space, before, after, narrowed, narrowed_cost)
                break


def resized(network: Network, space: Space, channels: int) -> Network:
    """The network with `channels` channels in an expansion or a bottleneck."""
    kind, _, number = space.partition(".")
    rows = list(network.blocks)
    if kind == "expansion":
        rows[int(number)] = replace(rows[int(number)], expansion=channels)
    for i, bottleneck in enumerate(bottleneck_spaces(network)):
        if bottleneck == space:
            rows[i] = replace(rows[i], out_channels=channels)
    stem = replace(network.stem, out_channels=channels) if space == "stem" else network.stem
    return replace(network, stem=stem, blocks=tuple(rows))
