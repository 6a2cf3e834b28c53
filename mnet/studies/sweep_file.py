"""Sweep files of a grid, checked before anything runs against what W&B allows and what a trial accepts.

Other methods of W&B (random, bayes) draw their settings. Such a file can be registered with W&B, which checks it; only
a grid can run as a study.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from mnet.errors import ConfigError, shown, text, unknown
from mnet.studies.options import OPTIONS, VARIANT, read_option, read_variant
from mnet.studies.sources import Place, Source, read_source
from mnet.tasks import TASKS

METHODS = ("grid", "random", "bayes")

METRICS: Mapping[str, str] = {
    **{f"val/{metric.name}": "maximize" for task in TASKS.values() for metric in task.metrics},
    "val/loss": "minimize",
}
"""The metrics that a run logs, and their goals."""

WANDB_ONLY = ("early_terminate", "run_cap", "controller", "job", "image_uri")
"""Keys that control how W&B runs a sweep; a study has no counterpart."""
KEYS = (
    *("program", "method", "metric", "parameters", "name", "description", "command", "project", "entity"),
    *("apiVersion", "kind", *WANDB_ONLY),
)

MACROS = (
    *("env", "interpreter", "program", "args", "args_no_hyphens", "args_no_boolean_flags", "args_no_equals"),
    *("args_append_hydra", "args_override_hydra", "args_json", "args_json_file", "args_dict", "envvar"),
)

Grid = dict[str, list[object]]
"""Option -> its values, the baseline's first."""


def check_sweep(path: Path) -> dict[str, object]:
    """The content of a sweep file to register with W&B.

    Raises:
        ConfigError: The file is not a sweep; or a grid has a mistake. The message has file, line and nearest spelling.
    """
    return _check(read_source(path))


def read_grid(source: Source) -> Grid:
    """The values of every option of a grid sweep.

    Raises:
        ConfigError: As `check_sweep`; or the file cannot be a study: it has another method, no seeds, or a key that
            only W&B follows.
    """
    content = _check(source)
    if content["method"] != "grid":
        raise source.error(
            ("method",),
            f"a study takes `method: grid`, not {content['method']}; to let W&B draw the settings, use "
            f"`make sweep STUDY={source.path.stem}` and `make agent`",
        )
    for key in WANDB_ONLY:
        if key in content:
            fix = f"remove it, or use `make sweep STUDY={source.path.stem}`"
            raise source.error((key,), f"{key} works on W&B only; a study runs every cell to the end: {fix}")
    parameters = cast(dict[str, dict[str, object]], content["parameters"])
    if "seed" not in parameters:
        raise source.error(("parameters",), "no seed: cells are compared seed by seed; add `seed: {values: [0, 1, 2]}`")
    return {name: [read_option(name, value) for value in values_of(entry)] for name, entry in parameters.items()}


def values_of(entry: Mapping[str, object]) -> list[object]:
    """The values of a parameter, listed or single."""
    return cast(list[object], entry["values"]) if "values" in entry else [entry["value"]]


def _check(source: Source) -> dict[str, object]:
    content = source.content
    if not isinstance(content, dict):
        raise source.error((), "a sweep file is a mapping with `method`, `metric` and `parameters`")
    _check_keys(source, (), content, "key", KEYS)
    if "method" not in content:
        raise source.error((), f"no method; one of {', '.join(METHODS)}")
    if content["method"] not in METHODS:
        raise source.error(("method",), unknown("method", content["method"], METHODS))
    if not isinstance(content.get("parameters"), dict) or not content["parameters"]:
        raise source.error(("parameters",), "no parameters; add one such as `activation: {values: [paper, relu]}`")
    if content["method"] == "grid":
        _check_text(source, content)
        _check_metric(source, content)
        _check_parameters(source, content["parameters"])
    return content


def _check_keys(source: Source, at: Place, mapping: Mapping[str, object], kind: str, allowed: Iterable[str]) -> None:
    for key in mapping:
        if key not in allowed:
            raise source.error((*at, key), unknown(kind, key, allowed))


def _check_text(source: Source, content: Mapping[str, object]) -> None:
    for key in ("program", "name", "description"):
        if not isinstance(content.get(key, ""), str):
            raise source.error((key,), f"{key} must be text, not {shown(content[key])}")
    command = content.get("command", [])
    if not isinstance(command, list):
        raise source.error(("command",), f"command must be a list, not {shown(command)}")
    for i, part in enumerate(command):
        for macro in re.findall(r"\$\{(\w*)\}", str(part)):
            if macro not in MACROS:
                raise source.error(("command", i), unknown("macro", macro, MACROS))


def _check_metric(source: Source, content: Mapping[str, object]) -> None:
    metric = content.get("metric")
    if not isinstance(metric, dict) or "name" not in metric:
        raise source.error(("metric",), "no metric; add `metric: {name: val/top1, goal: maximize}`")
    _check_keys(source, ("metric",), metric, "key", ("name", "goal", "target"))
    name = metric["name"]
    if name not in METRICS:
        raise source.error(("metric", "name"), unknown("metric", name, METRICS))
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in METRICS.values():
        raise source.error(("metric", "goal"), unknown("goal", goal, sorted(set(METRICS.values()))))
    if goal != METRICS[name]:
        raise source.error(("metric", "goal"), f"{name} needs `goal: {METRICS[name]}`; W&B minimizes by default")


def _check_parameters(source: Source, parameters: Mapping[str, object]) -> None:
    for name, entry in parameters.items():
        at: Place = ("parameters", name)
        if name not in OPTIONS:
            raise source.error(at, unknown("parameter", name, OPTIONS))
        if isinstance(entry, dict):
            _check_keys(source, at, entry, f"key of {name} in a grid", ("value", "values"))
        if not isinstance(entry, dict) or len(entry) != 1:
            raise source.error(at, f"{name} needs either `value:` or `values:`")
        _check_values(source, at, entry)
    _check_variants(source, cast(dict[str, dict[str, object]], parameters))


def _check_values(source: Source, at: Place, entry: Mapping[str, object]) -> None:
    name = str(at[-1])
    if "values" in entry and (not isinstance(entry["values"], list) or not entry["values"]):
        raise source.error((*at, "values"), f"the values of {name} must be a list with at least one value")
    values: set[object] = set()
    for i, value in enumerate(values_of(entry)):
        value_at: Place = (*at, "values", i) if "values" in entry else (*at, "value")
        try:
            one = read_option(name, value)
        except ConfigError as error:
            raise source.error(value_at, error) from None
        if one in values:
            raise source.error(value_at, f"{name} lists {text(one)} twice")
        values.add(one)


def _check_variants(source: Source, parameters: Mapping[str, dict[str, object]]) -> None:
    """Check that no setting is both in a variant and a separate parameter."""
    for i, variant in enumerate(values_of(parameters[VARIANT]) if VARIANT in parameters else ()):
        for name in read_variant(str(read_option(VARIANT, variant))):
            if name in parameters:
                at: Place = ("parameters", VARIANT, "values", i)
                raise source.error(at, f"variant {shown(variant)} sets {name}, which is also a separate parameter")
