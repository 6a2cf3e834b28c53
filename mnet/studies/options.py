"""Build a `Trial` from names and values as a command line, a sweep file or a table spells them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mnet.errors import ConfigError, shown, text
from mnet.settings import NONE_TEXTS, check_names, coerce, field_help, hints, parse
from mnet.studies.trial import Trial

PARAMETERS = tuple(hints(Trial))
"""Every setting of a trial."""

VARIANT = "variant"
"""The option that holds several settings in one string."""

MAY_BE_PATHS = ("model", "pretrained")
"""Options whose value is a name, or a path that exists."""

OPTIONS = (*PARAMETERS, VARIANT)
"""Every name that a sweep file or a command line may set."""


def trial_from(options: Mapping[str, object]) -> Trial:
    """The trial that these options describe.

    Raises:
        ConfigError: An unknown name, a value of the wrong type, a setting both in `variant` and on its own, or a
            combination that cannot be built.
    """
    return parse(Trial, expand(options), "parameter")


def expand(options: Mapping[str, object]) -> dict[str, object]:
    """The options with `variant` written out: `{"variant": "se=true kernel=5"}` is `{"se": True, "kernel": 5}`.

    Raises:
        ConfigError: As `trial_from`, except for combinations.
    """
    check_names("parameter", options, OPTIONS)
    settings = {name: value for name, value in options.items() if name != VARIANT}
    if VARIANT not in options:
        return settings
    variant = read_option(VARIANT, options[VARIANT])
    variant_settings = read_variant(str(variant))
    for name in variant_settings:
        if name in settings:
            raise ConfigError(
                f"{name} is given twice: by variant {shown(variant)} and as {name}={text(settings[name])}; "
                "give one of them"
            )
    return settings | variant_settings


def listed(name: str, text: str) -> list[str]:
    """The comma-separated values of an option. A path is one value, even with commas in its name."""
    is_path = hints(Trial).get(name) is Path or (name in MAY_BE_PATHS and _exists(text))
    return [text] if is_path else text.split(",")


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # name too long; no such home folder
        return False


def read_option(name: str, value: object) -> object:
    """The value of one of `OPTIONS`, checked and converted to its type; a variant stays one string.

    Raises:
        ConfigError: An unknown name, or a value of the wrong type.
    """
    if name != VARIANT:
        check_names("parameter", [name], OPTIONS)
        return coerce(name, value, hints(Trial)[name])
    if value is None or value in NONE_TEXTS:
        return text(None)
    if not isinstance(value, str):
        raise ConfigError(f"variant must be settings in one string, such as 'se=true kernel=5', not {shown(value)}")
    read_variant(value)
    return " ".join(value.split())


def read_variant(variant: str) -> dict[str, object]:
    """The settings of a variant: `se=true kernel=5` -> `{"se": True, "kernel": 5}`; `paper` sets nothing."""
    settings: dict[str, object] = {}
    for word in variant.split() if variant not in NONE_TEXTS else ():
        name, equals, value = word.partition("=")
        try:
            if not equals and name not in PARAMETERS:
                raise ConfigError(
                    f"unknown setting {shown(word)}; expected NAME=VALUE, separated by spaces, or just paper"
                )
            check_names("parameter", [name], PARAMETERS)
            if not value:
                raise ConfigError(f"{name} has no value; write {name}=VALUE")
            if name in settings:
                raise ConfigError(f"{name} is given twice")
            settings[name] = coerce(name, value, hints(Trial)[name])
        except ConfigError as error:
            raise ConfigError(f"in variant {shown(variant)}: {error}") from None
    return settings


def cell_name(options: Mapping[str, object]) -> str:
    """The name of a cell: the values that vary, such as `relu` or `se=true, se_ratio=0.5`; a variant is written as
    given, such as `se=true kernel=5`."""
    if len(options) == 1:
        return text(next(iter(options.values())))
    return ", ".join(text(value) if name == VARIANT else f"{name}={text(value)}" for name, value in options.items())


@cache
def field_docs() -> dict[str, str]:
    """Option -> its documentation: the docstring under the field."""
    return {
        **field_help(Trial),
        VARIANT: "Several settings in one string, such as 'se=true kernel=5'; paper = none.",
    }
