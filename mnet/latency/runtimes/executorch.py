"""ExecuTorch: PyTorch's on-device runtime, delegating to XNNPACK, whose kernels TFLite uses too."""

from __future__ import annotations

import gc
from importlib.metadata import version
from pathlib import Path

import executorch.extension.pybindings.portable_lib as native
import torch
from executorch.runtime import Method
from executorch.runtime import Program as LoadedProgram
from executorch.runtime import Runtime as Loader
from torch import Tensor, nn

from mnet.latency.runtimes import ExportingRuntime, Program, ProgramInfo, Run, silenced
from mnet.latency.runtimes.torch_eager import fused_for_export


class PteProgram(Program):
    """A method of an exported file."""

    def __init__(self, path: Path, info: ProgramInfo) -> None:
        super().__init__(info)
        self.path = path
        self.program, self.method = self._load()

    def _load(self) -> tuple[LoadedProgram, Method]:
        """The program and its method, which reads the program's memory: keep both alive."""
        _use_threads(self.info.threads)
        program = Loader.get().load_program(str(self.path))
        return program, program.load_method("forward")

    def __call__(self, images: Tensor) -> Tensor:
        _use_threads(self.info.threads)
        return self.method.execute([images.contiguous()])[0]

    def fresh(self, example: Tensor) -> Run:
        program, method = self._load()
        method._method.set_inputs([image := example.clone()])
        execute = method._method.execute

        def run(keep_alive: object = (program, image)) -> None:
            execute()

        return run


class ExecuTorch(ExportingRuntime):
    suffix = "pte"
    kernels = "XNNPACK"

    @property
    def version(self) -> str:
        return version("executorch")

    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        module = fused_for_export(module)
        collecting = gc.isenabled()
        gc.disable()  # saves a quarter of the time: every pass copies the graph
        try:
            edge = to_edge_transform_and_lower(
                torch.export.export(module, (example,)),
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
            table = get_delegation_info(edge.exported_program().graph_module).get_operator_delegation_dataframe()
            content = edge.to_executorch().buffer
        finally:
            if collecting:
                gc.enable()
        table = table[~table["op_type"].isin(["Total", "getitem"])]
        inside, outside = (
            {
                _short_name(name): int(count)
                for name, count in zip(table["op_type"], table[column], strict=True)
                if count
            }
            for column in ("occurrences_in_delegated_graphs", "occurrences_in_non_delegated_graphs")
        )
        return content, {"delegated": inside, "undelegated": outside}

    def load(self, path: Path, info: ProgramInfo) -> Program:
        return PteProgram(path, info)


def _short_name(name: str) -> str:
    """aten_convolution_default -> convolution."""
    for prefix in ("aten_", "dim_order_ops__", "quantized_decomposed_"):
        name = name.removeprefix(prefix)
    for suffix in ("_default", "_tensor", "_dim"):
        name = name.removesuffix(suffix)
    return name


def _use_threads(threads: int) -> None:
    """Resize the thread pool of the process. Programs loaded earlier must not run afterwards."""
    if native._threadpool_get_thread_count() != threads:
        with silenced():
            native._unsafe_reset_threadpool(threads)
