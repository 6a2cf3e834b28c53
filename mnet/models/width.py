"""The width multiplier at which a network has a given cost."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cache

from mnet.errors import ConfigError
from mnet.models.cost import cost
from mnet.models.spec import Network
from mnet.models.toggles import width as with_width

WIDTHS = tuple(step / 200 for step in range(10, 801))
"""Where `target_madds` looks for a width: 0.05 to 4 in steps of 0.005."""


@cache
def solve_width(network: Network, resolution: int, millions: float) -> float:
    """The width of `WIDTHS` at which `network` comes nearest to so many million multiply-adds; of widths that
    round to the same channels, the one that is shortest to write (1.0 before 0.995).

    Args:
        network: At width 1.
        resolution: Height and width of the images.
        millions: Wanted multiply-adds / 1e6.

    Raises:
        ConfigError: No width comes that low or that high; the message has the range.
    """

    @cache
    def madds(alpha: float) -> int:  # never falls as alpha grows
        return cost(with_width(network, alpha), resolution).madds

    least, most = madds(WIDTHS[0]), madds(WIDTHS[-1])
    if not least <= millions * 1e6 <= most:
        raise ConfigError(
            f"target_madds={millions:g} is out of reach of {network.name} at {resolution} px: "
            f"{least / 1e6:.3g} to {most / 1e6:.4g} (million, widths {WIDTHS[0]} to {WIDTHS[-1]:g})"
        )
    above = bisect_left(WIDTHS, millions * 1e6, key=madds)
    nearest = min(madds(WIDTHS[max(0, above - 1)]), madds(WIDTHS[above]), key=lambda found: abs(found - millions * 1e6))
    same = WIDTHS[bisect_left(WIDTHS, nearest, key=madds) : bisect_right(WIDTHS, nearest, key=madds)]
    return min(same, key=lambda alpha: (len(str(alpha)), alpha))
