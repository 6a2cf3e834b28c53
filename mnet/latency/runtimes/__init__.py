"""Runtimes that run a network: one small protocol, one file each.

    runtime = make_runtime("executorch", threads=1, folder=Path("results/exported"))
    program = runtime.prepare(net, example)  # exports once and keeps the file
    scores = program(images)  # shaped like the example
    run = program.fresh(example)  # loaded once more; only run() is timed

To add a runtime: a class with `version`, `kernels` and `prepare` in a file of this folder, an entry in `RUNTIMES`, and
a style in `charts/colours.py` of the report.
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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from mnet.errors import ConfigError, unknown
from mnet.files import write_atomic, write_json
from mnet.models.network import MobileNet
from mnet.settings import hints

Precision = Literal["fp32", "int8"]
Run = Callable[[], object]
Counts = Mapping[str, int]
"""Operator -> number of occurrences."""

RUNTIMES: Mapping[str, tuple[str, str, str]] = {
    "litert": ("litert", "LiteRT", "litert"),
    "executorch": ("executorch", "ExecuTorch", "executorch"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime", "onnxruntime"),
    "eager": ("torch_eager", "Eager", ""),
    "compile": ("torch_compile", "Compiled", ""),
    "cuda-graphs": ("torch_cuda", "CudaGraphs", ""),
    "cuda-eager": ("torch_cuda", "CudaEager", ""),
    "cuda-compile": ("torch_cuda", "CudaCompiled", ""),
}
"""Name -> module and class in this folder, and the extra of pyproject.toml that it needs. In the order of tables: the
papers' runtime first, under its present name; those of a GPU last."""
GPU_RUNTIMES = tuple(name for name, (module, *_) in RUNTIMES.items() if module == "torch_cuda")
"""Runtimes that need an NVIDIA GPU."""

FACTS = ".json"
"""Suffix of the file next to an exported program, with the fields that its export determines."""
SIMULATED = "int8 simulated in float: its accuracy, not its speed"


class ExportError(RuntimeError):
    """A network that a runtime cannot run, or runs incorrectly. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class ProgramInfo:
    """How a program is run."""

    runtime: str
    version: str
    kernels: str
    """Kernel library."""
    precision: Precision
    threads: int
    delegated: Counts = field(default_factory=dict)
    """Operators that those kernels run; empty if the runtime does not delegate."""
    undelegated: Counts = field(default_factory=dict)
    """Operators that fall back to the runtime's own, slower kernels."""
    file: str = ""
    """Path of the exported program."""
    sha256: str = ""
    file_bytes: int = 0
    export_seconds: float = 0.0
    note: str = ""
    """Why its time is not representative, if so."""

    def row(self) -> dict[str, object]:
        """Table columns: numbers of operators, and the names of those that fall back."""
        counts = {"delegated": sum(self.delegated.values()), "undelegated": sum(self.undelegated.values())}
        names = " ".join(f"{name}:{count}" for name, count in self.undelegated.items())
        return {**asdict(self), **counts, "undelegated_ops": names}


