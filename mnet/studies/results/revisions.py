"""The git history between the revisions of two results."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mnet

REPOSITORY = Path(mnet.__file__).parents[1]


@dataclass(frozen=True)
class History:
    """The commits and files between two revisions, A and B."""

    only_a: int = 0
    """Commits that A has and B lacks."""
    only_b: int = 0
    """Commits that B has and A lacks."""
    files: tuple[str, ...] = ()
    """The changed files of mnet, as `git diff --stat` lists them."""
    note: str = ""
    """Why the history is missing or incomplete; empty otherwise."""


def history_between(a: str, b: str, repository: Path) -> History:
    """The history between two revisions of the code.

    Args:
        a: A revision as in results: hexadecimal, with + if the code had uncommitted changes.
        b: The other revision.
        repository: A checkout.
    """
    plain = [revision.removesuffix("+") for revision in (a, b)]
    for revision in plain:  # it comes from a file or from W&B: git must not read it as an option
        if not re.fullmatch(r"[0-9a-f]{7,40}", revision):
            return History(note=f"{revision!r} is not a revision" if revision else "one of the runs has no revision")
    dirty = [revision for revision in (a, b) if revision.endswith("+")]
    note = f"{' and '.join(dirty)}: the code was changed after that commit" if dirty else ""
    try:
        _git(repository, "rev-parse", "--git-dir")
        for revision in plain:
            if _git(repository, "cat-file", "--batch-check", standard_input=revision).split()[1:2] != ["commit"]:
                return History(note=f"{revision} is not in the history of this repository")
        counts = _git(repository, "rev-list", "--left-right", "--count", f"{plain[0]}...{plain[1]}").split()
        files = _git(repository, "diff", "--stat=100", "--no-color", "--no-ext-diff", *plain, "--", "mnet")
    except FileNotFoundError:
        return History(note="git is not installed; the code cannot be compared")
    except subprocess.CalledProcessError as error:
        reason = str(error.stderr).strip().partition("\n")[0]
        return History(note=f"git cannot compare the code: {reason}")
    except (OSError, subprocess.SubprocessError) as error:
        return History(note=f"git cannot compare the code: {error}")
    return History(int(counts[0]), int(counts[1]), tuple(line.strip() for line in files.splitlines()), note)


def _git(repository: Path, *arguments: str, standard_input: str | None = None) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, input=standard_input, capture_output=True, text=True, timeout=30, check=True).stdout
