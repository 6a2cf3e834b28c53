"""Forward and backward pass of a training step, recorded as CUDA graphs at its first call and replayed from then on.

A step of a MobileNet on small images is hundreds of kernels of a few microseconds each; launched one by one from
Python, the GPU waits for most of them. Nothing is compiled: the kernels are those of a step that is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from mnet.models.replicas import ReplicatedDropout

WARM_UP = 3
"""Calls before the recording, in which libraries choose their kernels."""


class Recorded:
    """A function of tensors and of a module's parameters, differentiable with respect to the latter.

    It must do the same for every input of a shape: no value may be read from the device. What it returns is overwritten
    by the next call. Input of another shape than the first call's is computed without the recording.

    Source: torch.cuda.make_graphed_callables, whose limits these are.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        """
        Args:
            module: Its parameters get gradients; its buffers are as after one call once the first call has returned.
            call: Takes tensors, or lists and tuples of them, and returns such.
        """
        self._module, self._call = module, call
        self._replay: Callable[..., Any] | None = None
        self._shapes: list[tuple[torch.Size, torch.dtype]] = []

    def __call__(self, *inputs: Any) -> Any:
        """What the function returns for these inputs, on a GPU.

        Raises:
            RuntimeError: It cannot be recorded.
        """
        shapes = [(leaf.shape, leaf.dtype) for leaf in tree_leaves(inputs)]
        if self._replay is None:
            self._replay, self._shapes = self._record(inputs), shapes
        return self._replay(*inputs) if shapes == self._shapes else self._call(*inputs)

    def _record(self, inputs: tuple[Any, ...]) -> Callable[..., Any]:
        """The calls before the recording must leave no trace in batch norms and random numbers."""
        inputs = tree_map(torch.clone, inputs)  # the first batch must not be overwritten
        for layer in self._module.modules():
            if isinstance(layer, ReplicatedDropout):
                layer.hold_mask()
        buffers = list(self._module.buffers())
        before = [buffer.clone() for buffer in buffers]
        device = buffers[0].device
        call = _Call(self._module, self._call)
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # warm-up and recording use two
        try:
            with (
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                torch.autocast(
                    device.type,
                    torch.get_autocast_dtype(device.type),
                    enabled=torch.is_autocast_enabled(device.type),
                    cache_enabled=False,  # a replay must cast the weights of its own step
                ),
            ):
                replay = torch.cuda.make_graphed_callables(call, inputs, WARM_UP, True)
        except RuntimeError as error:
            raise RuntimeError(f"a step cannot be recorded as CUDA graphs; --compile=off trains it: {error}") from error
        finally:
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(True)
        call.forget_gradients()
        torch._foreach_copy_(buffers, before)
        return replay


class _Call(nn.Module):
    """A function as the forward pass of a module that holds its parameters."""

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.call = module, call
        self.outputs: Any = ()

    def forward(self, *inputs: Any) -> Any:
        self.outputs = self.call(*inputs)
        return self.outputs

    def forget_gradients(self) -> None:
        """Once recorded, the outputs lead to nothing. Otherwise they would keep alive where autograd adds up the
        gradients of a weight, which is on the stream of the recording: every later step would wait there."""
        for output in tree_leaves(self.outputs):
            if not output._is_view():
                output.detach_()


def on_gpu(batch: object) -> bool:
    """Whether the first tensor of a batch is on a GPU."""
    return bool(tree_leaves(batch)[0].is_cuda)


def can_record(trainer: L.Trainer) -> bool:
    """Whether every step of this Trainer has gradients of its own: one device, and an update after each batch. A replay
    overwrites the gradients of the last one, to which another batch would be added."""
    return trainer.world_size == 1 and trainer.accumulate_grad_batches == 1
