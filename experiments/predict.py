"""What a trained network sees: `python experiments/predict.py RUN PICTURE_OR_FOLDER ... --out=predictions`.

Draws boxes, masks or the likeliest classes over each image, and writes what was found as predictions.json. RUN is a
run's folder, a run id or its beginning, or study:cell:seed; its weights must be here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.options import read_own_options
from matplotlib.figure import Figure
from rich.progress import track
from torchvision.datasets.folder import IMG_EXTENSIONS

from mnet.data.decoding import open_image
from mnet.errors import ConfigError, DataError
from mnet.figures import finish
from mnet.files import write_json
from mnet.studies.results.lookup import find_run
from mnet.studies.runs.predictions import Predictor, load_predictor
from mnet.studies.runs.store import CONFIG, run_folder
from mnet.tasks.drawing import Limit

INCH = 6.0
"""Longer side of a drawing."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for."""

    out: str = "predictions"
    """Folder to write to."""
    results: str = "results"
    """Folder that the run is looked for in."""
    score: float = 0.5
    """Boxes that are at least so sure are drawn, from 0 to 1."""
    top: int = 5
    """Classes that a classifier's drawing shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if some images could not be read, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder, a run id or its beginning, or study:cell:seed")
    parser.add_argument("images", nargs="+", help="images, or folders of them")
    try:
        given, options = read_own_options(parser, Options, arguments, positive=("top",))
        if not 0 <= options.score <= 1:
            raise ConfigError(f"score must be from 0 to 1, not {options.score}")
        paths = list_images([Path(one).expanduser() for one in given.images])
        predictor = load_predictor(folder_of(given.run, Path(options.results)))
        failed = draw_all(predictor, paths, Path(options.out), Limit(options.score, options.top))
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def folder_of(name: str, root: Path) -> Path:
    """The folder of a run, by any of its names."""
    if (Path(name) / CONFIG).is_file():
        return Path(name)
    run = find_run(name, root)
    return run.folder or run_folder(root, str(run.row["study"]), run.run_id)


def list_images(given: Iterable[Path]) -> list[Path]:
    """Images, and those below folders.

    Raises:
        ConfigError: There is none.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in IMG_EXTENSIONS]
            if not inside:
                raise ConfigError(f"no image in {path} ({', '.join(IMG_EXTENSIONS)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"no image and no folder {path}")
    return found


def draw_all(predictor: Predictor, paths: Sequence[Path], out: Path, limit: Limit) -> list[Path]:
    """Draw every image; returns those that could not be read."""
    told: dict[str, object] = {}
    failed: list[Path] = []
    for path in track(paths, "predicting", disable=len(paths) < 2):
        try:
            image = open_image(path)
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)
            failed.append(path)
            continue
        seen = predictor.predict(image)
        told[str(path)] = predictor.model.tell(seen, predictor.names, limit)
        target = drawing_path(out, path, paths)
        draw(predictor, np.asarray(image), seen, target, limit)
        print(f"  {target}")
    if told:
        write_json(out / "predictions.json", told)
        print(f"  {out / 'predictions.json'}")
    return failed


def drawing_path(out: Path, path: Path, paths: Sequence[Path]) -> Path:
    """Where a drawing goes: by the image's name, with its folder's where two images are called alike."""
    alike = sum(one.stem == path.stem for one in paths) > 1
    return out / f"{path.parent.name + '-' if alike else ''}{path.stem}.predicted.png"


def draw(predictor: Predictor, image: np.ndarray, seen: object, path: Path, limit: Limit) -> None:
    height, width = image.shape[:2]
    scale = INCH / max(height, width)
    figure = Figure(figsize=(max(3.0, width * scale) + 2, max(2.0, height * scale)), dpi=150, layout="constrained")
    predictor.model.draw(figure, image, seen, predictor.names, limit)
    finish(figure, path, "")


if __name__ == "__main__":
    sys.exit(main())
