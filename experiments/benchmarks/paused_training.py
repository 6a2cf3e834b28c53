"""A training by Lightning that runs some steps at a time, so that other loops can be timed in turn with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import lightning as L

from mnet.latency.timing import synchronise


class PausedTraining(L.Callback):
    """Runs a training in a thread, some steps at a time."""

    def __init__(self, train: Callable[[PausedTraining], object], device: str) -> None:
        self.device = device
        self._left, self._go, self._done = 0, threading.Event(), threading.Event()
        self._closed = False
        self._error: BaseException | None = None

        def body() -> None:
            self._go.wait()
            try:
                if not self._closed:
                    train(self)
            except BaseException as error:
                self._error = error
            finally:
                self._done.set()

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._left -= 1
        if self._left == 0:
            synchronise(self.device)
            self._go.clear()
            self._done.set()
            self._go.wait()
            if self._closed:
                raise ClosedError

    def steps(self, count: int) -> float:
        """Run this many steps and return their seconds.

        Raises:
            RuntimeError: The training has ended.
        """
        self._left = count
        self._done.clear()
        synchronise(self.device)
        start = time.perf_counter()
        self._go.set()
        self._done.wait()
        if self._error is not None:
            raise RuntimeError(f"the training ended: {self._error}")
        return time.perf_counter() - start

    def close(self) -> None:
        """End the training and free its memory."""
        self._closed = True
        self._go.set()
        self._thread.join(10)


class ClosedError(Exception):
    """The training is no longer needed."""
