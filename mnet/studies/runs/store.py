"""The results folder: the names of its files, what a run writes and reads there, and which process works on it.

    <root>/<study>/runs/<run_id>/   config.yaml  images.json  metrics.csv  correct.npz  examples.pt  weights.pt
                                    result.json (last)
    <root>/<study>/                 runs.csv  summary.csv  effects.csv  latency.csv  report.html  ...
    <root>/.locks/<run_id>          locked by the process that trains this run, for any study

A run that several studies share is trained once and copied into the folder of each.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
from filelock import FileLock, Timeout

from mnet.errors import ConfigError, leave_out, path_text, shown
from mnet.files import MEGABYTE, load_yaml, read_limited, write_atomic, write_json, write_yaml
from mnet.models.tables import FILES, table, write_network
from mnet.studies.options import trial_from
from mnet.studies.runs.result import FORMAT, Result, check_result
from mnet.studies.trial import Trial
from mnet.weights.transfer import RUN_CONFIG, RUN_NETWORK, RUN_WEIGHTS, RUNS_FOLDER

if TYPE_CHECKING:
    from mnet.data.module import Description

# Files of a run.
CONFIG = RUN_CONFIG
NETWORK = RUN_NETWORK
"""The network in the file that `Trial.model` names, if it names one."""
IMAGES = "images.json"
"""Class names, normalisation and the fingerprint of a user's own images: a `Description`."""
METRICS = "metrics.csv"
CORRECT = "correct.npz"
WEIGHTS = RUN_WEIGHTS
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
"""Predictions of a study's networks on the same test images."""
BLOCKS = "blocks-"
"""Beginning of the names of `blocks_file`."""
LATENCY_CHART, FRONTIER_CHART, INSIDE_CHART, DEATHS_CHART = "latency.png", "frontier.png", "inside.png", "deaths.png"
REPORT = "report.html"
"""One per study, and one for the results folder."""

# Files of a search, see `mnet.search`.
TRACE, CANDIDATES, PROXY, CHECK = "trace.csv", "candidates.csv", "proxy.csv", "latency-check.csv"
START_NETWORK, FOUND_NETWORK, SEARCH_SETTINGS = "seed.yaml", "network.yaml", "search.yaml"
NETWORKS = "networks"
"""The folder of the networks that a search tries."""

# Files of the results folder.
CLAIMS = "claims.csv"
CLAIMS_LIGHT, CLAIMS_DARK = "claims-light.svg", "claims-dark.svg"
"""Charts of the claims that people ask about most, for light and dark pages."""
BENCH, BENCH_LATENCY, BENCH_DECIDE = "bench.csv", "bench-latency.csv", "bench-decide.csv"
GPU = "gpu"
"""The folder for the measurements of experiments/gpu.py."""
GPU_TABLES = GPU_CORRECT, GPU_STEPS, GPU_SEEDS, GPU_ANSWERS = "correct.csv", "steps.csv", "seeds.csv", "answers.csv"
"""Its tables; the last one holds claims, from runs below `GPU_RUNS`."""
GPU_RUNS = "answers"
PUBLISHED = "published"
"""The folder of the tables that came with the project."""
LOCKS, SLURM = ".locks", ".slurm"


class Busy(RuntimeError):
    """Another process works on this run."""


def results_root(out: str, trainer: Mapping[str, object]) -> Path:
    """The results folder: `out`, or with arguments of the Trainer, which run ids do not cover, a folder below it."""
    if not trainer:
        return Path(out)
    arguments = " ".join(f"{name}={trainer[name]}" for name in sorted(trainer))
    return Path(out) / f"trainer-{hashlib.sha256(arguments.encode()).hexdigest()[:6]}"


TRAINER_FOLDER = re.compile("trainer-[0-9a-f]{6}")
HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar", "enable_model_summary")
"""Arguments of the Trainer that only affect where a run is trained or what it displays."""


