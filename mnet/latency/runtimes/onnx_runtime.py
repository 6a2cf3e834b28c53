"""ONNX Runtime on the CPU. It turns int8 graphs into its quantised operators if it recognises the pattern."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch import Tensor, nn

from mnet.latency.runtimes import ExportingRuntime, Program, ProgramInfo, Run, count_names, precision_of
from mnet.latency.runtimes.torch_eager import eval_mode

FLOAT_IN_INT8 = ("DequantizeLinear", "QuantizeLinear")
"""Operators that remain in an int8 graph around those that run in float."""


class OnnxProgram(Program):
    """A session of an exported file."""

    def __init__(self, path: Path, info: ProgramInfo) -> None:
        super().__init__(info)
        self.path = path
        self.session = _session(path, info.threads)
        (self.input,), (self.output,) = self.session.get_inputs(), self.session.get_outputs()

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.input.name: images.numpy()})[0])

    def fresh(self, example: Tensor) -> Run:
        loaded = _session(self.path, self.info.threads)
        bound = loaded.io_binding()
        bound.bind_cpu_input(self.input.name, example.numpy().copy())
        bound.bind_output(self.output.name)
        return lambda: loaded.run_with_iobinding(bound)


class OnnxRuntime(ExportingRuntime):
    suffix = "onnx"
    kernels = "MLAS"

    @property
    def version(self) -> str:
        return version("onnxruntime")

    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        import onnx

        exported = torch.onnx.export(eval_mode(module), (example,), dynamo=True, verbose=False)
        assert exported is not None
        with TemporaryDirectory() as folder:
            path, optimised = Path(folder) / "network.onnx", Path(folder) / "optimised.onnx"
            exported.save(str(path), external_data=False)
            _session(path, self.threads, optimised)
            nodes = onnx.load(str(optimised), load_external_data=False).graph.node
            names = [node.op_type for node in nodes]
            int8 = precision_of(module) == "int8"
            native = [name for name in names if not int8 or _is_int8(name)]
            facts: dict[str, object] = {
                "delegated": count_names(name for name in native if name not in FLOAT_IN_INT8),
                "undelegated": count_names(name for name in names if int8 and not _is_int8(name)),
            }
            return path.read_bytes(), facts

    def load(self, path: Path, info: ProgramInfo) -> Program:
        return OnnxProgram(path, info)


def _is_int8(name: str) -> bool:
    """Whether an operator of an int8 graph computes in int8, or only moves values."""
    return name.startswith("QLinear") or name in ("QGemm", "Transpose", "Reshape", "MaxPool")


def _session(path: Path, threads: int, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
