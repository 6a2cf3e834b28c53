"""PyTorch as it is: one kernel after another, from Python."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mnet.latency.runtimes import Program, Ran, Run, Runtime
from mnet.models.network import MobileNet


class TorchProgram(Program):
    """A module in eval mode."""

    def __init__(self, module: nn.Module, ran: Ran) -> None:
        super().__init__(ran)
        self.module = module

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return self.module(images)

    def fresh(self, example: Tensor) -> Run:
        return bound(copy.deepcopy(self.module), example)


class Eager(Runtime):
    simulates = True

    @property
    def version(self) -> str:
        return torch.__version__

    @property
    def kernels(self) -> str:  # type: ignore[override]
        return kernels()

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        return TorchProgram(settled(module), self.ran(module))


def bound(module: nn.Module, example: Tensor) -> Run:
    """The module on an image of its own."""
    image = example.clone()

    @torch.inference_mode()
    def run() -> object:
        return module(image)

    return run


def folded(module: nn.Module) -> nn.Module:
    """What is exported: batch norms folded where it is one of our networks, in eval mode."""
    from mnet.quantization import fuse

    return fuse(module) if isinstance(module, MobileNet) else settled(module)


def settled(module: nn.Module) -> nn.Module:
    """In eval mode; an exported graph is so for good."""
    return module if isinstance(module, torch.fx.GraphModule) else module.eval()


def kernels() -> str:
    """PyTorch's, with the version of oneDNN."""
    for line in torch.__config__.show().splitlines():
        if "MKL-DNN" in line:
            return f"ATen, oneDNN {line.split('MKL-DNN')[1].split('(')[0].strip()}"
    return "ATen"
