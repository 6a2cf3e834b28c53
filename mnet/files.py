"""Atomic writes: a file is either complete or absent."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from mnet.errors import ConfigError, path_text

if TYPE_CHECKING:
    import pandas as pd


TEMPORARY = ".writing-"
"""Prefix of files that are not complete yet."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write to a temporary file beside `path`, then rename it: no reader and no kill leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp creates private files
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_temporary(folder: Path) -> None:
    """Remove the incomplete files of killed writers from `folder`. No other process may be writing there."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def private_folder(path: Path) -> Path:
    """A folder that only this user can enter; made if it is missing.

    Raises:
        ConfigError: It is a link, another user's, or open to others: they may have put files into it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{path_text(path)} must be a folder of this user alone (owner {os.geteuid()}, drwx------), but has owner "
            f"{found.st_uid} and {stat.filemode(found.st_mode)}; remove it"
        )
    return path


def write_json(path: Path, content: object) -> None:
    """Indented JSON, written atomically."""
    write_atomic(path, lambda stream: stream.write(json.dumps(content, indent=2).encode() + b"\n"))


class YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, in C if that was built, and with `1e-4` as the number that it is in YAML 1.2 and JSON."""


class YamlDumper(yaml.SafeDumper):
    """Quotes texts that `YamlLoader` would read as numbers."""


for _side in (YamlLoader, YamlDumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def read_yaml(text: str) -> Any:
    """The content of YAML.

    Raises:
        yaml.YAMLError: It is none.
    """
    return yaml.load(text, YamlLoader)  # noqa: S506, safe


def write_yaml(path: Path, content: object) -> None:
    """YAML with keys in their order, written atomically."""
    write_atomic(path, lambda stream: stream.write(dump_yaml(content).encode()))


def dump_yaml(content: object) -> str:
    """YAML with keys in their order."""
    return yaml.dump(content, Dumper=YamlDumper, sort_keys=False)


def write_torch(path: Path, content: object) -> None:
    """`torch.save`, written atomically. It goes through memory, because torch hides the error of a full disk."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, lambda stream: stream.write(buffer.getbuffer()))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """CSV without the index, written atomically."""
    write_atomic(path, lambda stream: stream.write(frame.to_csv(index=False).encode()))
