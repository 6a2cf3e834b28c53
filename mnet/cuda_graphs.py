"""Calls recorded as CUDA graphs: replayed, they launch nothing from Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

WARM_UP = 3
"""Unrecorded calls before the recording, in which libraries choose their kernels."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Replay(Generic[Result]):
    """A recorded call. A replay reads its inputs from the recorded addresses and overwrites `results`."""

    graph: torch.cuda.CUDAGraph
    results: Result
    """What the recorded call returned."""
    call: Callable[[], Result]
    """The recorded call, kept because the graph does not keep the tensors that it reads alive."""

    def __call__(self) -> Result:
        self.graph.replay()
        return self.results


def record(call: Callable[[], Result]) -> Replay[Result]:
    """Record a call on the current GPU, after `WARM_UP` calls that are not recorded.

    Args:
        call: Must do the same every time: it may not read values from the GPU or take tensors from other devices.

    Raises:
        RuntimeError: The call cannot be recorded.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return Replay(graph, results, call)
