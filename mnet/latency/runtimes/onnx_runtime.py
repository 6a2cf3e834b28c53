"""ONNX Runtime on the CPU. Int8 graphs become its quantised operators where it knows the pattern."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch import Tensor, nn

from mnet.latency.runtimes import Exporting, Program, Ran, Run, as_tensor, counted, package_version, precision_of
from mnet.latency.runtimes.torch_eager import settled

FLOAT_IN_INT8 = ("DequantizeLinear", "QuantizeLinear")
"""Left between operators of an int8 graph: what lies between two of them runs in float."""


class OnnxProgram(Program):
    """A session over a file."""

    def __init__(self, path: Path, ran: Ran) -> None:
        super().__init__(ran)
        self.path = path
        self.session = session(path, ran.threads)
        (self.input,), (self.output,) = self.session.get_inputs(), self.session.get_outputs()

    def __call__(self, images: Tensor) -> Tensor:
        return as_tensor(self.session.run(None, {self.input.name: images.numpy()})[0])

    def fresh(self, example: Tensor) -> Run:
        loaded = session(self.path, self.ran.threads)
        bound = loaded.io_binding()
        bound.bind_cpu_input(self.input.name, example.numpy().copy())
        bound.bind_output(self.output.name)
        return lambda: loaded.run_with_iobinding(bound)


class OnnxRuntime(Exporting):
    suffix = "onnx"
    kernels = "MLAS"

    @property
    def version(self) -> str:
        return package_version("onnxruntime")

    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        import onnx

        exported = torch.onnx.export(settled(module), (example,), dynamo=True, verbose=False)
        assert exported is not None
        with TemporaryDirectory() as folder:
            path, optimised = Path(folder) / "network.onnx", Path(folder) / "optimised.onnx"
            exported.save(str(path), external_data=False)
            session(path, self.threads, optimised)
            nodes = onnx.load(str(optimised), load_external_data=False).graph.node
            names = [node.op_type for node in nodes]
            fallen = names if precision_of(module) == "int8" else []
            known: dict[str, object] = {
                "delegated": counted(name for name in names if name not in FLOAT_IN_INT8 and is_int8(name, fallen)),
                "undelegated": counted(name for name in fallen if not is_int8(name, fallen)),
            }
            return path.read_bytes(), known

    def load(self, path: Path, ran: Ran) -> Program:
        return OnnxProgram(path, ran)


def is_int8(name: str, graph: list[str]) -> bool:
    """Whether an operator of an int8 graph computes in int8, or only moves what it gets; all do of a float graph."""
    return not graph or name.startswith("QLinear") or name in ("QGemm", "Transpose", "Reshape", "MaxPool")


def session(path: Path, threads: int, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
