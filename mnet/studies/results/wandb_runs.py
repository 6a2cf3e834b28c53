"""Runs that were logged to W&B, read back as what a results folder has of them: through W&B's API, or from the files
that it wrote offline."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import wandb

from mnet.errors import ConfigError
from mnet.settings import coerce, hints
from mnet.studies.results.archive import RESOLVED, Finished, described_trial
from mnet.studies.runs.tracking import LOGIN, PROVENANCE, TRAINED, first_line, has_account, summary_names
from mnet.studies.trial import Trial
from mnet.tasks import TASKS

WHOLE = ("params", "madds", "threads", "replicas")
"""Of a result: numbers that are whole, which JSON does not tell."""


@dataclass(frozen=True)
class Address:
    """A project on W&B, or some of its runs."""

    project: str
    """entity/project."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """As the API takes them."""


def read_address(source: str) -> Address | None:
    """What is meant by `entity/project`, `entity/project/sweeps/<id>`, `entity/project/runs/<id>` or
    `entity/project/<id of a run>`, with `wandb:` or `https://<host>/` before it; None if it is none of these."""
    path = re.sub(r"^(wandb:|https?://[^/]+)/*|[?#].*$", "", source)
    path = re.sub(r"(/(workspace|table|overview))?/*$", "", path)
    found = re.fullmatch(r"([\w.-]*\w/[\w.-]*\w)(?:/(?:(sweeps|runs)/)?([\w-]+))?", path)
    if found is None:
        return None
    project, kind, name = found.groups()
    return Address(project, {} if name is None else {"sweep" if kind == "sweeps" else "name": name})


def online_runs(address: Address) -> list[Finished]:
    """The finished runs at an address, oldest first.

    Raises:
        ConfigError: There is no account, no network or no such project.
    """
    asked = f"no such folder, and W&B cannot be asked for {'/'.join([address.project, *address.filters.values()])}"
    if not has_account():
        raise ConfigError(f"{asked}: no W&B account; {LOGIN}")
    try:
        api = wandb.Api()
        runs = api.runs(address.project, filters={"state": "finished", **address.filters}, lazy=False)
        logged = [(run.path, dict(run.config), dict(run.summary)) for run in runs]
    except Exception as error:  # wandb's have no class in common: Error, ValueError, and an internal one of its core
        raise ConfigError(f"{asked}: {first_line(error)}") from None
    return [found for path, config, summary in logged if (found := read_run("/".join(path), config, summary))]


def offline_runs(files: Iterable[Path]) -> Iterator[Finished]:
    """The finished runs in files that W&B wrote offline.

    Raises:
        ConfigError: The installed wandb writes them in another way.
    """
    for path in files:
        if (found := read_run(str(path), *read_offline(path))) is not None:
            yield found


def read_run(where: str, config: Mapping[str, object], summary: Mapping[str, object]) -> Finished | None:
    """A run as `tracking` logged it; None where the run is none of ours, or not finished.

    Args:
        where: Names the run in errors.
        config: Settings by name.
        summary: The last value of each metric.

    Raises:
        ConfigError: It has settings that this mnet does not know.
    """
    names = next((named for task in TASKS.values() if (named := summary_names(task)).keys() <= summary.keys()), None)
    if names is None or not {"study", "run_id"} <= config.keys():
        return None
    try:
        trial = described_trial(config)
        measured = {name: number(name, summary[shown]) for shown, name in names.items()}
        trained = resolved(trial, config)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"W&B run {where}: {error}") from None
    told = {name: summary[name] for name in PROVENANCE if name in summary}
    made = {name: number(name, value) if isinstance(value, int | float) else value for name, value in told.items()}
    return Finished(str(config["study"]), trial, {"run_id": config["run_id"], **trained, **measured, **made})


def number(name: str, value: object) -> int | float:
    """A number of a result in its own type: JSON has 50 for 50.0, and W&B may have 1e6 for 1000000."""
    return int(float(str(value))) if name in WHOLE else float(str(value))


def resolved(trial: Trial, config: Mapping[str, object]) -> dict[str, object]:
    """The numbers that recipe and data set decide where the settings do not."""
    kept = config.get(TRAINED)
    own = {**config, **(kept if isinstance(kept, Mapping) else {})}
    recipe = trial.full_recipe()
    default = {**{name: getattr(recipe, name) for name in RESOLVED}, "resolution": trial.input_spec().resolution}
    told = {name: coerce(name, own.get(name), hints(Trial)[name]) for name in default}
    return {name: default[name] if value is None else value for name, value in told.items()}


HEADER, BLOCK = struct.Struct("<IHB"), 32768
MARK = b":W&B\xe1\xbe\x00"
WHOLE_RECORD, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_offline(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Config and summary of a run in W&B's own file.

    wandb 0.30 has no reader in Python (older ones had `DataStore`; the core, in Go, only syncs). The records are its
    `Record` messages in the log format of LevelDB.

    Raises:
        ConfigError: The installed wandb has other messages, or the file is none.
    """
    try:
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

        config: dict[str, object] = {}
        summary: dict[str, object] = {}
        for content in log_records(path.read_bytes()):
            record = Record.FromString(content)
            for kept, change in ((config, record.run.config), (config, record.config), (summary, record.summary)):
                for item in change.update:
                    kept[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
                for item in change.remove:
                    kept.pop(item.key or ".".join(item.nested_key), None)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        upload = f"`.venv/bin/wandb sync {path.parent}` may still upload it"
        raise ConfigError(f"{path} cannot be read with wandb {wandb.__version__}: {error}; {upload}") from None
    return config, summary


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a log, up to where a kill has cut it off.

    Raises:
        ValueError: It does not begin as W&B's do, or is damaged.
    """
    if not content.startswith(MARK):
        raise ValueError("it does not begin as a run of W&B")
    at, parts = len(MARK), b""
    while at + HEADER.size <= len(content):
        if (left := BLOCK - at % BLOCK) < HEADER.size:  # too small for a header: zeros
            at += left
            continue
        check, size, kind = HEADER.unpack_from(content, at)
        chunk = content[at + HEADER.size : at + HEADER.size + size]
        if len(chunk) < size:
            return
        if kind not in (WHOLE_RECORD, FIRST, MIDDLE, LAST) or zlib.crc32(bytes([kind]) + chunk) != check:
            raise ValueError(f"it is damaged at byte {at}")
        parts = chunk if kind in (WHOLE_RECORD, FIRST) else parts + chunk
        if kind in (WHOLE_RECORD, LAST):
            yield parts
        at += HEADER.size + size
