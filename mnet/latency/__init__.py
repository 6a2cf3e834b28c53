"""Speed as ratios: variants timed side by side in one process, with intervals."""

from mnet.latency.comparison import compare
from mnet.latency.paired import Ratio, paired_ratios
from mnet.latency.runtimes import RUNTIMES
from mnet.latency.timing import Sample, timed

__all__ = ["RUNTIMES", "Ratio", "Sample", "compare", "import_results", "paired_ratios", "timed"]


def __getattr__(name: str) -> object:
    if name == "import_results":
        from mnet.latency.phone import import_results

        return import_results
    raise AttributeError(name)
