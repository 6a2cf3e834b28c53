"""A user's own images, from the first study to a folder that has changed, moved or disappeared."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import ablate
import numpy as np
import pandas as pd
import predict
import pytest
import report
import train
from common.sweeps import load_sweep
from PIL import Image

from mnet.errors import DataError
from mnet.studies.latency.subjects import list_subjects
from mnet.studies.options import trial_from
from mnet.studies.runs import run
from mnet.studies.runs.store import IMAGES, RESULT, read_json

TINY = ["--dataset=imagefolder", "--resolution=32", "--width=0.35", "--batch_size=8", "--epochs=1", "--epoch_steps=2"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNET_CACHE", str(tmp_path / "cache"))


def draw(root: Path, name: str, numbers: range) -> None:
    for number in numbers:
        path = root / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng([number, *name.encode()]).integers(256, size=(40, 48, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for name, count in (("cat", 12), ("dog", 30)):
        draw(root, name, range(count))
    return root


def study(images: Path, out: Path, *more: str) -> int:
    return ablate.main(["activation", *TINY, "--activation=relu", f"--data_dir={images}", f"--out={out}",
                        "--seeds=1", "--report=false", "--workers=1", *more])  # fmt: skip


def finished(out: Path) -> set[str]:
    return {path.parent.name for path in (out / "activation").glob(f"runs/*/{RESULT}")}


def test_a_run_records_its_images(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert study(images, out) == 0
    printed = capsys.readouterr().out
    assert f"{images}: 2 classes, 33 training and 9 test images" in printed
    assert "48 x 40 pixels, in colour, three channels, seen at 32 x 32" in printed
    assert re.search(
        r"always answering \w+ is right in [\d.]+% of the 9 test images; one image is worth 11 points", printed
    )
    (first,) = finished(out)
    settings = dict(option.removeprefix("--").split("=") for option in TINY)
    trained = load_sweep("activation", "quick", 1, {**settings, "activation": "relu", "data_dir": str(images)})
    subjects, _ = list_subjects(trained, (), out)
    assert {subject.input_spec for subject in subjects.values()} == {(32, 3, 2)}  # not ten classes as in other data
    moved = images.rename(tmp_path / "moved")
    assert study(moved, out) == 0
    assert "1 already finished" in capsys.readouterr().out
    moved.rename(images)
    draw(images, "cat", range(12, 24))
    draw(images, "zebra", range(6))
    (images / "dog" / "0.png").unlink()
    assert study(images, out) == 0
    printed = capsys.readouterr().out
    assert "has changed: 12 images more in cat, 1 image fewer in dog, class zebra new since 1 run of" in printed
    (second,) = finished(out) - {first}
    runs = pd.read_csv(out / "activation/runs.csv")
    assert runs["run_id"].tolist() == [second]  # not averaged with the first
    assert {"macro", "images"} <= {*runs}
    assert report.main([f"--out={out}"]) == 0
    assert "<p>Always answering dog is right in " in (out / "report.html").read_text()
    shutil.rmtree(images)
    draw(tmp_path / "new", "cat", range(1))
    assert predict.main([str(out / "activation/runs" / first), str(tmp_path / "new/cat/0.png"), f"--out={out}/a"]) == 0
    assert study(images, out) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_replaced_image_makes_another_data_set(images: Path) -> None:
    trial = trial_from({"dataset": "imagefolder", "data_dir": images})
    before = trial.fingerprint, trial.run_id
    time = (images / "cat/0.png").stat()
    draw(images, "other", range(1))
    shutil.move(images / "other/0.png", images / "cat/0.png")
    (images / "other").rmdir()
    os.utime(images / "cat/0.png", ns=(time.st_atime_ns, time.st_mtime_ns))
    again = trial_from({"dataset": "imagefolder", "data_dir": images})
    assert again.fingerprint != before[0]
    assert again.run_id != before[1]


def test_images_that_change_between_two_runs_of_a_study_are_refused(images: Path, tmp_path: Path) -> None:
    """Otherwise workers that read the images themselves would train on different ones."""
    settings = dict(option.removeprefix("--").split("=") for option in TINY)
    trial = trial_from({**settings, "data_dir": images})
    pinned = trial_from({**trial.settings(), "seed": 1})
    draw(images, "cat", range(12, 13))
    with pytest.raises(DataError, match=f"not those of images={trial.fingerprint}"):
        run.run_trial(pinned, tmp_path / "run")


def test_storage_does_not_change_a_run(images: Path, tmp_path: Path) -> None:
    codes = []
    for storage in ("memory", "disk"):
        out = tmp_path / storage
        codes.append(train.main([*TINY, f"--data_dir={images}", f"--out={out}", f"--storage={storage}"]))
    memory, disk = ((tmp_path / storage / "train/runs") for storage in ("memory", "disk"))
    assert codes == [0, 0]
    (folder,) = memory.iterdir()
    for name in ("weights.pt", "metrics.csv", IMAGES):
        assert (folder / name).read_bytes() == (disk / folder.name / name).read_bytes()
    kept = read_json(folder / IMAGES)
    assert kept is not None
    assert kept["label_names"] == ["cat", "dog"]
