"""Data sets of a few images stand in for the published ones, whose sizes tests/trust checks."""

import pytest

from mnet.data import DATASETS


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    for dataset in DATASETS.values():
        monkeypatch.setattr(dataset, "published_sizes", {})
