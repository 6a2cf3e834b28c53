"""The images of a trial; and for a user's own, what has changed since earlier runs, and the accuracy to beat."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import cast

from mnet.data import ImageData, create_data
from mnet.data.module import ClassImages, Description
from mnet.data.summary import majority
from mnet.errors import ConfigError, DataError, counted, path_text
from mnet.studies.runs.store import IMAGES, read_images, read_settings, run_folder, runs_with
from mnet.studies.trial import Trial
from mnet.training.recipes import Recipe


def load_data(trial: Trial, recipe: Recipe) -> ImageData:
    """The trial's data set, read and split."""
    augment = trial.dataset_class().augmentation(recipe.augment)
    settings: dict[str, object] = {"batch_size": recipe.batch_size, "seed": trial.seed, "augment": augment}
    data = create_data(trial.dataset, **trial.data_settings(), **settings)
    data.prepare_data()
    check_images(trial, data)
    data.setup("fit")
    return data


def check_images(trial: Trial, data: ImageData) -> None:
    """
    Raises:
        DataError: The images in `data_dir` are not those of the trial.
    """
    if trial.images is None or not data.is_users:
        return
    found = data.files.fingerprint
    if found != trial.images:
        raise DataError(
            f"the images in {path_text(trial.data_dir)} are not those of images={trial.images}, but {found}: they have "
            "changed since. Start again without images= for new runs; runs on the earlier images are kept."
        )


def describe_changes(root: Path, study: str, data_dir: Path, now: Description) -> Iterator[str]:
    """A line if all earlier runs of a study on this folder had other images.

    Args:
        root: The results folder.
        study: The name of the study.
        data_dir: The folder of images.
        now: The description of its current images.
    """
    earlier: dict[str, list[Path]] = defaultdict(list)
    for folder in runs_with(IMAGES, root / study):
        if (kept := read_images(folder)) is None:
            continue
        if kept.get("images") == now["images"]:
            return
        if "images" in kept and _folder_of(folder) == os.path.realpath(data_dir):
            earlier[kept["images"]].append(folder / IMAGES)
    if not earlier:
        return
    last = max(earlier.values(), key=lambda paths: max(path.stat().st_mtime for path in paths))
    before = cast(Description, read_images(last[0].parent))
    date = datetime.fromtimestamp(max(path.stat().st_mtime for path in last))
    runs = f"{counted(len(last), 'run')} of {date.day} {date:%B}"
    changes = ", ".join(list_changes(before["classes"], now["classes"])) or "different settings of the split"
    yield f"{path_text(data_dir)} has changed: {changes} since {runs}. Those are kept, and not mixed with new ones."


def list_changes(before: Mapping[str, ClassImages], now: Mapping[str, ClassImages]) -> Iterator[str]:
    """One change per class that differs, such as `12 images more in cat` or `class zebra new`."""
    for name in sorted({*before, *now}):
        if name not in before:
            yield f"class {name} new"
        elif name not in now:
            yield f"class {name} gone"
        elif more := _count(now[name]) - _count(before[name]):
            yield f"{counted(abs(more), 'image')} {'more' if more > 0 else 'fewer'} in {name}"
        elif now[name]["digest"] != before[name]["digest"]:
            yield f"other images in {name}"


def accuracy_to_beat(root: Path, study: str, run_ids: Iterable[str]) -> str:
    """The sentence of `majority` for the first of these runs that kept its classes; empty for published images."""
    for run_id in run_ids:
        kept = read_images(run_folder(root, study, run_id))
        if kept is not None and kept.get("classes"):
            line = majority(kept["classes"])
            return line[0].upper() + line[1:]
    return ""


def _count(images: ClassImages) -> int:
    return images["train"] + images["val"] + images["test"]


def _folder_of(run: Path) -> str | None:
    try:
        settings, _ = read_settings(run)
        return os.path.realpath(str(settings["data_dir"]))
    except (ConfigError, KeyError):
        return None
