"""What git knows of the revisions that results were made by."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mnet

REPOSITORY = Path(mnet.__file__).parents[1]


@dataclass(frozen=True)
class History:
    """What lies between two revisions."""

    only_a: int = 0
    """Commits that A's code has and B's has not."""
    only_b: int = 0
    files: tuple[str, ...] = ()
    """The files of mnet that changed, as git lists them."""
    note: str = ""
    """Why it is not known, or not the whole."""


def history_between(a: str, b: str, repository: Path) -> History:
    """What lies between two revisions of the code, as git knows it.

    Args:
        a: A revision as results have it: hexadecimal, with + if the code was changed since.
        b: Another.
        repository: A checkout.
    """
    plain = [revision.removesuffix("+") for revision in (a, b)]
    for revision in plain:  # from a file or from W&B: nothing that git could take for an option
        if not re.fullmatch(r"[0-9a-f]{7,40}", revision):
            return History(note="no revision of one of them is known" if not revision else f"{revision!r} is none")
    dirty = [revision for revision in (a, b) if revision.endswith("+")]
    note = f"{' and '.join(dirty)}: the code was changed since, which no history has" if dirty else ""
    try:
        ask_git(repository, "rev-parse", "--git-dir")
        for revision in plain:
            if ask_git(repository, "cat-file", "--batch-check", asked=revision).split()[1:2] != ["commit"]:
                return History(note=f"{revision} is not in the history of this repository")
        counts = ask_git(repository, "rev-list", "--left-right", "--count", f"{plain[0]}...{plain[1]}").split()
        files = ask_git(repository, "diff", "--stat=100", "--no-color", "--no-ext-diff", *plain, "--", "mnet")
    except FileNotFoundError:
        return History(note="git is not installed, so what changed in the code cannot be told")
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().partition("\n")[0]
        return History(note=f"git cannot tell what changed in the code: {said}")
    except (OSError, subprocess.SubprocessError) as error:
        return History(note=f"git cannot tell what changed in the code: {error}")
    return History(int(counts[0]), int(counts[1]), tuple(line.strip() for line in files.splitlines()), note)


def ask_git(repository: Path, *arguments: str, asked: str | None = None) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, input=asked, capture_output=True, text=True, timeout=30, check=True).stdout