def other_training(trainer: Mapping[str, object]) -> str:
    """The arguments of the Trainer that change what a run computes, as `name=value` words; empty if there are none."""
    return " ".join(f"{name}={trainer[name]}" for name in sorted(trainer) if name not in HARDWARE)


RESERVED = (PUBLISHED, RUNS_FOLDER, "exported")
"""Subfolders of a results folder that are not studies."""
MOST_LETTERS = 100
"""Longest name of a study: it is part of file names, which are limited to 255 bytes."""


def check_name(kind: str, name: object) -> None:
    """
    Raises:
        ConfigError: A study, a search or a run cannot have this name, which is also the name of its folder.
    """
    if not isinstance(name, str) or not name.isprintable() or len(name) > MOST_LETTERS:
        raise ConfigError(f"{kind} must be a name of at most {MOST_LETTERS} printable characters, not {shown(name)}")
    if not name or name[0] in ".-~" or name != name.strip() or re.search(r"[/\\]", name) or name in RESERVED:
        raise ConfigError(f"{kind} must be the plain name of a folder, not {shown(name)}")


def run_folder(root: Path, study: str, run_id: str) -> Path:
    """The folder of a run of a study."""
    return root / study / RUNS_FOLDER / run_id


def runs_with(file: str, study: Path) -> Iterator[Path]:
    """The folders of runs, in the folder of a study, that have this file."""
    return (path.parent for path in study.glob(f"{RUNS_FOLDER}/*/{file}"))


def runs_with_result(root: Path, run_id: str = "*") -> list[Path]:
    """The folders of runs that have a result, in all studies of a results folder."""
    return [path.parent for path in sorted(root.glob(f"*/{RUNS_FOLDER}/{run_id}/{RESULT}"))]


def study_chart_file(study: str) -> str:
    """The name of the chart of a study's cells."""
    return f"{study}.png"


def effects_chart_file(study: str) -> str:
    """The name of the chart of a study's effects within variants."""
    return f"{study}-effects.png"


def blocks_file(runtime: str = "*") -> str:
    """The name of the table of the latency of each block; without a runtime, the pattern of these names."""
    return f"{BLOCKS}{runtime}.csv"


def read_result(folder: Path) -> Result | None:
    """The result of a finished run; None if there is none or, with one warning, if it cannot belong to this run.

    A result is checked by `check_result`, against the correct images in `correct.npz`, and against `config.yaml`,
    whose run id must be the name of the folder.

    Raises:
        ConfigError: A later version of mnet wrote it; the same names may have other meanings there.
    """
    path = folder / RESULT
    content = read_json(path)
    if content is None:
        return None
    version = content.get("format", 1)
    if isinstance(version, int) and version > FORMAT:
        writer = content.get("mnet", "(a later version)")
        raise ConfigError(f"{path} has format {version}, written by mnet {writer}; this version reads up to {FORMAT}")
    try:
        result = check_result(content)
        _check_images(folder, result)
        _check_identity(folder, result)
    except ConfigError as error:
        leave_out(path, error)
        return None
    return result


def known_result(folder: Path) -> Result | None:
    """As `read_result`, but None, with one warning, for the result of a later version too."""
    try:
        return read_result(folder)
    except ConfigError as error:
        leave_out(folder / RESULT, error)
        return None


def _check_images(folder: Path, result: Result) -> None:
    """
    Raises:
        ConfigError: The top-1 differs from the share of correct test images by at least half an image and 0.001
            points.
    """
    correct = read_correct(folder) if "top1" in result else None
    if correct is not None and abs(result["top1"] - 100 * correct.mean()) >= max(50 / len(correct), 1e-3):
        raise ConfigError(
            f"top1 is {result['top1']}, but {100 * correct.mean():.4f}% of the images in {CORRECT} are right"
        )


