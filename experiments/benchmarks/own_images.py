"""A study on a user's own images, from start to table: decoded once, then trained as fast as from memory, in little
memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks import loops
from benchmarks.goals import Row, one_sample_row
from mnet.data.fitting import read_pixels, read_size
from mnet.data.folders import list_folder
from mnet.data.store_build import Build, Layout
from mnet.resources import cores
from mnet.studies.study import load_study

EXPERIMENTS = Path(__file__).parents[1]
SIZE, RESOLUTION = (500, 375), 96
RUNS, EPOCHS = 8, 5
MOST_MEMORY_MIB = 3 * 1024
SAMPLING_S = 0.5


@dataclass
class PeakMemory:
    """Peak memory of a process and its descendants, and their largest number."""

    mib: float = 0.0
    """Sum of proportional set sizes: pages that processes share count once, pages of files not at all."""
    processes: int = 0

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Sample until the process ends."""
        root = psutil.Process(process.pid)
        while process.poll() is None:
            sizes = [size for one in (root, *_below(root)) if (size := _pss_mib(one)) is not None]
            self.mib, self.processes = max(self.mib, sum(sizes)), max(self.processes, len(sizes))
            time.sleep(SAMPLING_S)


def _below(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


def _pss_mib(process: psutil.Process) -> float | None:
    """Proportional set size without mapped pages of files, which the system reclaims when it needs memory."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return None
    values = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return (int(values["Pss"]) - int(values.get("Pss_File", 0))) / 1024


def draw_folder(folder: Path, count: int) -> None:
    """Write 500 x 375 JPEGs of two classes, all different, with about as many bytes per pixel as photographs."""
    generator = np.random.default_rng(0)
    width, height = SIZE
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    noise = generator.normal(0, 12, (height, width, 1))
    waves = 120 + 90 * np.sin(x[..., None] * (1, 1.3, 0.7)) * np.cos(y[..., None])
    image = np.clip(waves + noise, 0, 255).astype(np.uint8)

    def draw(i: int) -> None:
        path = folder / f"class{i % 2}" / f"{i}.jpg"
        turned = np.roll(image, (i % height, 7 * i % width), (0, 1))
        turned[:40, :40] = i % 2 * 200, i % 251, i % 241
        Image.fromarray(turned).save(path, quality=88)

    for name in ("class0", "class1"):
        (folder / name).mkdir(parents=True)
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(draw, range(count)))


def measure(count: int) -> Iterator[Row]:
    """Yield the rows, measured on `count` images."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = scratch / "images"
        draw_folder(folder, count)
        files = [path for path, _ in list_folder(folder).all]
        read = partial(read_pixels, side=RESOLUTION)
        raw, built = _decode(files, read), _build(files, read, scratch / "built")
        quantity = f"{count:,} JPEGs of {SIZE[0]} x {SIZE[1]}, {RESOLUTION} px"
        yield one_sample_row(
            f"decoding {quantity}", ("once, to disk", "by all cores, not kept"), (round(built, 1), round(raw, 1)), "s",
            ratio=built / raw, at_most=1 / 0.9,
        )  # fmt: skip
        options = {"dataset": "imagefolder", "data_dir": folder, "resolution": RESOLUTION, "epochs": EPOCHS,
                   "width": 0.35, "activation": "paper,relu"}  # fmt: skip
        bare = _bare(options, scratch / "cache")
        wall, peak = _study(options, scratch / "out", scratch / "cold")
        yield one_sample_row(
            f"study of {RUNS} runs x {EPOCHS} epochs, {quantity}",
            ("start to table, without the decoding", "the same trials in bare loops, from memory"),
            (round(wall - raw / 0.9, 1), round(bare, 1)), "s", ratio=(wall - raw / 0.9) / bare, at_most=1.2,
        )  # fmt: skip
        yield one_sample_row(
            f"memory of all processes of that study, {peak.processes} of them",
            ("make ablate-activation", "the goal"), (round(peak.mib), MOST_MEMORY_MIB), "MiB",
            ratio=peak.mib / MOST_MEMORY_MIB, at_most=1,
        )  # fmt: skip


def _decode(files: Sequence[Path], read: partial[np.ndarray]) -> float:
    """Seconds to decode all files on all cores."""
    start = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(read, files):
            pass
    return time.perf_counter() - start


def _build(files: Sequence[Path], read: partial[np.ndarray], cache: Path) -> float:
    """Seconds to build a store on disk."""
    os.environ["MNET_CACHE"] = str(cache)
    start = time.perf_counter()
    Build(items=files, read=read, size_of=read_size, layout=Layout(RESOLUTION), key=str, storage="disk").make()
    return time.perf_counter() - start


def _bare(options: Mapping[str, object], cache: Path) -> float:
    """Seconds of the trials in bare loops, one per core at a time, with images in memory. Only one trial per core is
    measured; the others are assumed to take as long."""
    os.environ["MNET_CACHE"] = str(cache)
    values = {name: str(value).split(",") for name, value in options.items()}
    study = load_study(EXPERIMENTS / "sweeps/activation.yaml", {**values, "seed": list(range(RUNS // 2))})
    trials = [trial for _, trial in study.trials][: cores()]
    with ProcessPoolExecutor(len(trials), get_context("spawn")) as pool:
        seconds = list(pool.map(loops.bare_trials, [[trial] for trial in trials]))
    return sum(seconds) / len(seconds) * RUNS / len(seconds)


def _study(options: Mapping[str, object], out: Path, cache: Path) -> tuple[float, PeakMemory]:
    """Run the study as a user does, with an empty cache on disk; return its seconds and its peaks."""
    settings = {**options, "out": out, "seeds": RUNS // 2, "report": "false", "storage": "disk"}
    command = [sys.executable, str(EXPERIMENTS / "ablate.py"), "activation"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    start, peak = time.perf_counter(), PeakMemory()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "MNET_CACHE": str(cache)}) as process:
        sampler = threading.Thread(target=peak.follow, args=(process,))
        sampler.start()
        code = process.wait()
        sampler.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return time.perf_counter() - start, peak
