"""Run a trained network on images: `python experiments/predict.py RUN IMAGE_OR_FOLDER ... --out=predictions`.

Draws boxes, masks or the likeliest classes over each image, and writes them to predictions.json. RUN is a run's folder,
a run id or its beginning, or study:cell:seed, with its weights on this machine; or a file of weights of torchvision or
timm.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.options import Arguments, Parser, check_positive
from common.program import program
from matplotlib.figure import Figure
from rich.progress import track

from mnet.data.decoding import IMAGE_SUFFIXES, open_image
from mnet.data.walk import find_images
from mnet.errors import ConfigError, DataError, path_text
from mnet.figures import save_figure
from mnet.files import write_json
from mnet.studies.results.lookup import find_run
from mnet.studies.runs.predictions import Predictor, load_predictor, load_weights_predictor
from mnet.studies.runs.store import CONFIG, run_folder
from mnet.tasks.drawing import Limit
from mnet.weights.files import split_entry

INCHES = 6.0
"""Longer side of a drawing."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    out: str = "predictions"
    """Folder to write to."""
    results: str = "results"
    """Folder of results, in which the run is looked up."""
    score: float = 0.5
    """Minimum score of a drawn box, from 0 to 1."""
    top: int = 5
    """Number of classes on the drawing of a classifier."""

    def __post_init__(self) -> None:
        check_positive(self, "top")
        if not 0 <= self.score <= 1:
            raise ConfigError(f"score must be from 0 to 1, not {self.score}")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__)
    parser.add_argument("run", help="a run's folder, a run id or its beginning, study:cell:seed, or a file of weights")
    parser.add_argument("images", nargs="+", help="images, or folders of them")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 if some images could not be read, 2 for bad input."""
    given = read_arguments(arguments)
    options = given.options
    paths = list_images([Path(path).expanduser() for path in given.values.images])
    predictor = find_predictor(given.values.run, Path(options.results))
    unreadable = draw_all(predictor, paths, Path(options.out), Limit(options.score, options.top))
    return 1 if unreadable else 0


def find_predictor(name: str, root: Path) -> Predictor:
    """Load a network by any name of its run, or from a weights file."""
    path, _ = split_entry(name)
    return load_weights_predictor(Path(name)) if path.is_file() else load_predictor(find_folder(name, root))


def find_folder(name: str, root: Path) -> Path:
    """The folder of a run, by any of its names."""
    if (Path(name) / CONFIG).is_file():
        return Path(name)
    run = find_run(name, root)
    return run.folder or run_folder(root, str(run.row["study"]), run.run_id)


def list_images(paths: Iterable[Path]) -> list[Path]:
    """The given images, and those in the given folders at any depth.

    Raises:
        ConfigError: A path does not exist, or a folder has no image.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = find_images(path)
            if not inside:
                raise ConfigError(f"no image in {path} ({', '.join(IMAGE_SUFFIXES)})")
            images += inside
        elif path.is_file():
            images.append(path)
        else:
            raise ConfigError(f"no such image or folder: {path}")
    return list(dict.fromkeys(images))


def draw_all(predictor: Predictor, paths: Sequence[Path], out: Path, limit: Limit) -> list[Path]:
    """Draw every image and write predictions.json; returns the images that could not be read."""
    predictions: dict[str, object] = {}
    unreadable: list[Path] = []
    drawings = drawing_paths(out, paths)
    for path in track(paths, "predicting", disable=len(paths) < 2):
        try:
            image = open_image(path)
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)
            unreadable.append(path)
            continue
        prediction = predictor.predict(image)
        predictions[str(path)] = predictor.model.to_dict(prediction, predictor.names, limit)
        draw(predictor, np.asarray(image), prediction, drawings[path], limit)
        print(f"  {path_text(drawings[path])}")
    if predictions:
        write_json(out / "predictions.json", predictions)
        print(f"  {out / 'predictions.json'}")
    return unreadable


def drawing_paths(out: Path, paths: Sequence[Path]) -> dict[Path, Path]:
    """The file of each drawing, named after its image; images with the same name keep their subfolders."""
    counts = Counter(path.stem.lower() for path in paths)  # some systems ignore case
    common = Path(os.path.commonpath([path.resolve().parent for path in paths])) if paths else out
    drawings = {}
    for path in paths:
        name = path.resolve().relative_to(common) if counts[path.stem.lower()] > 1 else Path(path.stem)
        drawings[path] = out / name.parent / f"{name.name}.predicted.png"
    return drawings


def draw(predictor: Predictor, image: np.ndarray, prediction: object, path: Path, limit: Limit) -> None:
    """Draw a prediction over its image, (H, W, 3), and write it."""
    height, width = image.shape[:2]
    scale = INCHES / max(height, width)
    figure = Figure(figsize=(max(3.0, width * scale) + 2, max(2.0, height * scale)), dpi=150, layout="constrained")
    predictor.model.draw(figure, image, prediction, predictor.names, limit)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