def _check_identity(folder: Path, result: Result) -> None:
    """
    Raises:
        ConfigError: The folder is not named after the run id of its settings, or its result is of other settings.
    """
    if folder.absolute().parent.name != RUNS_FOLDER or not (folder / CONFIG).is_file():
        return
    trial = read_trial(folder)
    if is_identified(trial) and trial.run_id != folder.name:
        raise ConfigError(f"the settings in {CONFIG} next to it are those of run {trial.run_id}, not {folder.name}")
    for name, expected in (("epochs", trial.full_recipe().epochs), ("resolution", trial.input_spec().resolution)):
        if (value := dict(result).get(name, expected)) != expected:
            raise ConfigError(f"{name} is {value}, but {expected} according to the {CONFIG} next to it")


def is_identified(trial: Trial) -> bool:
    """Whether settings alone identify a run: not with pretrained weights, or user images without a fingerprint."""
    return trial.pretrained is None and (trial.images is not None or not trial.dataset_class().is_users)


def is_in_place(folder: Path, expected: Mapping[str, object] | None = None) -> bool:
    """Whether a run was trained with the expected arguments of the Trainer; if not, warn once.

    Args:
        folder: The folder of the run.
        expected: None = those of the results folder that it is in.
    """
    try:
        trainer = read_settings(folder)[1] if (folder / CONFIG).is_file() else {}
    except ConfigError as error:
        leave_out(folder, error)
        return False
    other, place = other_training(trainer), results_root("", trainer).name
    if other and other != other_training(expected or {}) and folder.absolute().parents[2].name != place:
        leave_out(folder, f"it was trained with {other} for Lightning's Trainer; such results belong in {place}")
        return False
    return True


LARGEST_JSON = 64 * MEGABYTE
"""Enough for images.json of a user's own images in thousands of classes."""


def read_json(path: Path) -> dict[str, object] | None:
    """The mapping in a JSON file; None if it is missing or, with one warning, damaged."""
    try:
        content = json.loads(read_limited(path, LARGEST_JSON))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        leave_out(path, error)
        return None
    if not isinstance(content, dict):
        leave_out(path, "it is not a mapping of names to values")
        return None
    return content


def read_images(folder: Path) -> Description | None:
    """The content of `images.json`; None if it is missing or, with one warning, damaged."""
    kept = read_json(folder / IMAGES)
    if kept is None:
        return None
    names, means, stds = (kept.get(name) for name in ("label_names", "mean", "std"))
    valid = isinstance(names, list) and len(names) > 0 and all(isinstance(name, str) for name in names)
    valid = valid and all(isinstance(values, list) and all(map(_is_share, values)) for values in (means, stds))
    valid = valid and all(isinstance(kept.get(name), int) for name in ("resolution", "in_channels"))
    valid = valid and isinstance(kept.get("images", ""), str) and _counts_classes(kept.get("classes", {}))
    if not valid or not len(cast(list[float], means)) == len(cast(list[float], stds)) == kept["in_channels"]:
        leave_out(folder / IMAGES, "it does not describe the images of a run")
        return None
    return cast("Description", kept)


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and 0 <= value <= 1


def _counts_classes(classes: object) -> bool:
    """Whether every class has a digest and its counts of images."""
    return isinstance(classes, dict) and all(
        isinstance(one, dict)
        and isinstance(one.get("digest"), str)
        and all(isinstance(one.get(split), int) for split in ("train", "val", "test"))
        for one in classes.values()
    )


