"""The fingerprint of a user's own images: a hash of their classes, relative names and contents.

A file is hashed once, and again only if its size or one of its times has changed: hashes are kept in the cache
folder. A folder that is moved, or mounted elsewhere, keeps its fingerprint.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mnet.data.parallel import map_files
from mnet.errors import DataError, path_text
from mnet.files import write_atomic
from mnet.resources import cache_folder

DIGEST_BYTES = 16
FINGERPRINT_LENGTH = 12
"""Hexadecimal digits."""


@dataclass(frozen=True)
class Files:
    """Files of a data set and their hashes."""

    folder: Path
    names: tuple[str, ...]
    """Relative to the folder, sorted."""
    digests: np.ndarray
    """(N, DIGEST_BYTES) uint8."""

    def name_of(self, path: Path) -> str:
        """A file's name among `names`."""
        return os.path.relpath(path, self.folder)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the names and contents of all files."""
        return self.fingerprint_of(range(len(self.names)))

    def fingerprint_of(self, indices: Sequence[int]) -> str:
        """Fingerprint of the files at these indices."""
        digest = hashlib.sha256()
        for index in indices:
            digest.update(os.fsencode(self.names[index]) + b"\0" + self.digests[index].tobytes())
        return digest.hexdigest()[:FINGERPRINT_LENGTH]


def hash_files(folder: Path, paths: Sequence[Path]) -> Files:
    """The files' hashes, from the cache if neither size nor times have changed.

    Raises:
        DataError: A file cannot be read.
    """
    real = os.path.realpath(folder)
    by_name = sorted((os.path.relpath(path, folder), path) for path in paths)  # a link by its own name
    names = [name for name, _ in by_name]
    stats = np.array([_stat(path) for _, path in by_name], np.int64).reshape(-1, 3)
    index = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:16]}.npz"
    digests, stale = _known(index, names, stats)
    if stale:
        todo = [by_name[i][1] for i in stale]
        for i, digest in zip(stale, map_files(_hash, todo, f"hashing {len(todo):,} files"), strict=True):
            digests[i] = np.frombuffer(digest, np.uint8)
        with suppress(OSError):  # an unwritable cache only costs time
            joined = np.frombuffer(b"\0".join(map(os.fsencode, names)), np.uint8)
            write_atomic(index, lambda file: np.savez(file, names=joined, stats=stats, digests=digests))
    return Files(folder, tuple(names), digests)


def _known(index: Path, names: Sequence[str], stats: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Digests of files that have not changed, and the indices of the others."""
    digests = np.zeros((len(names), DIGEST_BYTES), np.uint8)
    known: Mapping[bytes, int] = {}
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(index, allow_pickle=False) as arrays:
        known = {name: i for i, name in enumerate(arrays["names"].tobytes().split(b"\0"))}
        old_stats, old_digests = arrays["stats"], arrays["digests"]
    stale = []
    for i, name in enumerate(names):
        old = known.get(os.fsencode(name))
        if old is not None and (old_stats[old] == stats[i]).all():
            digests[i] = old_digests[old]
        else:
            stale.append(i)
    return digests, stale


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path_text(path)} cannot be read ({error.strerror}).") from error
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _hash(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).digest()
    except OSError as error:
        raise DataError(f"{path_text(path)} cannot be read ({error.strerror}).") from error
