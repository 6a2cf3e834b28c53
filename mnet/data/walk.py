"""The files and folders below a folder.

Links are followed, hidden files and folders are skipped, and files that are left out are counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mnet.data.decoding import IMAGE_SUFFIXES
from mnet.errors import DataError, path_text

HIDDEN = frozenset({"@eadir", "__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"})
"""Files and folders of the system, in lower case, in addition to names that begin with a dot."""
OUTSIDE = "outside the class folders"


def list_folders(folder: Path, left_out: Counter[str]) -> list[Path]:
    """The folders in a folder, by name, without hidden ones and links back to it. Files next to them are left out.

    Raises:
        DataError: No such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{path_text(folder)} is not a folder; expected one with a folder of images for each class.")
    inside: list[Path] = []
    for entry in entries(folder):
        if is_hidden(entry.name):
            left_out["hidden"] += count_files(entry)
        elif is_folder(entry):
            if not leads_up(folder, entry):
                inside.append(folder / entry.name)
        else:
            left_out[OUTSIDE if is_image(entry) else kind_of(entry)] += 1
    return inside


def find_images(folder: Path, left_out: Counter[str] | None = None) -> list[Path]:
    """The images below a folder, at any depth, sorted by path. Other files are counted in `left_out`."""
    return sorted(walk(folder, Counter() if left_out is None else left_out))


def walk(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """The images below a folder. Each folder is read once, through a link only if it is not itself below `folder`.
    Links to `folder` or its parents are not followed."""
    real = os.path.realpath(folder)
    waiting, links, read = [(real, folder)], list[tuple[str, Path]](), set[str]()
    while waiting or links:
        target, current = waiting.pop() if waiting else links.pop(0)
        if target in read:
            continue
        read.add(target)
        for entry in entries(current):
            path = current / entry.name
            if is_hidden(entry.name):
                left_out["hidden"] += count_files(entry)
            elif is_image(entry):
                yield path
            elif not is_folder(entry):
                left_out[kind_of(entry)] += 1
            elif not entry.is_symlink():
                waiting.append((str(Path(target, entry.name)), path))
            elif not leads_up(folder, entry):
                links.append((os.path.realpath(path), path))


def list_files(folder: Path) -> list[Path]:
    """All files below a folder except hidden ones, sorted by path."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(parent, name) for name in names if not is_hidden(name)]
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or the system's: `.ipynb_checkpoints`, `._img.jpg`, `@eaDir`."""
    return name.startswith(".") or name.lower() in HIDDEN


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is an image, by its suffix in any case."""
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and is_file(entry)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a link to one; False for a link to itself."""
    return Path(entry).is_file() if entry.is_symlink() else entry.is_file()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for a link to itself."""
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def leads_up(folder: Path, entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to `folder` or one of its parents, which is a loop."""
    return entry.is_symlink() and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(entry))


def kind_of(entry: os.DirEntry[str]) -> str:
    """The kind under which a file that is left out is counted."""
    if entry.is_symlink() and not is_file(entry):
        return "broken links"
    return Path(entry.name).suffix.lower() or "without a suffix"


def count_files(entry: os.DirEntry[str]) -> int:
    """Files below a folder, or 1 for a file; links to folders are not followed."""
    return sum(len(files) for _, _, files in os.walk(entry)) if entry.is_dir(follow_symlinks=False) else 1


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with os.scandir(folder) as inside:
            return sorted(inside, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{path_text(folder)} cannot be read ({error.strerror}). Give access to it.") from error
