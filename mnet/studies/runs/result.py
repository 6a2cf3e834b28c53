"""The result of a run, `result.json`: its entries, and the values that each may have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict, cast, get_type_hints

from mnet.errors import ConfigError, shown
from mnet.tasks import TASKS

FORMAT = 2
"""Version of result.json; version 1 had no `format`, and no correct.npz next to it."""


class Result(TypedDict, total=False):
    """The content of result.json. Metrics are those of the run's task, in percent; times in seconds."""

    top1: float
    top5: float
    macro: float
    """Mean accuracy over classes, if a user's own classes differ in size."""
    map: float
    map_50: float
    map_75: float
    miou: float
    pixel_accuracy: float
    test_loss: float
    test_images: int
    """Only for annotated photographs, which may be a user's own in the format of a published data set."""
    val_top1: float
    val_map: float
    val_miou: float
    val_loss: float
    resolution: int
    epochs: int
    params: int
    madds: int
    train_seconds: float
    images_per_second: float
    dead_kernels: float
    """Share of the depthwise kernels that are dead, in percent."""
    device: str
    threads: int
    torch: str
    mnet: str
    revision: str
    replicas: int
    """Runs that were trained as one network."""
    compile: str
    finished: str
    """Date and time, UTC."""
    format: int
    pretrained_share: float
    start: str
    """What the run started from, unless that was a random network."""


TYPES: Mapping[str, type] = get_type_hints(Result)
MAY_BE_NAN = ("val_loss", *(f"val_{task.headline.name}" for task in TASKS.values()))
"""NaN if nothing was validated."""
PERCENT = (
    *(metric.name for task in TASKS.values() for metric in task.metrics),
    *(f"val_{task.headline.name}" for task in TASKS.values()),
    *("macro", "dead_kernels"),
)


def check_result(content: object) -> Result:
    """The entries of a result that mnet knows. Others are dropped, so that a file cannot rename its run.

    Raises:
        ConfigError: It is not a mapping, has no headline metric, or has a value of the wrong type or out of range.
    """
    if not isinstance(content, dict):
        raise ConfigError("it is not a mapping of names to values")
    result = {name: value for name, value in content.items() if name in TYPES}
    for name, value in result.items():
        check_value(name, value)
    tested = any(task.headline.name in result for task in TASKS.values())
    validated = [float(str(result[name])) for name in MAY_BE_NAN[1:] if name in result]
    if not tested and all(map(math.isnan, validated)):
        raise ConfigError("it has no result of any task")
    return cast(Result, result)


def check_value(name: str, value: object) -> None:
    """
    Raises:
        ConfigError: A value of a result, or of a column of that name, has the wrong type or is out of range.
    """
    kind = TYPES[name]
    if kind is str:
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be text, not {shown(value)}")
        return
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise ConfigError(f"{name} must be a {'whole ' if kind is int else ''}number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer with hundreds of digits
        number = math.inf
    if math.isnan(number) and name in MAY_BE_NAN:
        return
    most = most_of(name)
    if not (math.isfinite(number) and 0 <= number <= most):
        allowed = f"from 0 to {most:g}" if most < math.inf else "finite and not negative"
        raise ConfigError(f"{name} must be {allowed}, not {shown(value)}")


def most_of(name: str) -> float:
    """The largest value that an entry can have."""
    return 100.0 if name in PERCENT else 1.0 if name == "pretrained_share" else math.inf
