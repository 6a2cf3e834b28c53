"""How a training step is computed: compiled, recorded or neither, and in which precision. Results differ by rounding.

The forward and backward pass of a training step are compiled (modes of torch.compile) or recorded unchanged as CUDA
graphs (`graphs`, see `mnet.training.recorded`), which replay without launches from Python.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Literal, TypeVar, cast, get_args

import torch

from mnet.errors import ConfigError, unknown
from mnet.resources import scratch_folder

Compile = Literal["auto", "off", "graphs", "default", "reduce-overhead", "max-autotune"]
"""off; graphs = recorded as CUDA graphs; a mode of torch.compile; or auto = graphs on a GPU, otherwise off."""
NOT_COMPILED = ("auto", "off", "graphs")
"""Modes without a compiler."""
COMPILERS = ("g++", "clang++", "c++")
COMPILED_NETWORKS = 64
"""How many networks one process may compile; torch.compile would silently run any further ones uncompiled."""

_Call = TypeVar("_Call", bound=Callable[..., object])


def compiled(call: _Call, mode: Compile) -> _Call:
    """`call`, compiled on its first call.

    Raises:
        ConfigError: As `check_compile`.
    """
    check_compile(mode)
    if mode in NOT_COMPILED:
        return call
    import torch._dynamo.config
    import torch._inductor.config

    keep_compiled_code()
    torch.compiler.reset()  # drop the graphs of earlier runs in this process
    torch._dynamo.config.recompile_limit = COMPILED_NETWORKS
    if not torch.cuda.is_available():
        torch._inductor.config.compile_threads = 1  # parallel trials leave no core for it
    torch._inductor.config.fallback_random = True  # the same random numbers for dropout as uncompiled
    return cast(_Call, torch.compile(call, mode=mode, dynamic=False))


def keep_compiled_code() -> None:
    """Let torch keep compiled code in a folder of this user alone: later processes run it, and torch's default
    folder in /tmp may be anybody's.

    Raises:
        ConfigError: As `scratch_folder`.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # torch writes it into the environment

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch_folder() / "compiled")


def check_compile(mode: str) -> None:
    """
    Raises:
        ConfigError: Unknown mode, or this machine lacks the GPU or the C++ compiler that it needs.
    """
    if mode not in get_args(Compile):
        raise unknown("compile", mode, get_args(Compile))
    if mode == "graphs" and not torch.cuda.is_available():
        raise ConfigError("compile=graphs needs an NVIDIA GPU, and torch finds none; give auto or off")
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    if mode not in NOT_COMPILED and not any(map(shutil.which, candidates)):
        tried = ", ".join(candidates)
        raise ConfigError(f"compile={mode} needs a C++ compiler, and there is no {tried}; install one or give off")


def check_precision(precision: str) -> None:
    """
    Raises:
        ConfigError: No GPU of this machine supports it.
    """
    if precision == "tf32" and not (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)):
        raise ConfigError("precision=tf32 needs an NVIDIA GPU of the Ampere generation or later; give fp32 or bf16")


def set_tensor_cores(on: bool) -> None:
    """Set whether a GPU may round fp32 factors to TF32's ten bits, in convolutions and in matrix products.

    By default PyTorch rounds in convolutions only, but `mnet.models.replicas` computes 1x1 convolutions as products.
    """
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
