"""Shared by all tests: one thread, a fixed seed, a small folder of images, a small network, and what runs where.

pytest-xdist runs the files of the suite in parallel, each in one process, so that the fixtures of a file are built
once. A single file runs in the main process: nothing else has to start, and printed output is visible.

`make test` leaves out tests marked `full`; `make test-all` runs them, and draws more examples in property tests.
"""

import dataclasses
import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
"""Set before NumPy is imported, and for all processes that tests start: on matrices as small as those of an analysis,
several threads wait for each other and take twice the processor time."""

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
"""Container images turn bytecode off; each of the thirty processes that tests start would then compile all modules."""

for _name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(_name, None)
"""A make that a test starts must not inherit the command-line variables of the make that runs the suite."""

WORKERS = 4
"""Maximum number of workers: each imports torch, and some tests start several processes. Below it there is one more
than cores, since a third of the time on two cores was spent waiting for processes."""

FIRST = ("test_wandb", "test_gpu", "test_runtimes", "test_kill", "test_notebooks", "test_packs", "test_programs")
FIRST += ("test_damage", "test_engines", "test_netadapt", "test_blocks_search", "test_devices", "test_slurm")
FIRST += ("test_quantization", "test_replicas", "test_tables", "test_toggles", "test_tasks", "test_report")
FIRST += ("test_recorded",)
"""Slow files, started first so that none is left when all the others are done."""


def pytest_addoption(parser) -> None:
    parser.addoption("--all", action="store_true", help="also run tests marked `full`, and draw more examples")
    parser.addoption("--kills", type=int, default=1, help="how often tests/studies/runs/test_kill.py kills a sweep")
    parser.addoption("--kill-seed", type=int, default=0, help="seed of the random moments of the kills")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session) -> None:
    """Prepare every process that imports tests, which the one that only distributes them does not."""
    gc.disable()  # until all tests are collected: imports leave no garbage, and looking for it takes seconds
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker of the whole suite, which needs wandb
        import wandb  # noqa: F401 - before torch: it searches all loaded modules, for seconds after Lightning
    import hypothesis
    import torch

    torch.set_num_threads(1)
    config = session.config
    for name, examples in (("quick", 15), ("all", 80)):
        hypothesis.settings.register_profile(name, deadline=None, derandomize=True, max_examples=examples)
    hypothesis.settings.load_profile("all" if config.getoption("--all") else "quick")


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist: `-p no:xdist -o addopts=-q`
def pytest_xdist_auto_num_workers(config) -> int:
    """Number of workers; 0 = run in this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alone = len(config.args) == 1 and Path(config.args[0].partition("::")[0]).is_file()
    return 0 if alone or cores == 1 else min(cores + 1, WORKERS)


def pytest_collection_modifyitems(config, items) -> None:
    left_out = []
    for item in items:
        for mark in item.iter_markers("full"):
            assert mark.args, f"{item.nodeid}: give the mark `full` the reason why `make test` can do without this test"
            left_out.append(item)
    if left_out and not config.getoption("--all") and not any("::" in argument for argument in config.args):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    gc.freeze()  # imports stay: statsmodels and paired timing collect garbage again and again, for 0.3 s each
    gc.enable()
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """The file of a two-block network that any test may train: a step takes milliseconds, not a tenth of a second.

    It has the parts of V3: squeeze-and-excite, h-swish, a stride, a shortcut, dropout in its head.
    """
    import mnet

    network = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1, width=0.25)
    path = tmp_path_factory.mktemp("models") / "tiny_v3.yaml"
    mnet.write_network(dataclasses.replace(network, blocks=network.blocks[3:5]), path)
    return str(path)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Two classes of grey 28x28 images, bright above or below: 40 per class for training, 10 for testing."""
    import numpy as np
    from PIL import Image

    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for label, rows in (("above", slice(0, 14)), ("below", slice(14, 28))):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (28, 28), dtype=np.uint8)
                pixels[rows] += 100
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    return folder
