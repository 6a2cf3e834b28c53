"""State dicts from the files that people have, with plain names and numbers. No code in a file is run."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mnet.errors import ConfigError, path_text, unknown

AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema")
"""Names of averaged weights, which are preferred: they are the ones to evaluate."""
PLAIN = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Prefixes that DataParallel and DDP, torch.compile, Lightning and training scripts add to every name."""
STEMS = ("stem.conv.weight", "features.0.0.weight", "conv_stem.weight")
"""The first tensor of a classifier in the layout of mnet, torchvision and timm; any prefix may precede it."""
MOST = 0.9
"""Share of the tensors that must have a prefix for it to be removed; the others, such as a metric's, are left out."""
NESTED = 3
"""How many mappings deep a state dict may be nested."""
LFS, PICKLED, ZIPPED = b"version https://git-lfs", pickle.PROTO, b"PK"
"""First bytes of a pointer to a file in Git LFS, of a file of torch before 1.6, and of one since."""
PICKLES = 5
"""Pickles in a file of torch before 1.6: magic number, version, system, content, keys."""


@dataclass(frozen=True)
class State:
    """Tensors by name, and what was done to find them."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def read_state(source: Mapping[str, Any] | str | Path) -> State:
    """A state dict from a mapping, or from a .pt, .pth, .ckpt or .safetensors file.

    Args:
        source: The mapping or file. In `FILE#ENTRY`, the entry is a key in the file or the prefix of a network in it;
            without one, averaged weights are preferred.

    Raises:
        ConfigError: The file is missing, cannot be read, has no state dict, or has numbers that are not finite.
    """
    if isinstance(source, Mapping):
        state, where = find_state(source, None, "the mapping"), "the mapping"
    else:
        path, entry = split_entry(str(source))
        state, where = find_state(read_file(path), entry, path_text(path)), path_text(path)
    broken = [name for name, value in state.tensors.items() if not value.isfinite().all()]
    if broken:
        raise ConfigError(f"{where} has numbers that are not finite, in {_list(broken)}: the training diverged")
    return state


def split_entry(source: str) -> tuple[Path, str | None]:
    """The path of a file of weights, and the entry after its `#`, if any."""
    path = Path(source).expanduser()
    name, mark, entry = source.rpartition("#")
    if mark and not path.exists():
        return Path(name).expanduser(), entry
    return path, None


def read_file(path: Path) -> object:
    """The content of a file of weights; objects other than tensors and plain values become empty stand-ins.

    Raises:
        ConfigError: The file is missing or cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path_text(path)} is neither a file of weights nor the folder of a run, and not imagenet")
    with path.open("rb") as file:
        start = file.read(len(LFS))
    if not start or start == LFS:
        reason = "it is a pointer to a file in Git LFS: run git lfs pull" if start else "it is empty"
        raise ConfigError(f"{path_text(path)} cannot be read as weights: {reason}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_stand_ins(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds
        reason = " ".join(str(error).split())
        if "PytorchStreamReader" in reason:
            reason = "it is incomplete or damaged"
        elif "torchscript" in reason.lower():
            reason = "it is a TorchScript archive, which is code: save its state_dict() instead"
        elif isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than tensors, in a form that cannot be left out: save its state_dict() instead"
            if not start.startswith((PICKLED, ZIPPED)):
                reason = f"no file of weights begins with {start[:15].decode('latin-1')!a}"
        reason = reason[:200] or type(error).__name__
        raise ConfigError(f"{path_text(path)} cannot be read as weights: {reason}") from None


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Empty classes with the names of those in a file that torch would not load; they accept any arguments."""
    if zipfile.is_zipfile(path):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    else:
        names = sorted(_globals_in_old_file(path))
    return [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in names]


def _globals_in_old_file(path: Path) -> set[str]:
    """The globals in the pickles of a file of torch before 1.6, except those that tensors need. Nothing is run."""
    names = set()
    with path.open("rb") as file, suppress(ValueError):  # not such a file, which torch reports
        for _ in range(PICKLES):
            for code, argument, _ in pickletools.genops(file):
                if code.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
    kept = ("torch._utils.", "collections.OrderedDict", "torch.Size", "torch.device")
    return {name for name in names if not name.startswith(kept) and not name.endswith("Storage")}


class _StandIn:
    """An object of a class that is not loaded. If it is a network, its tensors are kept."""

    parts: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """The parameters, buffers and modules, if it is a network."""

    def __new__(cls, *_: object, **__: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        parts = ("_parameters", "_buffers", "_modules")
        given = state if isinstance(state, Mapping) else {}
        self.parts = {name: given[name] for name in parts if isinstance(given.get(name), Mapping)}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a network, under the names of its state dict. Modules already visited are skipped."""
        left, seen = [("", self)], {id(self)}
        while left:
            prefix, module = left.pop()
            values = [(f"{prefix}{name}", value) for part in module.parts.values() for name, value in part.items()]
            yield from ((name, value) for name, value in values if isinstance(value, Tensor))
            inner = [(f"{name}.", value) for name, value in values if isinstance(value, _StandIn)]
            left += [(name, value) for name, value in reversed(inner) if id(value) not in seen]
            seen |= {id(value) for _, value in inner}


def find_state(content: object, entry: str | None, where: str) -> State:
    """The state dict in the content of a file.

    Args:
        content: The content of the file.
        entry: The name of the entry to take; None = averaged weights if there are any, else plain ones.
        where: Where the content comes from, for messages.

    Raises:
        ConfigError: There is no state dict, no such entry, or more than one network to choose from.
    """
    notes: list[str] = []
    entries: list[str] = []
    for _ in range(NESTED):
        if isinstance(content, _StandIn) and (inside := dict(content.tensors())):
            notes.append("a whole network")
            content = inside
        if not isinstance(content, Mapping):
            break
        found = [name for name, value in content.items() if _has_tensors(value)]
        if entry in found:
            content, entry, name = content[entry], None, entry
        elif (chosen := next((name for name in (*AVERAGED, *PLAIN) if name in found), None)) is not None:
            content, name = content[chosen], chosen
        else:
            break
        entries += found
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
    networks = [prefix.rstrip(".") for prefix in _networks(tensors) if prefix]
    if entry not in (None, *networks):
        raise ConfigError(f"{where}: {unknown('entry', str(entry), [*entries, *networks] or ['(none)'])}")
    if entry is None and len(networks) > 1:
        raise ConfigError(f"{where} has {len(networks)} networks, {_list(networks)}: choose by FILE#{networks[0]}")
    tensors, more = plain(tensors, entry or "")
    return State(tensors, (*notes, *more))


def _has_tensors(content: object, depth: int = NESTED) -> bool:
    if isinstance(content, _StandIn):
        return any(True for _ in content.tensors())
    if not isinstance(content, Mapping):
        return False
    return any(
        isinstance(value, Tensor) or (depth > 0 and _has_tensors(value, depth - 1)) for value in content.values()
    )


def plain(tensors: Mapping[str, Tensor], network: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in single precision, under names without the prefixes of wrappers, and notes on what was changed.

    Args:
        tensors: Tensors by name.
        network: The prefix of the network to take, if there are several.
    """
    notes = []
    prefixes = [f"{network}."] if network else _networks(tensors)
    while prefix := prefixes[0] if len(prefixes) == 1 else _prefix(tensors):
        prefixes = []
        inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        left_out = [name for name in tensors if not name.startswith(prefix)]
        notes.append(f"without {prefix}" + (f" and {_list(left_out)}" if left_out else ""))
        tensors = inside
    floating = [value for value in tensors.values() if value.is_floating_point()]
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in floating} - {"float32"})
    if kinds:
        notes.append(f"from {_list(kinds)}")
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, notes


def _networks(names: Mapping[str, Tensor]) -> list[str]:
    """The prefix of each classifier among the tensors."""
    starts = {name.removesuffix(stem): None for name in names for stem in STEMS if name.endswith(stem)}
    return [start for start in starts if not start or start.endswith(".")]


def _prefix(names: Mapping[str, Tensor]) -> str | None:
    counts = {prefix: sum(name.startswith(prefix) for name in names) for prefix in PREFIXES}
    return next((prefix for prefix, count in counts.items() if count >= MOST * len(names)), None)


def _list(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
