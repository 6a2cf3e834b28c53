"""Shared by all tests: one thread, a fixed seed, and a small folder of pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)


def pytest_addoption(parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="how often tests/studies/test_kill.py kills a sweep")
    parser.addoption("--kill-seed", type=int, default=0, help="of the moments")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Two classes of grey 28x28 pictures, bright above or below: train 40 a class, test 10."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for label, rows in (("above", slice(0, 14)), ("below", slice(14, 28))):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (28, 28), dtype=np.uint8)
                pixels[rows] += 100
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    return folder
