"""Atomic writes (a file is either complete or absent), and bounded reads of files that others may have written."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from mnet.errors import ConfigError, one_line, path_text

if TYPE_CHECKING:
    import pandas as pd


TEMPORARY = ".writing-"
"""Prefix of files that are not complete yet."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write to a temporary file next to `path`, then rename it: readers never see half a file, even after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # minus the umask
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


MEGABYTE = 2**20


def read_limited(path: Path, limit: int = 64 * MEGABYTE) -> bytes:
    """The content of a file that others may have written.

    Args:
        path: The file.
        limit: The most bytes that the file may have.

    Raises:
        OSError: The file cannot be read, is larger, or is a device, pipe or folder (a device or pipe may never end).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would wait for one
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return content


def remove_temporary(folder: Path) -> None:
    """Remove the incomplete files of killed writers from `folder`. No other process may be writing there."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def private_folder(path: Path) -> Path:
    """A folder that only this user can enter: created if it is missing, and made private if others can read it.

    Raises:
        ConfigError: It is a link or another user's, or others can write there and may have put files into it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{path_text(path)} must be a folder for this user only (owner {os.geteuid()}, drwx------), but has owner "
            f"{found.st_uid} and {stat.filemode(found.st_mode)}; remove it"
        )
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def write_json(path: Path, content: object) -> None:
    """Indented JSON, written atomically."""
    write_atomic(path, lambda stream: stream.write(json.dumps(content, indent=2).encode() + b"\n"))


class YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C if available; reads `1e-4` as a number, as YAML 1.2 and JSON do."""


class YamlDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The safe dumper, in C if available; quotes texts that `YamlLoader` would read as numbers."""


for _side in (YamlLoader, YamlDumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


LARGEST_YAML = 4 * MEGABYTE
DEEPEST = 100
MOST_VALUES = 200_000
"""Most values that a YAML file may have, counting again what an alias repeats."""


def read_yaml(text: str | bytes) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: It is not YAML, or has more than `MOST_VALUES`: nine lines of aliases can expand to billions.
    """
    loader = YamlLoader(text)
    try:
        node = _checked(loader.get_single_node())
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def compose_yaml(text: str | bytes) -> yaml.Node | None:
    """The root node of a YAML text, with line numbers.

    Raises:
        yaml.YAMLError: As `read_yaml`.
    """
    return _checked(yaml.compose(text, YamlLoader))


def _checked(node: yaml.Node | None) -> yaml.Node | None:
    """The same node, after checking that it has at most `MOST_VALUES` values."""
    values = 0 if node is None else _count_values(node, {}, DEEPEST)
    if values > MOST_VALUES:
        raise yaml.YAMLError(f"its aliases expand to {values:,} values; at most {MOST_VALUES:,} are read")
    return node


def _count_values(node: yaml.Node, counted: dict[int, int], deepest: int) -> int:
    """The number of values in a node. `counted` has that of finished nodes; one that contains itself never finishes."""
    if deepest == 0:
        raise yaml.YAMLError(f"a value contains itself, or values are nested more than {DEEPEST} times")
    if id(node) not in counted:
        items = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
        below = items if isinstance(node, yaml.CollectionNode) else ()
        counted[id(node)] = 1 + sum(_count_values(one, counted, deepest - 1) for one in below)
    return counted[id(node)]


def load_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: It cannot be read, or is not YAML.
    """
    try:
        return read_yaml(read_limited(path, LARGEST_YAML))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not text, or an impossible date
        raise ConfigError(f"{path_text(path)}: {one_line(error)}") from None


def write_yaml(path: Path, content: object) -> None:
    """YAML with the keys in their given order, written atomically."""
    write_atomic(path, lambda stream: stream.write(dump_yaml(content).encode()))


def dump_yaml(content: object) -> str:
    """YAML with the keys in their given order."""
    return yaml.dump(content, Dumper=YamlDumper, sort_keys=False)


def write_torch(path: Path, content: object) -> None:
    """`torch.save`, written atomically. It goes through memory because torch hides the error of a full disk."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, lambda stream: stream.write(buffer.getbuffer()))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """CSV without the index, written atomically."""
    write_atomic(path, lambda stream: stream.write(frame.to_csv(index=False).encode()))
