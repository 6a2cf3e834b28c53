"""The results folder: the names of its files, what a run writes and reads there, and which process works on it.

    <root>/<study>/runs/<run_id>/   config.yaml  images.json  metrics.csv  correct.npz  examples.pt  weights.pt
                                    result.json (last)
    <root>/<study>/                 runs.csv  summary.csv  effects.csv  latency.csv  report.html  ...
    <root>/.locks/<run_id>          locked by the process that trains this run, for whichever study

A run that several studies share is trained once and copied into the folder of each.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from filelock import FileLock, Timeout

from mnet.errors import ConfigError, path_text
from mnet.files import read_yaml, write_atomic, write_json, write_yaml
from mnet.models.tables import FILES, table, write_network
from mnet.studies.trial import Trial
from mnet.tasks import TASKS

# Files of a run.
CONFIG = "config.yaml"
NETWORK = "network.yaml"
"""The content of the file that `Trial.model` names, where it names one."""
IMAGES = "images.json"
"""Class names, normalisation and, of a user's own images, their fingerprint: a `Description`."""
METRICS = "metrics.csv"
CORRECT = "correct.npz"
WEIGHTS = "weights.pt"
EXAMPLES = "examples.pt"
RESULT = "result.json"
RESUME = "resume.ckpt"
FAILURE = "failure.json"
KEPT = (CONFIG, NETWORK, IMAGES, METRICS, CORRECT, EXAMPLES, WEIGHTS)
"""Files of a finished run besides its result."""

# Files of a study.
RUNS, SUMMARY, EFFECTS = "runs.csv", "summary.csv", "effects.csv"
PLAN = "plan.yaml"
"""See `mnet.studies.plan`."""
LATENCY, LATENCY_CLAIMS, FRONTIER = "latency.csv", "latency-claims.csv", "frontier.csv"
DEATHS, INSIDE = "deaths.csv", "inside.csv"
"""Depthwise kernels that died in training, and activations layer by layer; see `mnet.studies.results.diagnosis`."""
PREDICTIONS = "predictions.png"
"""What the networks of a study predict in the same test images."""
LATENCY_CHART, FRONTIER_CHART, INSIDE_CHART, DEATHS_CHART = "latency.png", "frontier.png", "inside.png", "deaths.png"
REPORT = "report.html"
"""Of a study, and of the results folder."""

# Files of a search, see `mnet.search`.
TRACE, CANDIDATES, PROXY, CHECK = "trace.csv", "candidates.csv", "proxy.csv", "latency-check.csv"

# Of the results folder.
CLAIMS = "claims.csv"
CLAIMS_LIGHT, CLAIMS_DARK = "claims-light.svg", "claims-dark.svg"
"""The claims that people ask about most, for light and dark pages."""
BENCH, BENCH_LATENCY, BENCH_DECIDE = "bench.csv", "bench-latency.csv", "bench-decide.csv"
GPU_TABLES = GPU_CORRECT, GPU_STEPS, GPU_SEEDS, GPU_ANSWERS = "correct.csv", "steps.csv", "seeds.csv", "answers.csv"
"""What experiments/gpu.py measures; the last are claims, from runs below `GPU_RUNS`."""
GPU_RUNS = "answers"
PUBLISHED = "published"
"""The folder of the tables that came with the project."""
LOCKS, SLURM = ".locks", ".slurm"

FORMAT = 2
"""Of result.json; 1 had no `format`, and no correct.npz beside it."""


class Result(TypedDict, total=False):
    """The content of result.json. Metrics are those of the run's task, in percent; times in seconds."""

    top1: float
    top5: float
    macro: float
    """Mean accuracy over classes, where a user's own classes differ in size."""
    map: float
    map_50: float
    map_75: float
    miou: float
    pixel_accuracy: float
    test_loss: float
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
    """Share of the depthwise kernels, in percent."""
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
    """What the run started from, where that was not a random network."""


class Busy(RuntimeError):
    """Another process works on this run."""


def results_root(out: str, trainer: Mapping[str, object]) -> Path:
    """The results folder: `out`, or a folder below it for these arguments of the Trainer, which no run id contains."""
    if not trainer:
        return Path(out)
    arguments = " ".join(f"{name}={trainer[name]}" for name in sorted(trainer))
    return Path(out) / f"trainer-{hashlib.sha256(arguments.encode()).hexdigest()[:6]}"


def run_folder(root: Path, study: str, run_id: str) -> Path:
    """The folder of a run of a study."""
    return root / study / "runs" / run_id


