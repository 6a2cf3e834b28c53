"""What NetAdapt may do next to a network: take channels from one expansion, or from one bottleneck.

Source: V3 §4.2. Blocks that shortcuts join share their bottleneck and are narrowed together; no proposal makes or
breaks a shortcut. Last 1x1, hidden layer and stem stay, unless a shortcut ties the stem to the first bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mnet.models.cost import cost as cost_of
from mnet.models.spec import Network
from mnet.weights.truncation import Space, bottleneck_spaces, sizes

DIVISOR = 8
"""Channels stay multiples of it, as in the papers' tables."""

Cost = Callable[[Network], float]
"""What a network costs: milliseconds, or multiply-adds."""


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


def proposals(network: Network, cost: Cost, least: float) -> Iterator[Proposal]:
    """One for every space from which channels can be taken so that `cost` falls by at least `least`: as few as do it.

    Args:
        network: To be narrowed.
        cost: Of a network.
        least: In the unit of `cost`.
    """
    wanted, shortcuts = cost(network) - least, bottleneck_spaces(network)
    for space, before in sizes(network).items():
        if not space.startswith(("expansion", "bottleneck")) and space not in shortcuts:
            continue
        for after in range((before - 1) // DIVISOR * DIVISOR, 0, -DIVISOR):
            narrowed = resized(network, space, after)
            if bottleneck_spaces(narrowed) == shortcuts and (found := cost(narrowed)) <= wanted:
                yield Proposal(space, before, after, narrowed, found)
                break


def resized(network: Network, space: Space, channels: int) -> Network:
    """The network with so many channels in an expansion or a bottleneck."""
    kind, _, number = space.partition(".")
    rows = list(network.blocks)
    if kind == "expansion":
        rows[int(number)] = replace(rows[int(number)], expansion=channels)
    for i, own in enumerate(bottleneck_spaces(network)):
        if own == space:
            rows[i] = replace(rows[i], out_channels=channels)
    stem = replace(network.stem, out_channels=channels) if space == "stem" else network.stem
    return replace(network, stem=stem, blocks=tuple(rows))
