"""A call is warmed up, recorded once, and kept alive by its replay; the graph itself is a stub."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from mnet import cuda_graphs


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What was done with streams and graphs, in order."""
    done: list[str] = []

    @contextmanager
    def graph(_):
        done.append("record")
        yield
        done.append("recorded")

    def stream(name: str) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: done.append(f"{name} waits"))

    side, main = stream("side"), stream("main")
    replaced = {
        "Stream": lambda: side,
        "current_stream": lambda: main,
        "stream": lambda _: nullcontext(),
        "graph": graph,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: done.append("replay")),
    }
    for name, stub in replaced.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    return done


def test_a_call_is_warmed_up_beside_the_stream_and_recorded_once(events):
    def call() -> int:
        events.append("call")
        return len(events)

    replay = cuda_graphs.record(call)
    warm_up = ["side waits", *["call"] * cuda_graphs.WARM_UP, "main waits"]
    assert events == [*warm_up, "record", "call", "recorded"]
    assert replay() == len(warm_up) + 2  # what the recorded call returned, not the warm-up
    assert events[-1] == "replay"
    assert replay.call is call
