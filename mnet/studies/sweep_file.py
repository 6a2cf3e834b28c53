"""What W&B lets a sweep file say, and what a trial understands of it: checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from mnet.errors import ConfigError, text, unknown
from mnet.settings import coerce
from mnet.studies.options import OPTIONS, VARIANT, read_option, read_variant
from mnet.studies.sources import Place, Source, read_source
from mnet.tasks import TASKS

METHODS = ("grid", "random", "bayes")

METRICS: Mapping[str, str] = {
    **{f"val/{metric.name}": "maximize" for task in TASKS.values() for metric in task.metrics},
    "val/loss": "minimize",
}
"""What a run logs, and its goal."""

KEYS = (
    *("program", "method", "metric", "parameters", "name", "description", "command", "project", "entity"),
    *("early_terminate", "run_cap", "controller", "job", "image_uri", "apiVersion", "kind"),
)
WANDB_ONLY = ("early_terminate", "run_cap", "controller", "job", "image_uri")
"""Keys that say how W&B runs a sweep, and that a study here could not follow."""

MACROS = (
    *("env", "interpreter", "program", "args", "args_no_hyphens", "args_no_boolean_flags", "args_no_equals"),
    *("args_append_hydra", "args_override_hydra", "args_json", "args_json_file", "args_dict", "envvar"),
)

RANGE, SPREAD = ("min", "max"), ("mu", "sigma")
DISTRIBUTIONS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (RANGE, ()),
    "uniform": (RANGE, ()),
    "q_uniform": (RANGE, ("q",)),
    "log_uniform": (RANGE, ()),
    "log_uniform_values": (RANGE, ()),
    "inv_log_uniform": (RANGE, ()),
    "inv_log_uniform_values": (RANGE, ()),
    "q_log_uniform": (RANGE, ("q",)),
    "q_log_uniform_values": (RANGE, ("q",)),
    "normal": ((), SPREAD),
    "q_normal": ((), (*SPREAD, "q")),
    "log_normal": ((), SPREAD),
    "q_log_normal": ((), (*SPREAD, "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
"""Distribution -> the keys that it needs, and those that it may have. Source: the schema of W&B's package `sweeps`."""

WEIGHTED = "categorical_w_probabilities"
LISTED = ("constant", "categorical")
"""Those that name their values; the others draw."""

ENTRY = ("distribution", *dict.fromkeys(key for needs, may in DISTRIBUTIONS.values() for key in (*needs, *may)))

Grid = dict[str, list[object]]
"""Option -> its values, the first of the baseline."""


def check_sweep(path: Path) -> dict[str, object]:
    """The content of a sweep file that W&B may run, by any of its methods.

    Raises:
        ConfigError: Anything that W&B or a trial would refuse later; with file, line and nearest spelling.
    """
    return check(read_source(path))


def read_grid(source: Source) -> Grid:
    """The values of every option of a grid sweep.

    Raises:
        ConfigError: As `check_sweep`; and what cannot be a study here: another method, no seeds, a key that only
            W&B follows.
    """
    content = check(source)
    if content["method"] != "grid":
        raise source.error(
            ("method",),
            f"method {content['method']!r} draws its settings; a study compares a grid with its first cell, seed by "
            f"seed: use `method: grid` here, or let W&B draw: `make sweep STUDY={source.path.stem}`, then `make agent`",
        )
    for key in WANDB_ONLY:
        if key in content:
            way = f"remove it, or use `make sweep STUDY={source.path.stem}`"
            raise source.error((key,), f"{key} is W&B's alone; a study runs all its cells to their end: {way}")
    parameters = cast(dict[str, dict[str, object]], content["parameters"])
    if "seed" not in parameters:
        raise source.error(("parameters",), "no seed: cells are compared seed by seed; add `seed: {values: [0, 1, 2]}`")
    return {name: [read_option(name, value) for value in values_of(entry)] for name, entry in parameters.items()}


