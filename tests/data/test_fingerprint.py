"""Hashes of a user's files depend on names and contents alone; only files that may have changed are hashed again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mnet.data import fingerprint
from mnet.data.fingerprint import hash_files
from mnet.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    original = fingerprint._hash
    monkeypatch.setattr(fingerprint, "_hash", lambda path: names.append(path.name) or original(path))
    return names


def folder(root: Path) -> Path:
    for name in ("a/1", "a/2", "b/1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def files_of(root: Path) -> fingerprint.Files:
    return hash_files(root, [path for path in root.rglob("*") if path.is_file()])


def test_a_file_is_read_again_only_if_size_or_times_have_changed(tmp_path: Path, hashed: list[str]) -> None:
    root = folder(tmp_path / "images")
    first = files_of(root).fingerprint
    assert len(hashed) == 3
    assert files_of(root).fingerprint == first
    assert len(hashed) == 3
    stat = (root / "a/2").stat()
    (root / "a/2").write_text("A/2")
    os.utime(root / "a/2", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as copying tools do
    assert files_of(root).fingerprint != first
    assert hashed[3:] == ["2"]
    (root / "a/2").write_text("a/2")
    assert files_of(root).fingerprint == first


def test_names_and_contents_count_and_the_place_does_not(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    first = files_of(root).fingerprint
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "link").symlink_to(root)
    assert files_of(tmp_path / "copy").fingerprint == files_of(tmp_path / "link").fingerprint == first
    (root / "a/2").rename(root / "a/3")
    assert files_of(root).fingerprint != first


def test_names_that_are_not_utf8_and_a_damaged_cache_do_no_harm(tmp_path: Path, cache: Path, hashed: list[str]) -> None:
    root = folder(tmp_path / "images")
    (root / os.fsdecode(b"a/caf\xe9\n")).write_text("x")
    first = files_of(root).fingerprint
    assert files_of(root).fingerprint == first
    assert len(hashed) == 4
    (index,) = cache.glob("hashes/*.npz")
    index.write_bytes(index.read_bytes()[:-40])
    assert files_of(root).fingerprint == first
    assert len(hashed) == 8
    cache.joinpath("hashes").chmod(0o500)
    (root / "a/1").unlink()
    assert files_of(root).fingerprint != first
    with pytest.raises(DataError, match="missing cannot be read"):
        hash_files(root, [root / "missing"])
