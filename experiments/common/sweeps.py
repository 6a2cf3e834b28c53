"""The studies of this repository: their sweep files, and the profiles that set their scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mnet.studies.options import listed
from mnet.studies.runs.store import PUBLISHED
from mnet.studies.study import Study, load_profile, load_study

HERE = Path(__file__).parents[1]
SWEEPS, CLAIMS_FILE, PROFILES_FILE = HERE / "sweeps", HERE / "claims.yaml", HERE / "profiles.yaml"
PUBLISHED_RESULTS = HERE.parent / "results" / PUBLISHED
STUDIES_HELP = "a study of experiments/sweeps, by its name or path; several, or all"


def sweep_file(study: str) -> Path:
    """The file of a study, by its name or path."""
    return Path(study) if study.endswith((".yaml", ".yml")) else SWEEPS / f"{study}.yaml"


def overrides(
    study: str, profile: str, seeds: int | None, settings: Mapping[str, object]
) -> dict[str, Sequence[object]]:
    """Option -> the values that replace those of a study's file: the profile's, then the command line's.

    Args:
        study: The study's name.
        profile: An entry of profiles.yaml.
        seeds: How many seeds; None = those of the file.
        settings: Option -> value or list of values; a comma in a text separates values.

    Raises:
        ConfigError: An unknown profile, or a mistake in it.
    """
    values: dict[str, Sequence[object]] = dict(load_profile(PROFILES_FILE, profile, study))
    values |= {name: _values(name, value) for name, value in settings.items()}
    if seeds is not None:
        values["seed"] = range(seeds)
    return values


def _values(name: str, value: object) -> Sequence[object]:
    if isinstance(value, str):
        return listed(name, value)
    return value if isinstance(value, list) else [value]


def load_sweep(
    study: str, profile: str, seeds: int | None = None, settings: Mapping[str, object] | None = None
) -> Study:
    """Load a study from its file, changed by `overrides`.

    Raises:
        ConfigError: An unknown study, profile, setting or value.
    """
    path = sweep_file(study)
    return load_study(path, overrides(path.stem, profile, seeds, settings or {}))
