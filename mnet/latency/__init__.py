"""Speed as ratios: variants timed side by side in one process, with an interval."""

from mnet.latency.paired import Ratio, Sample, paired_ratios, timed

__all__ = ["Ratio", "Sample", "paired_ratios", "timed"]
