"""The width multiplier that gives a network a wanted number of multiply-adds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cache

from mnet.errors import ConfigError
from mnet.models.cost import cost
from mnet.models.spec import Network
from mnet.models.toggles import width as with_width

WIDTHS = tuple(step / 200 for step in range(10, 801))
"""The candidates: 0.05 to 4 in steps of 0.005."""


@cache
def solve_width(network: Network, resolution: int, millions: float) -> float:
    """The width of `WIDTHS` at which `network` comes nearest to `millions` of multiply-adds.

    Of widths with the same multiply-adds, the one that is shortest to write (1.0 before 0.995).

    Args:
        network: At width 1.
        resolution: Height and width of the images, in pixels.
        millions: Wanted multiply-adds / 1e6.

    Raises:
        ConfigError: No width reaches it; the message has the range.
    """

    @cache
    def madds(width: float) -> int:  # never falls as the width grows
        return cost(with_width(network, width), resolution).madds

    lowest, highest = madds(WIDTHS[0]), madds(WIDTHS[-1])
    if not lowest <= millions * 1e6 <= highest:
        raise ConfigError(
            f"target_madds={millions:g} is out of reach of {network.name} at {resolution} px: "
            f"{lowest / 1e6:.3g} to {highest / 1e6:.4g} (million, widths {WIDTHS[0]} to {WIDTHS[-1]:g})"
        )
    above = bisect_left(WIDTHS, millions * 1e6, key=madds)
    around = madds(WIDTHS[max(0, above - 1)]), madds(WIDTHS[above])
    nearest = min(around, key=lambda count: abs(count - millions * 1e6))
    equal = WIDTHS[bisect_left(WIDTHS, nearest, key=madds) : bisect_right(WIDTHS, nearest, key=madds)]
    return min(equal, key=lambda width: (len(str(width)), width))