class Program(ABC):
    """A network in a runtime, ready to run."""

    device = "cpu"
    """What it runs on: cpu or cuda."""

    def __init__(self, info: ProgramInfo) -> None:
        self.info = info

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Scores (N, classes) of images (N, C, H, W), shaped like the example."""

    @abstractmethod
    def fresh(self, example: Tensor) -> Run:
        """The program loaded once more, at another place in memory, with its input set.

        Where the weights lie in memory shifts the latency of a loaded program by a percent. With a new place in every
        round, the interval covers this.
        """


class Runtime(ABC):
    """Turns networks into programs."""

    device = "cpu"
    """What its programs run on: cpu or cuda."""
    kernels = ""
    simulates = False
    """Whether int8 is simulated in float."""

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        self.name, self.threads, self.folder = name, threads, folder

    @property
    @abstractmethod
    def version(self) -> str:
        """The version of the runtime."""

    @abstractmethod
    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        """A program that runs `module` on images shaped like `example`, (N, C, H, W).

        Raises:
            ExportError: The runtime cannot run it.
        """

    def describe(self, module: nn.Module) -> ProgramInfo:
        """What is known about a program before its export."""
        return ProgramInfo(
            runtime=self.name,
            version=self.version,
            kernels=self.kernels,
            precision=precision_of(module),
            threads=self.threads,
            note=SIMULATED if self.simulates and precision_of(module) == "int8" else "",
        )


class ExportingRuntime(Runtime):
    """A runtime that runs a file. The same network is exported only once."""

    suffix = ""

    @abstractmethod
    def export(self, module: nn.Module, example: Tensor) -> tuple[bytes, dict[str, object]]:
        """The content of the file, and the fields of `ProgramInfo` that the export determines."""

    @abstractmethod
    def load(self, path: Path, info: ProgramInfo) -> Program: ...

    def prepare(self, module: nn.Module, example: Tensor) -> Program:
        key = _fingerprint(module, example, self.name, self.version)
        path = self.folder / f"{self.name}-{key}.{self.suffix}"
        facts = _kept_facts(path)
        if facts is None:
            start = time.perf_counter()
            try:
                with silenced(), torch.no_grad():
                    content, facts = self.export(module, example)
            except (KeyboardInterrupt, MemoryError):
                raise
            except Exception as error:
                raise ExportError(f"{self.name} cannot export it: {first_line(error)}") from error
            facts |= {"sha256": hashlib.sha256(content).hexdigest(), "file_bytes": len(content)}
            facts["export_seconds"] = round(time.perf_counter() - start, 2)
            write_atomic(path, lambda stream: stream.write(content))
            write_json(path.with_suffix(FACTS), facts)
        facts["file"] = str(path)
        info = ProgramInfo(**{**asdict(self.describe(module)), **facts})
        try:
            with silenced():
                return self.load(path, info)
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"{self.name} cannot load {path}: {first_line(error)}") from error


def make_runtime(name: str, *, threads: int = 1, folder: Path = Path("results/exported")) -> Runtime:
    """The runtime `name`.

    Args:
        name: One of `RUNTIMES`.
        threads: Threads that it may use.
        folder: Where exported programs are kept.

    Raises:
        ConfigError: An unknown name, or a missing package or device. The message names the remedy.
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


def precision_of(module: nn.Module) -> Precision:
    """int8 if the module is a graph that rounds to 8 bits."""
    if isinstance(module, GraphModule) and any("quantize_per" in str(node.target) for node in module.graph.nodes):
        return "int8"
    return "fp32"


def _kept_facts(path: Path) -> dict[str, object] | None:
    """The facts of a program that was exported before; None if the file is missing or they do not match it."""
    try:
        facts = json.loads(path.with_suffix(FACTS).read_bytes())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None
    if not isinstance(facts, dict) or facts.get("sha256") != found or not facts.keys() <= hints(ProgramInfo).keys():
        return None
    return facts if all(isinstance(facts.get(name, {}), dict) for name in ("delegated", "undelegated")) else None


def _fingerprint(module: nn.Module, example: Tensor, runtime: str, version: str) -> str:
    """A hash of everything that determines a program. A module whose code is unknown gets a new one every time."""
    digest = hashlib.sha256(_sources(runtime))
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
def _sources(runtime: str) -> bytes:
    """The code that an exported file depends on, besides the network's description."""
    from mnet.models import heads, kernels, layers, network
    from mnet.quantization import fuse

    protocol = Path(__file__)
    family = [Path(str(module.__file__)) for module in (kernels, layers, heads, network)]
    files = [protocol, protocol.parent / f"{RUNTIMES[runtime][0]}.py", *family]
    return b"".join((*(path.read_bytes() for path in files), inspect.getsource(fuse).encode()))


def count_names(names: Iterable[str]) -> dict[str, int]:
    """Name -> number of occurrences, the most frequent first."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def first_line(error: BaseException) -> str:
    """The type of an error, and the first line of its message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress what runtimes write to the terminal, from C++ too. Exceptions are not suppressed."""
    import logging
    import warnings

    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        originals = [os.dup(stream) for stream in (1, 2)]
        logging.disable(logging.WARNING)
        try:
            for stream in (1, 2):
                os.dup2(sink.fileno(), stream)
            yield
        finally:
            logging.disable(logging.NOTSET)
            for stream, original in zip((1, 2), originals, strict=True):
                os.dup2(original, stream)
                os.close(original)
