"""Weights as people have them: found in whatever holds them, with plain names and numbers. No code in a file is run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnet.errors import ConfigError, path_text, unknown

AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema")
"""Names of averaged weights, which are preferred: they are the ones to evaluate."""
PLAIN = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel and DDP, torch.compile, Lightning and training scripts put before every name."""
MOST = 0.9
"""Share of the tensors that a prefix has to be before; the others, such as a metric's, are left out."""
NESTED = 3
"""How many mappings may be around a state dict."""


@dataclass(frozen=True)
class State:
    """Tensors by name, and what was done to find them."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def read_state(source: Mapping[str, Any] | str | Path) -> State:
    """A state dict from a mapping, or from a .pt, .pth, .ckpt or .safetensors file.

    Args:
        source: Behind the name of a file, `#ENTRY` chooses what to take of it; else averaged weights are preferred.

    Raises:
        ConfigError: The file is missing or cannot be read, or has no state dict.
    """
    if isinstance(source, Mapping):
        return find_state(source, None, "the mapping")
    path, entry = split_entry(str(source))
    return find_state(read_file(path), entry, path_text(path))


def split_entry(source: str) -> tuple[Path, str | None]:
    """A file of weights, and the entry after its `#`."""
    path = Path(source).expanduser()
    name, mark, entry = source.rpartition("#")
    if mark and not path.exists():
        return Path(name).expanduser(), entry
    return path, None


def read_file(path: Path) -> object:
    """The content of a file of weights; objects other than tensors and plain values are left empty.

    Raises:
        ConfigError: It is missing, or cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path_text(path)} is neither a file of weights nor the folder of a run, and not imagenet")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_stand_ins(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds
        reason = " ".join(str(error).split())
        if "torchscript" in reason.lower():
            reason = "it is a TorchScript archive, which is code: save its state_dict() instead"
        elif isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than tensors, in a form that cannot be left out: save its state_dict() instead"
        reason = reason[:200] or type(error).__name__
        raise ConfigError(f"{path_text(path)} cannot be read as weights: {reason}") from None


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Empty classes under the names of those in a file that torch would not load: they take what they are given."""
    if not zipfile.is_zipfile(path):  # torch before 1.6: its namespaces at least
        return [(type("Namespace", (_StandIn,), {}), "argparse.Namespace")]
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in names]


class _StandIn:
    """An object of a class that is not loaded."""

    def __new__(cls, *_: object, **__: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def find_state(content: object, entry: str | None, where: str) -> State:
    """The state dict in the content of a file.

    Args:
        content: Of the file.
        entry: The name of what to take; None = averaged weights, else plain ones.
        where: What the content is of, for messages.

    Raises:
        ConfigError: There is none, or no such entry.
    """
    notes: list[str] = []
    for _ in range(NESTED):
        if not isinstance(content, Mapping):
            break
        found = [name for name, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)]
        if entry is not None:
            if entry not in found:
                raise ConfigError(f"{where}: {unknown('entry', entry, found or ['(none)'])}")
            content, entry, name = content[entry], None, entry
        elif (chosen := next((name for name in (*AVERAGED, *PLAIN) if name in found), None)) is not None:
            content, name = content[chosen], chosen
        else:
            break
        others = [other for other in found if other != name]
        notes.append("EMA weights" if name in AVERAGED else f"its {name}")
        if others:
            notes[-1] += f", not {_list(others)}"
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} has no state dict: expected tensors by name, found a {type(content).__name__}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        names = _list([str(name) for name in content]) or "nothing"
        raise ConfigError(f"{where} has no state dict: expected tensors by name, found {names}")
    tensors, more = plain(tensors)
    return State(tensors, (*notes, *more))


def _has_tensors(content: Mapping[Any, Any], depth: int = NESTED) -> bool:
    return any(
        isinstance(value, Tensor) or (depth > 0 and isinstance(value, Mapping) and _has_tensors(value, depth - 1))
        for value in content.values()
    )


def plain(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in single precision under names without the prefixes of wrappers, and what was removed."""
    notes = []
    while (prefix := _prefix(tensors)) is not None:
        inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        left_out = [name for name in tensors if not name.startswith(prefix)]
        notes.append(f"without {prefix}" + (f" and {_list(left_out)}" if left_out else ""))
        tensors = inside
    floating = [value for value in tensors.values() if value.is_floating_point()]
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in floating} - {"float32"})
    if kinds:
        notes.append(f"from {_list(kinds)}")
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, notes


def _prefix(names: Mapping[str, Tensor]) -> str | None:
    counts = {prefix: sum(name.startswith(prefix) for name in names) for prefix in PREFIXES}
    return next((prefix for prefix, count in counts.items() if count >= MOST * len(names)), None)


def _list(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
