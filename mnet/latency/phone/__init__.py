"""Latency on an Android phone: a folder with models and a script for it, and the phone's output as a table.

    script = write_kit({"paper": Path("a.tflite"), "relu": Path("b.tflite")}, Path("results/phone"))
    # sh results/phone/run.sh, with a phone attached
    table = import_results(Path("results/phone"))

The script calls the benchmark program of each runtime. To add a runtime: an entry in `RUNNERS`.
"""

from mnet.latency.phone.kit import write_kit
from mnet.latency.phone.results import import_results
from mnet.latency.phone.runners import RUNNERS

__all__ = ["RUNNERS", "import_results", "write_kit"]
