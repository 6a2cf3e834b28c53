"""How the arithmetic of training is done where the machine offers a choice: compiled or not, and in which precision.

What is compiled is the network's part of a training step, forward and backward; `reduce-overhead` records it as CUDA
graphs, which replay without a launch from Python. Results do not depend on it beyond rounding.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Literal, TypeVar, cast, get_args

import torch

from mnet.errors import ConfigError, unknown

Compile = Literal["off", "default", "reduce-overhead", "max-autotune"]
"""The last three are modes of torch.compile."""
MODES: tuple[Compile, ...] = get_args(Compile)
COMPILERS = ("g++", "clang++", "c++")
NETWORKS = 64
"""Side by side in one process, after which torch.compile would leave the others as they are, and say nothing."""

Call = TypeVar("Call", bound=Callable[..., object])


def compiled(call: Call, mode: Compile) -> Call:
    """`call`, compiled when it is called first.

    Raises:
        ConfigError: As `check_compile`.
    """
    check_compile(mode)
    if mode == "off":
        return call
    import torch._dynamo.config
    import torch._inductor.config

    torch.compiler.reset()  # of earlier runs of this process
    torch._dynamo.config.recompile_limit = NETWORKS
    if not torch.cuda.is_available():
        torch._inductor.config.compile_threads = 1  # trials side by side have no core to spare for it
    torch._inductor.config.fallback_random = True  # dropout by PyTorch's own random numbers, as when it is not compiled
    return cast(Call, torch.compile(call, mode=mode, dynamic=False))


def check_compile(mode: str) -> None:
    """
    Raises:
        ConfigError: No such mode, or nothing here that compiles.
    """
    if mode not in MODES:
        raise unknown("compile", mode, MODES)
    named = os.environ.get("CXX")
    if mode != "off" and not any(map(shutil.which, [named] if named else COMPILERS)):
        tried = named or ", ".join(COMPILERS)
        raise ConfigError(f"compile={mode} needs a C++ compiler, and there is no {tried}; install one or give off")


def check_precision(precision: str) -> None:
    """
    Raises:
        ConfigError: No GPU here computes in it.
    """
    if precision == "tf32" and not (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)):
        raise ConfigError("precision=tf32 needs an NVIDIA GPU of the Ampere generation or later; give fp32 or bf16")


def set_tensor_cores(on: bool) -> None:
    """Whether a GPU may round factors in fp32 to TF32's ten bits. PyTorch would by itself do so in convolutions alone,
    and a 1x1 convolution is a product here and there (`mnet.models.replicas`)."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
