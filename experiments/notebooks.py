"""Run the notebooks and write them back with what came out: `python experiments/notebooks.py`, or `... 04 activation`.

They read what this machine has measured, and the published tables where it has measured nothing; `--published=true`
reads those alone, as the committed notebooks do.
"""

from __future__ import annotations

import base64
import io
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from common.options import Arguments, Parser
from common.program import program
from common.sweeps import HERE
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from mnet.errors import unknown
from mnet.files import write_atomic
from mnet.studies.runs.store import PUBLISHED

NOTEBOOKS = HERE.parent / "notebooks"
RESULTS = HERE.parent / "results"
TIMEOUT_S = 300
"""Of one cell."""
KEPT = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
COLOURS = 64
"""Of a figure."""
KEPT_OUTPUTS = ("image/png", "text/html", "text/plain")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for."""

    published: bool = False
    """Read the published tables only."""


class ThisPython(AsyncKernelManager):
    """A kernel in the interpreter that runs this, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__)
    parser.add_argument("notebook", nargs="*", help="parts of their names; default: all")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 if a notebook failed, 2 for bad input."""
    given, failed = read_arguments(arguments), False
    paths = chosen(given.values.notebook)
    with TemporaryDirectory() as folder:
        told = {"RESULTS": f'Path("{published_only(RESULTS, Path(folder))}")'} if given.options.published else {}
        for path in paths:
            begun = time.monotonic()
            try:
                done = execute(path, told)
            except CellExecutionError as error:
                failed = True
                print(f"failed: {path.name}: {error}", file=sys.stderr)
                continue
            write(path, done)
            print(f"{path.name}: {time.monotonic() - begun:.0f} s, {path.stat().st_size / 1000:.0f} kB")
    return 1 if failed else 0


def chosen(names: Sequence[str]) -> list[Path]:
    """
    Raises:
        ConfigError: A name that is part of no notebook's.
    """
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    for name in names:
        if not any(name in path.stem for path in paths):
            raise unknown("notebook", name, [path.stem for path in paths])
    return [path for path in paths if not names or any(name in path.stem for name in names)]


def published_only(root: Path, folder: Path) -> Path:
    """A results folder that has the published tables of `root` and nothing else."""
    (folder / PUBLISHED).symlink_to((root / PUBLISHED).absolute(), target_is_directory=True)
    return folder


def execute(path: Path, told: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run a notebook top to bottom in its own folder.

    Args:
        path: Of the notebook; it is not written.
        told: Name -> the source text of its value, instead of what a line `NAME = ...` says, where there is one.

    Returns:
        The notebook as it is written, with what came out.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for name, value in told.items():
            cell.source = re.sub(rf"^{name} = .*$", lambda _, line=f"{name} = {value}": line, cell.source, flags=re.M)  # type: ignore[misc]
    NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    ).execute()
    for cell, source in zip(notebook.cells, sources, strict=True):
        cell.source = source
    return notebook


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write a notebook small, without what differs from one run to the next: times, versions, addresses in memory."""
    notebook.metadata = nbformat.from_dict(KEPT)
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if "data" in output:
                output.data = {kind: output.data[kind] for kind in KEPT_OUTPUTS if kind in output.data}
                if "image/png" in output.data or "text/html" in output.data:
                    output.data.pop("text/plain", None)  # the same once more, or where an object lies in memory
                if "text/html" in output.data:
                    output.data["text/html"] = re.sub(r"\n\s+", "\n", output.data["text/html"])
                if "image/png" in output.data:
                    output.data["image/png"] = smaller(output.data["image/png"])
    nbformat.validate(notebook)
    content = nbformat.writes(notebook, version=4)
    write_atomic(path, lambda stream: stream.write(content.rstrip("\n").encode() + b"\n"))


def smaller(png: str) -> str:
    """A figure, PNG in base64, in so many colours as figures have: a third of the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(COLOURS)
    found = io.BytesIO()
    image.save(found, format="png", optimize=True)
    return base64.b64encode(found.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
