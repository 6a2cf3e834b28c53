"""A sweep that is killed again and again ends with the tables of an undisturbed one.

The suite kills once, `make test-kill` twenty times. Every other kill comes as soon as a file is being written, the
others at a random moment.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import ablate
import numpy as np
import pandas as pd
import pytest
import torch

from mnet.files import TEMPORARY
from mnet.studies.results.tables import TIMING

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def command(images, tiny_model) -> list[str]:
    """Two packs of two runs that take seconds, with dropout, averaged weights, and checkpoints all the time."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "batch_size": 16}
    settings |= {"recipe": "v3", "lr": 0.05, "epochs": 6, "activation": "paper,relu", "seeds": 2}
    settings |= {"checkpoint_seconds": 0.05, "report": "false", "pack": 2}
    return [
        sys.executable,
        str(ROOT / "experiments/ablate.py"),
        "activation",
        *(f"--{k}={v}" for k, v in settings.items()),
    ]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory) -> dict[str, object]:
    """The results of a sweep that is not killed."""
    out = tmp_path_factory.mktemp("undisturbed")
    run_to_the_end(command, out)
    return tables(out)


def run_to_the_end(command: list[str], out: Path) -> None:
    """Finish in this process, which has imported everything: a killed sweep leaves nothing but files."""
    assert ablate.main([*command[2:], f"--out={out}"]) == 0


def tables(out: Path) -> dict[str, object]:
    """All results of a sweep that depend neither on time nor on a commit made meanwhile."""
    folder = out / "activation"
    runs = pd.read_csv(folder / "runs.csv", dtype=str)
    files = sorted(
        path for pattern in ("metrics.csv", "correct.npz", "weights.pt") for path in folder.glob(f"runs/*/{pattern}")
    )
    whole = {str(path.relative_to(folder)): path.read_bytes() for path in (*files, folder / "summary.csv")}
    return {"runs.csv": runs.drop(columns=[*TIMING, "revision"]).to_csv(), **whole}


def check_whole(out: Path) -> None:
    """Check that every file with its final name is complete."""
    for path in out.rglob("*.json"):
        json.loads(path.read_text())
    for path in out.rglob("*.csv"):
        if not path.name.startswith(TEMPORARY):
            pd.read_csv(path)
    for path in out.rglob("resume.ckpt"):
        torch.load(path, weights_only=True)
    for path in out.rglob("correct.npz"):
        np.load(path)["bits"]


def start(command: list[str], out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*command, f"--out={out}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_to_kill(out: Path, process: subprocess.Popen, delay_s: float | None) -> None:
    """Wait for a new checkpoint, then for `delay_s`, or until a file is being written if that is None."""

    def checkpoints() -> set[tuple[Path, int]]:
        with suppress(FileNotFoundError):  # removed meanwhile, as its run has ended
            return {(path, path.stat().st_ino) for path in out.glob("activation/runs/*/resume.ckpt")}
        return set()

    before = checkpoints()
    while checkpoints() <= before and process.poll() is None:
        time.sleep(0.01)
    if delay_s is not None:
        time.sleep(delay_s)
        return
    while not any(out.glob(f"activation/**/{TEMPORARY}*")) and process.poll() is None:
        time.sleep(0.0005)


def test_a_sweep_killed_at_random_moments_ends_with_the_same_tables(command, undisturbed, tmp_path, request, capsys):
    kills = request.config.getoption("--kills")
    choose, sweep, killed = random.Random(request.config.getoption("--kill-seed")), 0, []
    while len(killed) < kills:
        out = tmp_path / f"sweep{sweep}"
        process = start(command, out)
        delay_s = choose.uniform(0, 1) if len(killed) % 2 else None
        wait_to_kill(out, process, delay_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            finished = len(list(out.glob("activation/runs/*/result.json")))
            moment = "while a file was written" if delay_s is None else "anywhere"
            killed.append(f"sweep {sweep}, {moment}, {finished} of 4 runs finished")
            with capsys.disabled():
                print(f"\n  kill {len(killed)}/{kills}: {killed[-1]}", end="", flush=True)
            process.stderr.close()
            check_whole(out)
        else:  # it finished before the kill: the next kills hit another sweep
            assert process.returncode == 0, process.communicate()[1]
            process.stderr.close()
            assert tables(out) == undisturbed
            sweep += 1
    run_to_the_end(command, tmp_path / f"sweep{sweep}")
    assert tables(tmp_path / f"sweep{sweep}") == undisturbed
    assert not list(tmp_path.glob(f"sweep{sweep}/activation/runs/*/{TEMPORARY}*"))


@pytest.mark.full("locked runs are waited for in test_session.py, and a sweep is killed above")
def test_two_processes_on_the_same_study_pay_each_run_once_and_tear_nothing(command, undisturbed, tmp_path):
    both = [start(command, tmp_path) for _ in range(2)]
    written: dict[Path, set[int]] = {}
    while any(process.poll() is None for process in both):
        for path in tmp_path.glob("activation/runs/*/result.json"):
            written.setdefault(path, set()).add(path.stat().st_ino)  # a second one if it was written again
        time.sleep(0.005)
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    check_whole(tmp_path)
    assert len(pd.read_csv(tmp_path / "activation/runs.csv")) == 4
    assert tables(tmp_path) == undisturbed
    assert len(written) == 4
    assert all(len(files) == 1 for files in written.values())
