"""Names and values in any spelling (a command line, a sweep file, a table) to a `Trial`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mnet.errors import ConfigError, text
from mnet.settings import NONE_TEXTS, check_names, coerce, field_help, hints, parse
from mnet.studies.trial import Trial

PARAMETERS = tuple(hints(Trial))
"""Every setting of a trial."""

VARIANT = "variant"
"""The option whose value is several settings in one string."""

OPTIONS = (*PARAMETERS, VARIANT)
"""Every name that a sweep file or a command line may set."""


def trial_from(options: Mapping[str, object]) -> Trial:
    """The trial that these options describe, in any spelling: the one way from names and values to a Trial.

    Raises:
        ConfigError: An unknown name, a value that does not fit, a setting given by `variant` and beside it, or a
            combination that cannot be built.
    """
    return parse(Trial, expand(options), "parameter")


def expand(options: Mapping[str, object]) -> dict[str, object]:
    """The options with `variant` written out: `{"variant": "se=true kernel=5"}` is `{"se": True, "kernel": 5}`.

    Raises:
        ConfigError: As `trial_from`, combinations apart.
    """
    check_names("parameter", options, OPTIONS)
    beside = {name: value for name, value in options.items() if name != VARIANT}
    if VARIANT not in options:
        return beside
    variant = read_option(VARIANT, options[VARIANT])
    inside = read_variant(str(variant))
    for name in inside:
        if name in beside:
            raise ConfigError(
                f"{name} is given twice: by variant {variant!r} and as {name}={text(beside[name])}; give one of them"
            )
    return beside | inside


def read_option(name: str, value: object) -> object:
    """The value of one of `OPTIONS`, checked, in its own type; a variant stays one string.

    Raises:
        ConfigError: An unknown name, or a value that does not fit.
    """
    if name != VARIANT:
        check_names("parameter", [name], OPTIONS)
        return coerce(name, value, hints(Trial)[name])
    if value is None or value in NONE_TEXTS:
        return text(None)
    if not isinstance(value, str):
        raise ConfigError(f"variant must be settings in one string, as 'se=true kernel=5', or paper, not {value!r}")
    read_variant(value)
    return " ".join(value.split())


def read_variant(variant: str) -> dict[str, object]:
    """The settings of a variant: `se=true kernel=5` -> `{"se": True, "kernel": 5}`; `paper` sets nothing."""
    settings: dict[str, object] = {}
    for word in variant.split() if variant not in NONE_TEXTS else ():
        name, equals, value = word.partition("=")
        try:
            if not equals and name not in PARAMETERS:
                raise ConfigError(f"{word!r} is no setting; write NAME=VALUE, with spaces between, or paper alone")
            check_names("parameter", [name], PARAMETERS)
            if not value:
                raise ConfigError(f"{name} has no value; write {name}=VALUE")
            if name in settings:
                raise ConfigError(f"{name} is given twice")
            settings[name] = coerce(name, value, hints(Trial)[name])
        except ConfigError as error:
            raise ConfigError(f"in variant {variant!r}: {error}") from None
    return settings


def cell_name(options: Mapping[str, object]) -> str:
    """What a cell of a study is called: the values that are varied, `relu` or `se=true, se_ratio=0.5`; a variant
    as it is written, `se=true kernel=5`."""
    if len(options) == 1:
        return text(next(iter(options.values())))
    return ", ".join(text(value) if name == VARIANT else f"{name}={text(value)}" for name, value in options.items())


@cache
def field_docs() -> dict[str, str]:
    """Option -> its documentation: the docstring under the field."""
    return {
        **field_help(Trial),
        VARIANT: "Settings that go together, in one string, as 'se=true kernel=5'; paper = none.",
    }