def read_result(folder: Path) -> Result | None:
    """The result of a finished run; None if it is missing or damaged.

    Raises:
        ConfigError: A later version of mnet wrote it; the same names may have other meanings there.
    """
    content = read_json(folder / RESULT)
    if content is None or not is_result(content):
        return None
    version = content.get("format", 1)
    if not isinstance(version, int) or version > FORMAT:
        writer = content.get("mnet", "(a later version)")
        raise ConfigError(
            f"{folder / RESULT} has format {version}, written by mnet {writer}; this version reads up to {FORMAT}"
        )
    return cast(Result, content)


def is_result(content: Mapping[str, object]) -> bool:
    """Whether the content of a file has the headline metric of some task, at least on validation images."""
    return any(name in content for task in TASKS.values() for name in (task.headline.name, f"val_{task.headline.name}"))


def read_json(path: Path) -> dict[str, object] | None:
    """The mapping in a JSON file; None if it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def find_finished(root: Path, run_id: str) -> Path | None:
    """The folder of a finished run with that id, of any study."""
    for path in sorted(root.glob(f"*/runs/{run_id}/{RESULT}")):
        if read_result(path.parent) is not None:
            return path.parent
    return None


def adopt(source: Path, folder: Path) -> Result:
    """Copy a finished run into the folder of another study, the result last.

    Returns:
        The content of its `result.json`.
    """
    result = read_result(source)
    assert result is not None
    if source == folder:
        return result
    for name in KEPT:
        if (source / name).exists():
            with (source / name).open("rb") as stream:
                write_atomic(folder / name, lambda target, stream=stream: shutil.copyfileobj(stream, target))  # type: ignore[misc]
    write_json(folder / RESULT, result)
    remove_leftovers(folder)
    return result


def remove_leftovers(folder: Path) -> None:
    """Delete what a finished run does not need: the checkpoint, and the reason of an earlier failure."""
    for name in (RESUME, FAILURE):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def lock(root: Path, run_id: str) -> Iterator[None]:
    """Hold the lock of a run. The system releases it when the process ends, however it ends.

    Raises:
        Busy: Another process holds it.
        ConfigError: Something else has its name, such as a link.
    """
    path = root / LOCKS / run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{path_text(path)} is not a file that mnet has made; remove it")
    held = FileLock(path, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise Busy(f"another process works on run {run_id}") from None
    try:
        yield
    finally:
        held.release()


def write_config(trial: Trial, folder: Path, trainer: Mapping[str, object] | None) -> None:
    """Write the settings of a run, and its network if that came from a file."""
    if trial.model.endswith(FILES):
        write_network(table(trial.model), folder / NETWORK)
    write_yaml(folder / CONFIG, {**trial.settings(), **({"trainer": dict(trainer)} if trainer else {})})


def read_settings(folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """The settings of a run, and the arguments of Lightning's Trainer that differ from the defaults."""
    settings = read_yaml((folder / CONFIG).read_text())
    if "model" in settings:
        settings["model"] = own_network(folder, str(settings["model"]))
    return settings, settings.pop("trainer", {})


def own_network(folder: Path, model: str) -> str:
    """The `model` of a run's config, as what the run trained: the file in its folder, unless the one that the config
    names has the same network. On another machine, or later, that may be anybody's."""
    kept = folder / NETWORK
    if not kept.exists():
        return model
    try:
        return model if table(model) == table(str(kept)) else str(kept)
    except ConfigError:
        return str(kept)


def write_correct(folder: Path, correct: np.ndarray) -> None:
    """Write which test images were classified correctly, (N,) bool in the order of the test split: N / 8 bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, bits=np.packbits(correct), count=np.array(len(correct)))
    write_atomic(folder / CORRECT, lambda stream: stream.write(buffer.getvalue()))


def read_correct(folder: Path) -> np.ndarray | None:
    """What `write_correct` wrote, (N,) bool; None if it is missing or damaged."""
    with suppress(OSError, ValueError, KeyError), np.load(folder / CORRECT, allow_pickle=False) as arrays:
        return np.unpackbits(arrays["bits"], count=int(arrays["count"])).astype(bool)
    return None


def write_failure(folder: Path, reason: str, details: Mapping[str, object]) -> None:
    """Write why a run failed. If that fails too (a full disk), the reason is still the one that is reported."""
    with suppress(OSError):
        write_json(folder / FAILURE, {"reason": reason, **details})


def read_failure(folder: Path) -> str | None:
    """Why the last attempt at a run failed; None if it did not fail, or the run has finished since."""
    failure = read_json(folder / FAILURE)
    return None if failure is None or (folder / RESULT).exists() else str(failure.get("reason"))
