"""A kit for a phone: a folder with models, a schedule of random rounds and the script that runs it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from mnet.errors import ConfigError, unknown
from mnet.files import read_limited, write_atomic, write_json
from mnet.latency.paired import MIN_ROUNDS
from mnet.latency.phone.runners import RUNNERS, Runner

MANIFEST = "manifest.json"
_SCRIPT = Path(__file__).with_name("run.sh")


def write_kit(
    programs: Mapping[str, Path],
    folder: Path,
    *,
    baseline: str | None = None,
    threads: int = 1,
    rounds: int = 15,
    runs: int = 50,
    warmup: int = 10,
    big_cores: str = "f0",
    seed: int = 0,
) -> Path:
    """Write the models and `run.sh`, which times them on a phone.

    Args:
        programs: Exported models by variant; the suffix selects one of `RUNNERS`.
        folder: Where to write. The results of an earlier kit stay if its models are the same.
        baseline: A variant; None = the first.
        threads: Threads per model.
        rounds: In each, every variant runs once; at least `MIN_ROUNDS`.
        runs: Inferences per process.
        warmup: Inferences before these, if the benchmark program can warm up.
        big_cores: Hexadecimal mask of the cores to run on.
        seed: Seed of the order within rounds.

    Returns:
        The script.

    Raises:
        ConfigError: No model, a missing one, an unknown suffix or baseline, a number out of range, or a folder with
            results of other models.
    """
    baseline = _check_kit(programs, baseline, rounds, big_cores, threads=threads, runs=runs, warmup=warmup)
    contents = {name: path.read_bytes() for name, path in programs.items()}
    models = {
        f"{i:02d}-{_slug(name)}{path.suffix}": {
            "variant": name,
            "runtime": RUNNERS[path.suffix].runtime,
            "sha256": hashlib.sha256(contents[name]).hexdigest(),
        }
        for i, (name, path) in enumerate(programs.items())
    }
    if any((folder / "printed").glob("*.txt")) and read_manifest(folder)["models"] != models:
        raise ConfigError(f"{folder}/printed has results of other models; import them, then move the folder away")
    for file, model in models.items():
        _write_bytes(folder / "models" / file, contents[model["variant"]])
    for stale in {path.name for path in (folder / "models").iterdir()} - models.keys():
        (folder / "models" / stale).unlink()  # from a kit that was never run; the script would copy it
    (folder / "bin").mkdir(exist_ok=True)
    write_json(folder / MANIFEST, {"baseline": baseline, "models": models})
    random = np.random.default_rng(seed)
    schedule = [" ".join(random.permutation(list(models))) for _ in range(rounds)]
    _write_bytes(folder / "schedule.txt", "".join(f"{line}\n" for line in schedule).encode())
    runners = {path.suffix: RUNNERS[path.suffix] for path in programs.values()}
    numbers = {"ROUNDS": rounds, "RUNS": runs, "WARMUP": warmup, "THREADS": threads, "BIG_CORES": big_cores}
    script = _script(runners, {name: shlex.quote(str(value)) for name, value in numbers.items()})
    _write_bytes(folder / "run.sh", script.encode())
    (folder / "run.sh").chmod(0o755)
    return folder / "run.sh"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The kit's baseline and models.

    Raises:
        ConfigError: It is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(read_limited(path))
        models = manifest["models"].items()
        valid = all(
            Path(file).suffix in RUNNERS and Path(file).name == file and isinstance(model["variant"], str)
            for file, model in models
        )
        if not models or not valid or not isinstance(manifest["baseline"], str):
            raise KeyError("models")
    except FileNotFoundError:
        raise ConfigError(f"{folder} is not a kit for a phone: it has no {MANIFEST}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}); write the kit again") from None
    return cast(dict[str, Any], manifest)


def _write_bytes(path: Path, content: bytes) -> None:
    write_atomic(path, lambda stream: stream.write(content))


def _check_kit(programs: Mapping[str, Path], baseline: str | None, rounds: int, big_cores: str, **counts: int) -> str:
    """
    Returns:
        The baseline.

    Raises:
        ConfigError: As `write_kit`.
    """
    if not programs:
        raise ConfigError("no models to write for the phone")
    for name, path in programs.items():
        if path.suffix not in RUNNERS:
            raise unknown("suffix of a model", path.suffix, RUNNERS)
        if not path.is_file():
            raise ConfigError(f"the model of {name!r} is missing: {path}")
    if baseline is not None and baseline not in programs:
        raise unknown("baseline", baseline, programs)
    if rounds < MIN_ROUNDS:
        raise ConfigError(f"rounds is {rounds}; an interval needs at least {MIN_ROUNDS}")
    for name, value in counts.items():
        least = 0 if name == "warmup" else 1
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
    if not re.fullmatch("[0-9a-fA-F]+", big_cores) or not int(big_cores, 16):
        raise ConfigError(f"big_cores must be a hexadecimal mask of cores such as f0, not {big_cores!r}")
    return next(iter(programs)) if baseline is None else baseline


def _slug(variant: str) -> str:
    """A file name from a variant's name, without characters that a shell interprets."""
    return re.sub("[^a-z0-9._]+", "-", variant.lower())[:40].strip("-._") or "model"


def _script(runners: Mapping[str, Runner], numbers: Mapping[str, str]) -> str:
    """`run.sh` with the programs that the models need."""
    lines = {
        "SOURCES": "\n".join(f"#   bin/{runner.binary}\n{_comment(runner.source)}" for runner in runners.values()),
        "BINARIES": " ".join(shlex.quote(runner.binary) for runner in runners.values()),
        "COMMANDS": "\n".join(
            f'        *{suffix}) COMMAND="{runner.binary} {runner.arguments}" LOG={shlex.quote(runner.log)} ;;'
            for suffix, runner in runners.items()
        ),
        "MIN_ROUNDS": str(MIN_ROUNDS),
        **numbers,
    }
    return re.sub("@([A-Z_]+)@", lambda match: lines[match[1]], _SCRIPT.read_text())


def _comment(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent="#       ", subsequent_indent="#       ", break_on_hyphens=False)
