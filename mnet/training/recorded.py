"""Forward and backward pass of a training step, recorded as CUDA graphs on the first call and replayed from then on.

A step of a MobileNet on small images is hundreds of kernels of a few microseconds each. If Python launches them one by
one, the GPU waits for most of them. Nothing is compiled: the kernels are the same as without a recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mnet import cuda_graphs
from mnet.models.replicas import ReplicatedDropout

Shapes = list[tuple[torch.Size, torch.dtype]]


class RecordedStep:
    """Forward and backward pass of a training step as one CUDA graph, which writes the gradients of all parameters.

    The step must do the same work for every batch of a shape: no value may be read from the device.
    """

    def __init__(self, module: nn.Module, step: Callable[[Any], Mapping[str, Any]]) -> None:
        """
        Args:
            module: Its parameters get gradients. After the first call its buffers are as after one step.
            step: Takes a batch of tensors in lists and tuples; returns tensors by name, including `loss`.
        """
        self._module, self._step = module, step
        self._params = [param for param in module.parameters() if param.requires_grad]
        self._replay: cuda_graphs.Replay[tuple[Any, list[Tensor | None]]] | None = None
        self._inputs: list[Tensor] = []
        self._shapes: Shapes = []

    def takes(self, batch: Any) -> bool:
        """Whether the batch has the shape of the first one."""
        return self._replay is None or shapes_of(batch) == self._shapes

    def __call__(self, batch: Any) -> Mapping[str, Any]:
        """What the step returns for a batch on a GPU, detached; the gradients are in the parameters. The next call
        overwrites both.

        Raises:
            RuntimeError: The step cannot be recorded.
        """
        if self._replay is None:
            self._replay = self._record(batch)
        torch._foreach_copy_(self._inputs, tree_leaves(batch), non_blocking=True)
        outputs, grads = self._replay()
        for param, grad in zip(self._params, grads, strict=True):
            param.grad = grad  # Lightning drops them before a validation
        return outputs

    def _record(self, batch: Any) -> cuda_graphs.Replay[tuple[Any, list[Tensor | None]]]:
        batch = tree_map(torch.clone, batch)  # the caller's must not be overwritten
        self._inputs, self._shapes = tree_leaves(batch), shapes_of(batch)
        params, device = self._params, self._params[0].device.type

        def forward_and_backward() -> tuple[Any, list[Tensor | None]]:
            with casting_anew(device):
                outputs = self._step(batch)
            with torch.autocast(device, enabled=False):
                grads = torch.autograd.grad(outputs["loss"], params, allow_unused=True)
            detached = tree_map(torch.Tensor.detach, outputs)
            return detached, [laid_out_as(param, grad) for param, grad in zip(params, grads, strict=True)]

        with unchanged(self._module):
            return cuda_graphs.record(forward_and_backward)


class RecordedNetwork:
    """A network as two CUDA graphs, forward and backward: for training steps whose loss reads values from the device.

    The next call overwrites what this one returned. Input of another shape than the first call's is computed without
    the recording. Both are limits of torch.cuda.make_graphed_callables.
    """

    def __init__(self, net: nn.Module) -> None:
        """
        Args:
            net: After the first call its buffers are as after one call.
        """
        self._net = net
        self._replay: Callable[[Tensor], Any] | None = None
        self._shapes: Shapes = []

    def __call__(self, images: Tensor) -> Any:
        """What the network returns for these images, on a GPU.

        Raises:
            RuntimeError: It cannot be recorded.
        """
        if self._replay is None:
            self._shapes = shapes_of(images)
            call = _Outputs(self._net)
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # the warm-up has another stream
            try:
                with unchanged(self._net), casting_anew(images.device.type):
                    first = (images.clone(),)  # this batch must not be overwritten
                    self._replay = torch.cuda.make_graphed_callables(call, first, cuda_graphs.WARM_UP, True)
            finally:
                torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(True)
            call.forget_gradients()
        assert self._replay is not None
        return self._replay(images) if shapes_of(images) == self._shapes else self._net(images)


class _Outputs(nn.Module):
    """A network that remembers its outputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.outputs: Any = ()

    def forward(self, images: Tensor) -> Any:
        self.outputs = self.net(images)
        return self.outputs

    def forget_gradients(self) -> None:
        """Detach the recorded outputs. Otherwise they would keep alive autograd's accumulators of the weights'
        gradients, which are on the recording's stream: every later step would wait for that stream."""
        for output in tree_leaves(self.outputs):
            if not output._is_view():
                output.detach_()


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Keep batch norms and random numbers unchanged by the warm-up and the recording, and have dropout drawn where a
    replay reads it.

    Raises:
        RuntimeError: It cannot be recorded.
    """
    for layer in module.modules():
        if isinstance(layer, ReplicatedDropout):
            layer.hold_mask()
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    device = next(module.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    except RuntimeError as error:
        raise RuntimeError(f"a step cannot be recorded as CUDA graphs; train with --compile=off: {error}") from error
    torch._foreach_copy_(buffers, before)


def casting_anew(device: str) -> torch.autocast:
    """The current autocast without cached casts: a replay must cast the weights of its own step."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)


def laid_out_as(param: Tensor, grad: Tensor | None) -> Tensor | None:
    """The gradient with the strides of its parameter, which fused optimisers require."""
    if grad is None:
        return None
    strides = zip(param.shape, param.stride(), grad.stride(), strict=True)
    if all(size == 1 or one == other for size, one, other in strides):
        return grad.as_strided(param.shape, param.stride())
    return torch.empty_like(param).copy_(grad)


def shapes_of(tensors: Any) -> Shapes:
    """Shape and type of every tensor in lists and tuples."""
    return [(leaf.shape, leaf.dtype) for leaf in tree_leaves(tensors)]


def on_gpu(batch: object) -> bool:
    """Whether the first tensor of a batch is on a GPU."""
    return bool(tree_leaves(batch)[0].is_cuda)


def can_record(trainer: L.Trainer) -> bool:
    """Whether this Trainer uses one device and updates after each batch. A replay overwrites the last gradients, so
    they cannot be accumulated."""
    return trainer.world_size == 1 and trainer.accumulate_grad_batches == 1
