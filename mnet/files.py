"""Files that are whole or absent."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    import pandas as pd


TEMPORARY = ".writing-"


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write to a temporary file beside `path`, then rename: a reader, or a kill, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_temporary(folder: Path) -> None:
    """Remove what killed writers left of files in `folder`; only where nobody writes now."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    write_atomic(path, lambda stream: stream.write(json.dumps(content, indent=2).encode() + b"\n"))


def write_yaml(path: Path, content: object) -> None:
    write_atomic(path, lambda stream: stream.write(yaml.safe_dump(content, sort_keys=False).encode()))


def write_torch(path: Path, content: object) -> None:
    """As `torch.save`. By way of memory: torch turns a full disk into an error of another kind."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, lambda stream: stream.write(buffer.getbuffer()))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, lambda stream: stream.write(frame.to_csv(index=False).encode()))