def values_of(entry: Mapping[str, object]) -> list[object]:
    return cast(list[object], entry["values"]) if "values" in entry else [entry["value"]]


def check(source: Source) -> dict[str, object]:
    content = source.content
    if not isinstance(content, dict):
        raise source.error((), "a sweep file is a mapping with `method`, `metric` and `parameters`")
    check_keys(source, (), content, "key", KEYS)
    check_method(source, content)
    for key in ("program", "name", "description"):
        if not isinstance(content.get(key, ""), str):
            raise source.error((key,), f"{key} must be text, not {content[key]!r}")
    check_command(source, content.get("command", []))
    check_metric(source, content)
    check_parameters(source, content)
    return content


def check_keys(source: Source, at: Place, given: Mapping[str, object], kind: str, allowed: Iterable[str]) -> None:
    for key in given:
        if key not in allowed:
            raise source.error((*at, key), unknown(kind, key, allowed))


def check_method(source: Source, content: Mapping[str, object]) -> None:
    if "method" not in content:
        raise source.error((), f"no method; one of {', '.join(METHODS)}")
    if content["method"] not in METHODS:
        raise source.error(("method",), unknown("method", content["method"], METHODS))
    stop = content.get("early_terminate")
    if stop is not None and (not isinstance(stop, dict) or stop.get("type") != "hyperband"):
        raise source.error(("early_terminate", "type"), "early_terminate must be a mapping with `type: hyperband`")


def check_command(source: Source, command: object) -> None:
    if not isinstance(command, list):
        raise source.error(("command",), f"command must be a list, not {command!r}")
    for i, part in enumerate(command):
        for macro in re.findall(r"\$\{(\w*)\}", str(part)):
            if macro not in MACROS:
                raise source.error(("command", i), unknown("macro", macro, MACROS))


def check_metric(source: Source, content: Mapping[str, object]) -> None:
    metric = content.get("metric")
    if not isinstance(metric, dict) or "name" not in metric:
        raise source.error(("metric",), "no metric; `metric: {name: val/top1, goal: maximize}`")
    check_keys(source, ("metric",), metric, "key", ("name", "goal", "target", "impute", "impute_while_running"))
    name = metric["name"]
    if name not in METRICS:
        raise source.error(("metric", "name"), unknown("metric", name, METRICS))
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in METRICS.values():
        raise source.error(("metric", "goal"), unknown("goal", goal, sorted(set(METRICS.values()))))
    if goal != METRICS[name]:
        raise source.error(("metric", "goal"), f"{name} needs `goal: {METRICS[name]}`; W&B minimizes unless told")


def check_parameters(source: Source, content: Mapping[str, object]) -> None:
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise source.error(
            ("parameters",), "no parameters; name at least one, as `activation: {values: [paper, relu]}`"
        )
    for name, entry in parameters.items():
        at: Place = ("parameters", name)
        if name not in OPTIONS:
            raise source.error(at, unknown("parameter", name, OPTIONS))
        if not isinstance(entry, dict):
            raise source.error(at, f"{name} needs either `value:` or `values:`, not {entry!r}")
        if "parameters" in entry:
            raise source.error((*at, "parameters"), f"{name} has parameters inside; those of a trial are flat")
        check_keys(source, at, entry, f"key of {name}", ENTRY)
        kind = distribution(source, at, entry)
        if kind in (*LISTED, WEIGHTED):
            check_values(source, at, entry)
        if kind not in LISTED and content["method"] == "grid":
            raise source.error(
                (*at, "distribution"), f"{kind} draws at random, which a grid cannot: list `values:`, or "
                "use `method: random` or `bayes`, which W&B runs (`make sweep`)",
            )  # fmt: skip
        check_numbers(source, at, entry, kind)
    check_beside(source, parameters)


