"""LiteRT (formerly TFLite, the papers' runtime) with its XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from mnet.latency.runtimes import (
    ExportError,
    ExportingRuntime,
    Program,
    ProgramInfo,
    Run,
    count_names,
    precision_of,
)
from mnet.latency.runtimes.torch_eager import fused_for_export


class TfliteProgram(Program):
    """An interpreter of an exported file. int8 inputs and outputs are scaled from and to float."""

    def __init__(self, path: Path, info: ProgramInfo) -> None:
        super().__init__(info)
        self.path = path
        self.interpreter = _interpreter(path, info.threads)

    def __call__(self, images: Tensor) -> Tensor:
        _set_input(self.interpreter, images.numpy())
        self.interpreter.invoke()
        (output,) = self.interpreter.get_output_details()
        scores = self.interpreter.get_tensor(output["index"])
        scale, zero = output["quantization"]
        return torch.from_numpy((scores.astype(np.float32) - zero) * np.float32(scale) if scale else scores)

    def fresh(self, example: Tensor) -> Run:
        loaded = _interpreter(self.path, self.info.threads)
        _set_input(loaded, example.numpy())
        return loaded.invoke


class LiteRT(ExportingRuntime):
    suffix = "tflite"
    kernels = "XNNPACK"

    @property
    def version(self) -> str:
        version("litert-torch")
        return version("ai-edge-litert")

    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        import litert_torch

        from mnet.quantization import SOURCE

        source = getattr(module, "meta", {}).get(SOURCE)
        if source is None and precision_of(module) == "int8":
            raise ValueError("an int8 graph without its float network; use mnet.quantization.quantize, which keeps it")
        net, images = source if source is not None else (module, None)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.tflite"
            litert_torch.convert(fused_for_export(net), (example,)).export(str(path))
            if images is not None:
                path = _quantise(path, images, len(example))
            inside, outside = _operators(path, self.threads)
            return path.read_bytes(), {"delegated": inside, "undelegated": outside}

    def load(self, path: Path, info: ProgramInfo) -> Program:
        return TfliteProgram(path, info)


def _quantise(path: Path, images: Tensor, batch: int) -> Path:
    """The file in int8 by LiteRT's quantiser: weights per channel, calibrated on the images of `quantize`.

    LiteRT's converter refuses the graph that ExecuTorch accepts: it represents per-channel weights differently.
    """
    from ai_edge_quantizer import quantizer, recipe

    ((name, arguments),) = Interpreter(str(path)).get_signature_list().items()
    quantiser = quantizer.Quantizer(str(path))
    quantiser.load_quantization_recipe(recipe.static_wi8_ai8())
    ranges = quantiser.calibrate({name: [{arguments["inputs"][0]: part.numpy()} for part in images.split(batch)]})
    out = path.with_name("int8.tflite")
    quantiser.quantize(ranges).export_model(str(out))
    return out


def _operators(path: Path, threads: int) -> tuple[dict[str, int], dict[str, int]]:
    """Operators that XNNPACK runs, and the rest.

    The interpreter lists all operators, then its delegates with their inputs and outputs. An operator is not delegated
    if a delegate, the caller or another such operator reads its output and no delegate writes it.
    """
    interpreter = _interpreter(path, threads)
    operators: Sequence[Mapping[str, Any]] = interpreter._get_ops_details()
    delegates = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
    read = {index for delegate in delegates for index in delegate["inputs"]}
    read |= {output["index"] for output in interpreter.get_output_details()}
    written = {index for delegate in delegates for index in delegate["outputs"]}
    inside, outside = [], []
    for operator in reversed(operators):
        if operator["op_name"] == "DELEGATE":
            continue
        outputs = set(operator["outputs"])
        if delegates and (outputs & written or not outputs & read):
            inside.append(operator["op_name"])
        else:
            outside.append(operator["op_name"])
            read |= set(operator["inputs"])
    return count_names(inside), count_names(outside)


def _interpreter(path: Path, threads: int) -> Interpreter:
    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _set_input(interpreter: Interpreter, image: np.ndarray) -> None:
    (details,) = interpreter.get_input_details()
    scale, zero = details["quantization"]
    if scale:
        kind = np.iinfo(details["dtype"])
        image = np.clip(np.round(image / scale + zero), kind.min, kind.max).astype(details["dtype"])
    elif details["dtype"] != image.dtype:
        raise ExportError(f"the exported network takes {details['dtype'].__name__}, not {image.dtype}")
    interpreter.set_tensor(details["index"], image)
