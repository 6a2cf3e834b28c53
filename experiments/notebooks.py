"""Run the notebooks and save them with their outputs: `python experiments/notebooks.py`, or `... 04 activation`.

They read the results on this machine, and the published tables where there are none; with `--published=true` only the
published tables, as in the committed notebooks.
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
"""Time limit of a cell."""
KEPT = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
COLOURS = 64
"""Colours of a chart in PNG."""
KEPT_OUTPUTS = ("image/png", "text/html", "text/plain")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    published: bool = False
    """Read only the published tables."""


class ThisPython(AsyncKernelManager):
    """A kernel in this interpreter, whatever kernels are installed."""

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
    paths = find_notebooks(given.values.notebook)
    with TemporaryDirectory() as folder:
        values = {"RESULTS": f'Path("{published_only(RESULTS, Path(folder))}")'} if given.options.published else {}
        for path in paths:
            start = time.monotonic()
            try:
                notebook = execute(path, values)
            except CellExecutionError as error:
                failed = True
                print(f"failed: {path.name}: {error}", file=sys.stderr)
                continue
            write(path, notebook)
            print(f"{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")
    return 1 if failed else 0


def find_notebooks(names: Sequence[str]) -> list[Path]:
    """Notebooks whose names contain one of `names`; all if there are none.

    Raises:
        ConfigError: A name matches no notebook.
    """
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    for name in names:
        if not any(name in path.stem for path in paths):
            raise unknown("notebook", name, [path.stem for path in paths])
    return [path for path in paths if not names or any(name in path.stem for name in names)]


def published_only(root: Path, folder: Path) -> Path:
    """A results folder with only the published tables of `root`."""
    (folder / PUBLISHED).symlink_to((root / PUBLISHED).absolute(), target_is_directory=True)
    return folder


def execute(path: Path, values: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run a notebook top to bottom in its own folder.

    Args:
        path: The notebook; it is not written.
        values: Name -> source text that replaces the value in a line `NAME = ...`.

    Returns:
        The notebook with its outputs and unchanged sources.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for name, value in values.items():
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
    """Write a notebook without anything that differs between runs: times, versions, addresses in memory."""
    notebook.metadata = nbformat.from_dict(KEPT)
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if "data" in output:
                output.data = {kind: output.data[kind] for kind in KEPT_OUTPUTS if kind in output.data}
                if "image/png" in output.data or "text/html" in output.data:
                    output.data.pop("text/plain", None)  # repeats the other output, or has the address of an object
                if "text/html" in output.data:
                    output.data["text/html"] = re.sub(r"\n\s+", "\n", output.data["text/html"])
                if "image/png" in output.data:
                    output.data["image/png"] = reduce_colours(output.data["image/png"])
    nbformat.validate(notebook)
    content = nbformat.writes(notebook, version=4)
    write_atomic(path, lambda stream: stream.write(content.rstrip("\n").encode() + b"\n"))


def reduce_colours(png: str) -> str:
    """A chart, PNG in base64, reduced to `COLOURS` colours: a third of the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(COLOURS)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
