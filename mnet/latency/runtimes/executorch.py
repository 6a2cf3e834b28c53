"""ExecuTorch: PyTorch's own runtime for devices, its operators delegated to XNNPACK, TFLite's kernels too."""

from __future__ import annotations

import gc
from pathlib import Path

import executorch.extension.pybindings.portable_lib as native
import torch
from executorch.runtime import Method
from executorch.runtime import Program as LoadedProgram
from executorch.runtime import Runtime as Loader
from torch import Tensor, nn

from mnet.latency.runtimes import Exporting, Program, Ran, Run, package_version, silenced
from mnet.latency.runtimes.torch_eager import folded


class PteProgram(Program):
    """A method of a file."""

    def __init__(self, path: Path, ran: Ran) -> None:
        super().__init__(ran)
        self.path = path
        self.program, self.method = self.loaded()

    def loaded(self) -> tuple[LoadedProgram, Method]:
        """A method reads the memory of its program, which must be kept as long."""
        use_threads(self.ran.threads)
        program = Loader.get().load_program(str(self.path))
        return program, program.load_method("forward")

    def __call__(self, images: Tensor) -> Tensor:
        use_threads(self.ran.threads)
        return self.method.execute([images.contiguous()])[0]

    def fresh(self, example: Tensor) -> Run:
        program, method = self.loaded()
        method._method.set_inputs([image := example.clone()])
        execute = method._method.execute

        def run(keeping: object = (program, image)) -> None:
            execute()

        return run


class ExecuTorch(Exporting):
    suffix = "pte"
    kernels = "XNNPACK"

    @property
    def version(self) -> str:
        return package_version("executorch")

    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        module = folded(module)
        collecting = gc.isenabled()
        gc.disable()  # a quarter of the time: the graph is copied at every pass
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
            {short(name): int(count) for name, count in zip(table["op_type"], table[column], strict=True) if count}
            for column in ("occurrences_in_delegated_graphs", "occurrences_in_non_delegated_graphs")
        )
        return content, {"delegated": inside, "undelegated": outside}

    def load(self, path: Path, ran: Ran) -> Program:
        return PteProgram(path, ran)


def short(name: str) -> str:
    """aten_convolution_default -> convolution."""
    for prefix in ("aten_", "dim_order_ops__", "quantized_decomposed_"):
        name = name.removeprefix(prefix)
    for suffix in ("_default", "_tensor", "_dim"):
        name = name.removesuffix(suffix)
    return name


def use_threads(threads: int) -> None:
    """The pool is the process's, and programs loaded before it changed must not run again."""
    if native._threadpool_get_thread_count() != threads:
        with silenced():
            native._unsafe_reset_threadpool(threads)