def distribution(source: Source, at: Place, entry: Mapping[str, object]) -> str:
    """The distribution that an entry names or implies; its keys are those that it needs."""
    name = at[-1]
    kind = entry.get("distribution")
    if kind is None:
        if ("value" in entry) == ("values" in entry) and "min" not in entry:
            raise source.error(at, f"{name} needs either `value:` or `values:`")
        kind = next((kind for kind, (needs, _) in DISTRIBUTIONS.items() if set(needs) == set(entry)), None)
        if kind is None:
            raise source.error(at, f"{name} cannot have {', '.join(sorted(entry))} together; name its distribution")
        whole = all(isinstance(entry.get(key), int) for key in RANGE)
        return "uniform" if kind == "int_uniform" and not whole else kind
    if kind not in DISTRIBUTIONS:
        raise source.error((*at, "distribution"), unknown("distribution", kind, DISTRIBUTIONS))
    needs, may = DISTRIBUTIONS[str(kind)]
    for key in entry:
        if key not in ("distribution", *needs, *may):
            raise source.error((*at, key), unknown(f"key of a {kind} distribution", key, (*needs, *may)))
    for key in needs:
        if key not in entry:
            raise source.error(at, f"{name}: a {kind} distribution needs `{key}:`")
    return str(kind)


def check_values(source: Source, at: Place, entry: Mapping[str, object]) -> None:
    name = str(at[-1])
    if "values" in entry and (not isinstance(entry["values"], list) or not entry["values"]):
        raise source.error((*at, "values"), f"the values of {name} must be a list with at least one value")
    found: list[object] = []
    for i, value in enumerate(values_of(entry)):
        where: Place = (*at, "values", i) if "values" in entry else (*at, "value")
        try:
            found.append(read_option(name, value))
        except ConfigError as error:
            raise source.error(where, error) from None
        if found[-1] in found[:-1]:
            raise source.error(where, f"{name} lists {text(found[-1])} twice")
    odds = entry.get("probabilities")
    if "probabilities" in entry and (not isinstance(odds, list) or len(odds) != len(found)):
        raise source.error((*at, "probabilities"), f"{name} needs a probability for each of its {len(found)} values")


def check_numbers(source: Source, at: Place, entry: Mapping[str, object], kind: str) -> None:
    """The numbers of a distribution that draws, for an option that takes what it draws."""
    name, numbers = str(at[-1]), {}
    if kind not in (*LISTED, WEIGHTED):
        try:
            read_option(name, 1 if kind == "int_uniform" or kind.startswith("q_") else 1.5)
        except ConfigError:
            message = f"{name} cannot be drawn from {kind}: it takes other values; list them with `values:`"
            raise source.error((*at, "distribution"), message) from None
    for key in set(entry) - {"distribution", "value", "values", "probabilities"}:
        try:
            numbers[key] = coerce(key, entry[key], float)
        except ConfigError as error:
            raise source.error((*at, key), error) from None
    if numbers.keys() >= set(RANGE) and numbers["min"] >= numbers["max"]:
        raise source.error((*at, "min"), f"min {entry['min']} must be below max {entry['max']}")
    if "min" in numbers and kind.endswith("_values") and numbers["min"] <= 0:
        raise source.error((*at, "min"), f"min of a {kind} distribution must be positive, not {entry['min']}")
    for key in ("sigma", "q", "a", "b"):
        if key in numbers and (numbers[key] < 0 or (key == "q" and numbers[key] == 0)):
            raise source.error((*at, key), f"{key} must be positive, not {entry[key]}")


def check_beside(source: Source, parameters: Mapping[str, dict[str, object]]) -> None:
    """No setting both in a variant and beside it."""
    for i, variant in enumerate(values_of(parameters[VARIANT]) if VARIANT in parameters else ()):
        for name in read_variant(str(read_option(VARIANT, variant))):
            if name in parameters:
                at: Place = ("parameters", VARIANT, "values", i)
                raise source.error(at, f"variant {variant!r} sets {name}, which is a parameter beside it too")
