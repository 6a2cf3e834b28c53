"""A clock that a test controls: latencies measured with it do not depend on how busy the machine is."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mnet.latency import comparison

LAYER_S = 1e-4
"""Seconds that a convolution or linear layer takes."""


class Clock:
    """Seconds that pass only when spent, with a noise of 1%."""

    def __init__(self) -> None:
        self.now = 0.0
        self._random = np.random.default_rng(0)

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds * self._random.lognormal(0, 0.01)


@pytest.fixture
def clock(monkeypatch) -> Iterator[Clock]:
    """The clock of `mnet.latency`. A convolution or linear layer takes `LAYER_S`, any other layer its `seconds`, if it
    has any; everything else takes time only by calling `spend`."""
    clock = Clock()
    for module in ("timing", "paired", "comparison"):
        monkeypatch.setattr(f"mnet.latency.{module}.time", SimpleNamespace(perf_counter=clock.perf_counter))
    monkeypatch.setattr(comparison, "WARM_CALLS", 1)  # a clock without outliers needs no more
    monkeypatch.setattr(comparison.program_sample, "__defaults__", (0.0, 1))  # one group instead of 11
    monkeypatch.setitem(comparison.measure.__kwdefaults__, "groups", 1)

    def spend(module: nn.Module, *_: object) -> None:
        clock.spend(LAYER_S if isinstance(module, nn.Conv2d | nn.Linear) else getattr(module, "seconds", 0.0))

    hook = torch.nn.modules.module.register_module_forward_hook(spend)
    yield clock
    hook.remove()
