"""Runtimes: what a network is run by. One small protocol, a file each.

    runtime = make_runtime("executorch", threads=1, folder=Path("results/exported"))
    program = runtime.prepare(net, example)      # exports once, keeps the file
    scores = program(images)                   # shaped as the example
    run = program.fresh(example)                 # loaded once more; run() is all that is timed

To add one: a class with `version`, `kernels` and `prepare` in a file here, and a line in `RUNTIMES`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from mnet.errors import ConfigError, unknown
from mnet.files import write_atomic, write_json
from mnet.models.network import MobileNet

Precision = Literal["fp32", "int8"]
Run = Callable[[], object]
Counts = Mapping[str, int]
"""Operator -> how often it is there."""

RUNTIMES: Mapping[str, tuple[str, str, str]] = {
    "eager": ("torch_eager", "Eager", ""),
    "compile": ("torch_compile", "Compiled", ""),
    "cuda-graphs": ("cuda_graphs", "CudaGraphs", ""),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime", "onnxruntime"),
    "executorch": ("executorch", "ExecuTorch", "executorch"),
    "litert": ("litert", "LiteRT", "litert"),
}
"""Name -> module and class here, and the extra of pyproject.toml that it needs."""


SIMULATED = "int8 simulated in float: its accuracy, not its speed"


class ExportError(RuntimeError):
    """A network that a runtime cannot take, or takes for something else. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a program really runs."""

    runtime: str
    version: str
    kernels: str
    """The library that does the arithmetic."""
    precision: Precision
    threads: int
    delegated: Counts = field(default_factory=dict)
    """Operators that those kernels run; empty where a runtime has only one way."""
    undelegated: Counts = field(default_factory=dict)
    """Operators that fall back to the runtime's own, slower ones."""
    file: str = ""
    """The exported program."""
    sha256: str = ""
    file_bytes: int = 0
    export_seconds: float = 0.0
    note: str = ""
    """Why its time is not that of such a network."""

    def row(self) -> dict[str, object]:
        """Columns of a table; of the operators their number, and the names of those that fall back."""
        counts = {"delegated": sum(self.delegated.values()), "undelegated": sum(self.undelegated.values())}
        fallen = " ".join(f"{name}:{count}" for name, count in self.undelegated.items())
        return {**asdict(self), **counts, "undelegated_ops": fallen}


class Program(ABC):
    """A network made ready to run."""

    device = "cpu"

    def __init__(self, ran: Ran) -> None:
        self.ran = ran

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Scores (N, classes) of images (N, C, H, W), as many and as large as the example was."""

    @abstractmethod
    def fresh(self, example: Tensor) -> Run:
        """The program loaded once more, elsewhere in memory, with its input in place.

        Where weights lie lasts as long as a program does and is worth a percent; drawn anew for every round it is
        in the interval.
        """


class Runtime(ABC):
    """Makes programs of networks."""

    kernels = ""
    simulates = False
    """Whether int8 is rounded in float."""

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        self.name, self.threads, self.folder = name, threads, folder

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the runtime."""

    @abstractmethod
    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        """A program that runs `module` on images shaped as `example`, (N, C, H, W).

        Raises:
            ExportError: The runtime cannot take it.
        """

    def ran(self, module: nn.Module) -> Ran:
        """What is known before anything is exported."""
        return Ran(
            runtime=self.name,
            version=self.version,
            kernels=self.kernels,
            precision=precision_of(module),
            threads=self.threads,
            note=SIMULATED if self.simulates and precision_of(module) == "int8" else "",
        )


class Exporting(Runtime):
    """A runtime that runs a file. A network that was exported before is not exported again."""

    suffix = ""

    @abstractmethod
    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        """The file's content, and fields of `Ran` that are known now."""

    @abstractmethod
    def load(self, path: Path, ran: Ran) -> Program: ...

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        key = fingerprint(module, example, self.name, self.version)
        path = self.folder / f"{self.name}-{key}.{self.suffix}"
        told = path.with_suffix(".json")
        if not (path.exists() and told.exists()):
            start = time.perf_counter()
            try:
                with silenced(), torch.no_grad():
                    content, known = self.export(module, example)
            except (KeyboardInterrupt, MemoryError):
                raise
            except Exception as error:
                raise ExportError(f"{self.name} cannot export it: {one_line(error)}") from error
            known |= {"file": str(path), "sha256": hashlib.sha256(content).hexdigest(), "file_bytes": len(content)}
            known["export_seconds"] = round(time.perf_counter() - start, 2)
            write_atomic(path, lambda stream: stream.write(content))
            write_json(told, known)
        known = json.loads(told.read_text()) | {"file": str(path)}
        ran = Ran(**{**asdict(self.ran(module)), **known})
        try:
            with silenced():
                return self.load(path, ran)
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"{self.name} cannot load {path}: {one_line(error)}") from error


def make_runtime(name: str, *, threads: int = 1, folder: Path = Path("results/exported")) -> Runtime:
    """The runtime of that name.

    Args:
        name: One of `RUNTIMES`.
        threads: That it may use.
        folder: Where exported programs are kept.

    Raises:
        ConfigError: Unknown; or what it needs is not installed, or not there. The message has the way out.
    """
    if name not in RUNTIMES:
        raise unknown("runtime", name, RUNTIMES)
    module, cls, extra = RUNTIMES[name]
    try:
        with silenced():
            runtime: Runtime = getattr(importlib.import_module(f"{__name__}.{module}"), cls)(name, threads, folder)
            _ = runtime.version
    except (ImportError, PackageNotFoundError) as error:
        missing = getattr(error, "name", None) or error
        raise ConfigError(f"runtime {name} needs {missing}: pip install 'mnet[{extra}]', or make EXTRAS=lab") from None
    return runtime


def package_version(name: str) -> str:
    return version(name)


def precision_of(module: nn.Module) -> Precision:
    """int8 where a graph rounds to 8 bits."""
    if isinstance(module, GraphModule) and any("quantize_per" in str(node.target) for node in module.graph.nodes):
        return "int8"
    return "fp32"


def fingerprint(module: nn.Module, example: Tensor, runtime: str, version: str) -> str:
    """A hash of what a program is made from. Of a module whose code cannot be told from its data, always another."""
    digest = hashlib.sha256(sources(runtime))
    if isinstance(module, MobileNet):
        structure: object = module.network, repr(module)
    elif isinstance(module, GraphModule):
        structure = module.code
    else:
        structure = os.urandom(16)
    digest.update(repr((type(module).__name__, structure, tuple(example.shape), runtime, version)).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@cache
def sources(runtime: str) -> bytes:
    """The code that an exported file depends on beside the network's own description, as bytes."""
    from mnet.models import heads, kernels, layers, network
    from mnet.quantization import fuse

    here = Path(__file__)
    family = [Path(str(one.__file__)) for one in (kernels, layers, heads, network)]
    files = [here, here.parent / f"{RUNTIMES[runtime][0]}.py", *family]
    return b"".join((*(path.read_bytes() for path in files), inspect.getsource(fuse).encode()))


def counted(names: Iterator[str]) -> dict[str, int]:
    """How often each name is there, the most frequent first."""
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def one_line(error: BaseException) -> str:
    """The first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def silenced() -> Iterator[None]:
    """Keep away what runtimes write to the terminal, from C++ too; what they raise is told."""
    import logging
    import warnings

    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = [os.dup(stream) for stream in (1, 2)]
        logging.disable(logging.WARNING)
        try:
            for stream in (1, 2):
                os.dup2(sink.fileno(), stream)
            yield
        finally:
            logging.disable(logging.NOTSET)
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)
                os.close(before)


def as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)