def find_finished(root: Path, run_id: str, trainer: Mapping[str, object] | None = None) -> Path | None:
    """The folder of a finished run with that id in any study, or None. It was trained with the arguments `trainer`;
    None = those of the results folder."""
    for folder in runs_with_result(root, run_id):
        if known_result(folder) is not None and is_in_place(folder, trainer):
            return folder
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
    """Delete what a finished run no longer needs: the checkpoint, and the reason for an earlier failure."""
    for name in (RESUME, FAILURE):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def lock(root: Path, run_id: str) -> Iterator[None]:
    """Hold the lock of a run. The system releases it when the process ends, however it ends.

    Raises:
        Busy: Another process holds it.
        ConfigError: Something else, such as a link, has the name of the lock file.
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
    """The settings of a run, and the arguments of Lightning's Trainer that differ from the defaults.

    Raises:
        ConfigError: They are missing, damaged or not those of a run.
    """
    path = folder / CONFIG
    version = 0, 0
    with suppress(OSError):  # reported by load_yaml
        found = path.stat()
        version = found.st_ino, found.st_mtime_ns
    settings, trainer = (dict(part) for part in _load_settings(path, version))
    if "model" in settings:
        settings["model"] = own_network(folder, str(settings["model"]))
    return settings, trainer


@lru_cache(maxsize=4096)  # after every run, the tables of its study read the settings of all runs
def _load_settings(path: Path, version: tuple[int, int]) -> tuple[dict[str, object], dict[str, object]]:
    """The content of a settings file; `version`, its inode and modification time, is for the cache only."""
    settings = load_yaml(path)
    trainer = settings.pop("trainer", {}) if isinstance(settings, dict) else None
    if not isinstance(trainer, dict) or not isinstance(settings.get("model", ""), str):
        raise ConfigError(f"{path_text(path)} does not hold the settings of a run")
    return settings, {str(name): trainer[name] for name in trainer}


def read_trial(folder: Path) -> Trial:
    """The trial of a run, from its settings.

    Raises:
        ConfigError: As `read_settings`, or this version has no such trial.
    """
    settings, _ = read_settings(folder)
    network = Path(str(settings.get("model", "")))
    version = network.stat().st_mtime_ns if network.suffix in FILES and network.is_file() else 0
    return _trial_from(json.dumps(settings, default=str), version)


@lru_cache(maxsize=4096)
def _trial_from(settings: str, network: int) -> Trial:
    """The trial, cached: a folder is read many times.

    Args:
        settings: As JSON.
        network: Modification time of its network file, for the cache only.
    """
    return trial_from(json.loads(settings))


def own_network(folder: Path, model: str) -> str:
    """The `model` that a run trained: the one in its config or, if that differs, the network file in the run's folder.
    On another machine, or later, the file that the config names may hold another network."""
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


LARGEST_CORRECT = 16 * MEGABYTE
"""One bit per image: 134 million images."""


def read_correct(folder: Path) -> np.ndarray | None:
    """What `write_correct` wrote, (N,) bool; None if it is missing or, with one warning, damaged."""
    path = folder / CORRECT
    try:
        content = io.BytesIO(read_limited(path, LARGEST_CORRECT))
        with ZipFile(content) as archive:
            if sum(file.file_size for file in archive.infolist()) > LARGEST_CORRECT:
                raise ValueError(f"its arrays have more than {LARGEST_CORRECT:,} bytes")
        with np.load(content, allow_pickle=False) as arrays:
            bits, count = arrays["bits"], int(arrays["count"])
        if bits.dtype != np.uint8 or bits.ndim != 1 or not 0 < count <= 8 * len(bits) < count + 8:
            raise ValueError(f"it declares {count:,} images, but has bits for {8 * bits.size:,}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, BadZipFile, NotImplementedError) as error:
        leave_out(path, error)
        return None
    return np.unpackbits(bits, count=count).astype(bool)


def write_failure(folder: Path, reason: str, details: Mapping[str, object]) -> None:
    """Write why a run failed. If it cannot be written (a full disk), the reason that is reported stays the same."""
    with suppress(OSError):
        write_json(folder / FAILURE, {"reason": reason, **details})


def read_failure(folder: Path) -> str | None:
    """Why the last attempt at a run failed; None if it did not fail, or the run has finished since."""
    failure = read_json(folder / FAILURE)
    return None if failure is None or (folder / RESULT).exists() else str(failure.get("reason"))
