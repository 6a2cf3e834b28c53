"""PyTorch on an NVIDIA GPU: in eager mode, compiled by Inductor, or recorded as a CUDA graph.

All compute in full fp32, since outputs are compared with those of the CPU; by default cuDNN would round to TF32. All
store images channels_last.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from mnet import cuda_graphs
from mnet.errors import ConfigError
from mnet.latency.machine import unpinned
from mnet.latency.runtimes import ExportError, Program, ProgramInfo, Run, Runtime, first_line, silenced
from mnet.latency.runtimes.torch_compile import compile_module
from mnet.latency.runtimes.torch_eager import bind_input, eval_mode, fused_for_export
from mnet.provenance import ask_driver
from mnet.training.arithmetic import set_tensor_cores


class CudaProgram(Program):
    """A module on the GPU, channels_last, launched kernel by kernel from Python."""

    def __init__(self, module: nn.Module, info: ProgramInfo, device: str) -> None:
        super().__init__(info)
        self.module, self.device = module, device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        set_tensor_cores(False)
        return self.module(self.place(images)).cpu()

    def fresh(self, example: Tensor) -> Run:
        set_tensor_cores(False)
        return bind_input(copy.deepcopy(self.module), self.place(example))

    def place(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) on the GPU, channels_last: rearranged there, which is far faster than on the CPU."""
        return images.to(self.device).contiguous(memory_format=torch.channels_last)


class CudaCompiledProgram(CudaProgram):
    """A compiled module on the GPU, and the source module whose parameters it reads."""

    def __init__(self, module: nn.Module, source: nn.Module, info: ProgramInfo, device: str) -> None:
        super().__init__(module, info, device)
        self.source = source

    def fresh(self, example: Tensor) -> Run:
        """Move the parameters in memory but keep the compiled code: compiling again would take a minute."""
        set_tensor_cores(False)
        for tensor in (*self.source.parameters(), *self.source.buffers()):
            tensor.data = tensor.data.clone()
        return bind_input(self.module, self.place(example))


class CudaGraphProgram(CudaProgram):
    """A module on the GPU, recorded and replayed without launches from Python."""

    def fresh(self, example: Tensor) -> Run:
        set_tensor_cores(False)
        module, image = copy.deepcopy(self.module), self.place(example)
        with torch.inference_mode():
            return cuda_graphs.record(lambda: module(image))


class CudaRuntime(Runtime):
    """The base of the runtimes on an NVIDIA GPU."""

    device = "cuda"
    simulates = True
    compiler = ""

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        """
        Raises:
            ConfigError: There is no NVIDIA GPU.
        """
        super().__init__(name, threads, folder)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"runtime {name} needs an NVIDIA GPU, and torch finds none; use eager or executorch")

    @property
    def version(self) -> str:
        return torch.__version__

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        set_tensor_cores(False)
        parts = filter(None, (self.compiler, _cudnn(), _driver()))
        info = replace(self.describe(module), kernels=", ".join(parts))
        try:
            return self.load(copy.deepcopy(module), example, info)
        except Exception as error:
            raise ExportError(f"{self.name} cannot run it: {first_line(error)}") from error

    @abstractmethod
    def load(self, module: nn.Module, example: Tensor, info: ProgramInfo) -> Program:
        """The program that runs `module`, which nothing else uses."""

    def place(self, module: nn.Module) -> nn.Module:
        """The module on the GPU, channels_last."""
        return module.to(memory_format=torch.channels_last).to(self.device)


class CudaEager(CudaRuntime):
    def load(self, module: nn.Module, example: Tensor, info: ProgramInfo) -> Program:
        return CudaProgram(self.place(eval_mode(module)), info, self.device)


class CudaGraphs(CudaRuntime):
    def load(self, module: nn.Module, example: Tensor, info: ProgramInfo) -> Program:
        return CudaGraphProgram(self.place(eval_mode(module)), info, self.device)


class CudaCompiled(CudaRuntime):
    compiler = "Inductor (Triton)"

    def load(self, module: nn.Module, example: Tensor, info: ProgramInfo) -> Program:
        source = self.place(fused_for_export(module))
        with unpinned(), silenced():  # compiling uses every core, timing only the pinned ones
            program = CudaCompiledProgram(compile_module(source), source, info, self.device)
            program(example)
        return program


def _cudnn() -> str:
    """cuDNN with its version, such as cuDNN 9.10.2; empty if this torch has none."""
    number = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    if number is None:
        return ""
    major = 10_000 if number >= 90_000 else 1_000  # 91002 is 9.10.2, 8907 is 8.9.7
    return f"cuDNN {number // major}.{number % major // 100}.{number % 100}"


@cache
def _driver() -> str:
    """The driver with its version, such as driver 580.159; empty if nvidia-smi does not report it."""
    version = ask_driver("driver_version")
    return f"driver {version}" if version else ""
