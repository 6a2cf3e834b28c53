"""Speed as ratios: variants timed side by side in one process, with an interval."""

from mnet.latency.comparison import compare
from mnet.latency.paired import Ratio, Sample, paired_ratios, timed
from mnet.latency.runtimes import RUNTIMES

__all__ = ["RUNTIMES", "Ratio", "Sample", "compare", "import_results", "paired_ratios", "timed"]


def __getattr__(name: str) -> object:
    if name == "import_results":
        from mnet.latency.phone import import_results

        return import_results
    raise AttributeError(name)
