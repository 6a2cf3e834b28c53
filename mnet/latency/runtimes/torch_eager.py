"""PyTorch in eager mode: one kernel after another, launched from Python."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mnet.latency.runtimes import Program, ProgramInfo, Run, Runtime
from mnet.models.network import MobileNet


class TorchProgram(Program):
    """A module in eval mode."""

    def __init__(self, module: nn.Module, info: ProgramInfo) -> None:
        super().__init__(info)
        self.module = module

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return self.module(images)

    def fresh(self, example: Tensor) -> Run:
        return bind_input(copy.deepcopy(self.module), example)


class Eager(Runtime):
    simulates = True

    @property
    def version(self) -> str:
        return torch.__version__

    @property
    def kernels(self) -> str:  # type: ignore[override]
        return kernels()

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        return TorchProgram(eval_mode(module), self.describe(module))


def bind_input(module: nn.Module, example: Tensor) -> Run:
    """A run of the module on a copy of `example`."""
    image = example.clone()

    @torch.inference_mode()
    def run() -> object:
        return module(image)

    return run


def fused_for_export(module: nn.Module) -> nn.Module:
    """The module to export: in eval mode, with the batch norms of a `MobileNet` folded."""
    from mnet.quantization import fuse

    return fuse(module) if isinstance(module, MobileNet) else eval_mode(module)


def eval_mode(module: nn.Module) -> nn.Module:
    """The module in eval mode; an exported graph always is."""
    return module if isinstance(module, torch.fx.GraphModule) else module.eval()


def kernels() -> str:
    """PyTorch's kernels, with the version of oneDNN."""
    for line in torch.__config__.show().splitlines():
        if "MKL-DNN" in line:
            return f"ATen, oneDNN {line.split('MKL-DNN')[1].split('(')[0].strip()}"
    return "ATen"
