"""LiteRT, TFLite's successor and the papers' own runtime, with its XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from mnet.latency.runtimes import (
    ExportError,
    Exporting,
    Program,
    Ran,
    Run,
    as_tensor,
    counted,
    package_version,
    precision_of,
)
from mnet.latency.runtimes.torch_eager import folded


class TfliteProgram(Program):
    """An interpreter over a file; int8 inputs and outputs are scaled on the way."""

    def __init__(self, path: Path, ran: Ran) -> None:
        super().__init__(ran)
        self.path = path
        self.interpreter = interpreter(path, ran.threads)

    def __call__(self, images: Tensor) -> Tensor:
        put(self.interpreter, images.numpy())
        self.interpreter.invoke()
        (output,) = self.interpreter.get_output_details()
        scores = self.interpreter.get_tensor(output["index"])
        scale, zero = output["quantization"]
        return as_tensor((scores.astype(np.float32) - zero) * np.float32(scale) if scale else scores)

    def fresh(self, example: Tensor) -> Run:
        loaded = interpreter(self.path, self.ran.threads)
        put(loaded, example.numpy())
        return loaded.invoke


class LiteRT(Exporting):
    suffix = "tflite"
    kernels = "XNNPACK"

    @property
    def version(self) -> str:
        package_version("litert-torch")
        return package_version("ai-edge-litert")

    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        import litert_torch

        from mnet.quantization import SOURCE

        source = getattr(module, "meta", {}).get(SOURCE)
        if source is None and precision_of(module) == "int8":
            raise ValueError("an int8 graph without its float network, which only mnet.quantization.quantize keeps")
        net, images = source if source is not None else (module, None)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.tflite"
            litert_torch.convert(folded(net), (example,)).export(str(path))
            if images is not None:
                path = quantised(path, images, len(example))
            inside, outside = operators(path, self.threads)
            return path.read_bytes(), {"delegated": inside, "undelegated": outside}

    def load(self, path: Path, ran: Ran) -> Program:
        return TfliteProgram(path, ran)


def quantised(path: Path, images: Tensor, batch: int) -> Path:
    """The file in int8, weights per channel, by LiteRT's own quantiser, calibrated on the same images as ours.

    LiteRT's converter refuses the graph that ExecuTorch takes: its per-channel weights are of another form.
    """
    from ai_edge_quantizer import quantizer, recipe

    ((name, arguments),) = Interpreter(str(path)).get_signature_list().items()
    tool = quantizer.Quantizer(str(path))
    tool.load_quantization_recipe(recipe.static_wi8_ai8())
    seen = tool.calibrate({name: [{arguments["inputs"][0]: one.numpy()} for one in images.split(batch)]})
    out = path.with_name("int8.tflite")
    tool.quantize(seen).export_model(str(out))
    return out


def operators(path: Path, threads: int) -> tuple[dict[str, int], dict[str, int]]:
    """Operators inside XNNPACK's parts and outside.

    The interpreter lists all operators, then its delegates with what goes in and out. An operator is outside if a
    delegate, the caller or another one outside reads its output and no delegate writes it.
    """
    loaded = interpreter(path, threads)
    every: Sequence[Mapping[str, Any]] = loaded._get_ops_details()
    parts = [one for one in every if one["op_name"] == "DELEGATE"]
    read = {index for one in parts for index in one["inputs"]} | {o["index"] for o in loaded.get_output_details()}
    written = {index for one in parts for index in one["outputs"]}
    inside, outside = [], []
    for one in reversed([one for one in every if one["op_name"] != "DELEGATE"]):
        out = set(one["outputs"])
        if parts and (out & written or not out & read):
            inside.append(one["op_name"])
        else:
            outside.append(one["op_name"])
            read |= set(one["inputs"])
    return counted(iter(inside)), counted(iter(outside))


def interpreter(path: Path, threads: int) -> Interpreter:
    loaded = Interpreter(str(path), num_threads=threads)
    loaded.allocate_tensors()
    return loaded


def put(loaded: Interpreter, image: np.ndarray) -> None:
    (into,) = loaded.get_input_details()
    scale, zero = into["quantization"]
    if scale:
        kind = np.iinfo(into["dtype"])
        image = np.clip(np.round(image / scale + zero), kind.min, kind.max).astype(into["dtype"])
    elif into["dtype"] != image.dtype:
        raise ExportError(f"the exported network takes {into['dtype'].__name__}, not {image.dtype}")
    loaded.set_tensor(into["index"], image)
