"""torch.compile with its default backend, which generates and compiles kernels: about a minute per network."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from mnet.latency.runtimes import ExportError, Program, ProgramInfo, Run, Runtime, first_line, silenced
from mnet.latency.runtimes.torch_eager import TorchProgram, bind_input, fused_for_export, kernels
from mnet.training.arithmetic import COMPILED_NETWORKS, keep_compiled_code


class CompiledProgram(TorchProgram):
    """A compiled module, and the source module whose parameters it reads."""

    def __init__(self, module: nn.Module, source: nn.Module, info: ProgramInfo) -> None:
        super().__init__(module, info)
        self.source = source

    def fresh(self, example: Tensor) -> Run:
        """Move the parameters in memory but keep the compiled code: compiling again would take about a minute."""
        for tensor in (*self.source.parameters(), *self.source.buffers()):
            tensor.data = tensor.data.clone()
        return bind_input(self.module, example)


class Compiled(Runtime):
    simulates = True

    @property
    def version(self) -> str:
        return torch.__version__

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        source = fused_for_export(copy.deepcopy(module))
        info = replace(self.describe(module), kernels=f"Inductor (C++), {kernels()}")
        program = CompiledProgram(compile_module(source), source, info)
        try:
            with silenced():
                program(example)
        except Exception as error:
            raise ExportError(f"compile cannot run it: {first_line(error)}") from error
        return program


def compile_module(source: nn.Module) -> nn.Module:
    """The module, compiled when it is first called; it reads the parameters of `source`."""
    import torch._dynamo.config as settings

    keep_compiled_code()
    settings.recompile_limit = max(settings.recompile_limit, COMPILED_NETWORKS)
    return cast(nn.Module, torch.compile(source, dynamic=False))
