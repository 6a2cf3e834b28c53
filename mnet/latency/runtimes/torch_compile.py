"""torch.compile with its default backend: kernels generated and compiled here, in a minute or so a network."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from mnet.latency.runtimes import ExportError, Program, Ran, Run, Runtime, one_line, silenced
from mnet.latency.runtimes.torch_eager import TorchProgram, bound, folded, kernels


class CompiledProgram(TorchProgram):
    """A compiled module, and the module whose parameters it reads."""

    def __init__(self, module: nn.Module, source: nn.Module, ran: Ran) -> None:
        super().__init__(module, ran)
        self.source = source

    def fresh(self, example: Tensor) -> Run:
        """The parameters move, the compiled code stays: to compile again would cost minutes."""
        for tensor in (*self.source.parameters(), *self.source.buffers()):
            tensor.data = tensor.data.clone()
        return bound(self.module, example)


class Compiled(Runtime):
    simulates = True

    @property
    def version(self) -> str:
        return torch.__version__

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        source = folded(copy.deepcopy(module))
        compiled = torch.compile(source, dynamic=False)
        ran = replace(self.ran(module), kernels=f"Inductor (C++), {kernels()}")
        program = CompiledProgram(compiled, source, ran)  # type: ignore[arg-type]
        try:
            with silenced():
                program(example)
        except Exception as error:
            raise ExportError(f"compile cannot take it: {one_line(error)}") from error
        return program
