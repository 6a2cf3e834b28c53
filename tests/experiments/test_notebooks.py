"""The notebooks run top to bottom on the published tables alone, and are committed with their outputs.

`make test` runs one in Jupyter's kernel and the code of the others in this process, which has imported torch already.
"""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from support.cells import run_cell
from support.clock import clock  # noqa: F401

import notebooks

ALL = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
READ = [path for path in ALL if not path.stem.startswith("07")]
"""Those that only read tables; the last one runs a study, see test_own_study.py."""
LIVE = "04_latency"
"""Measures on this machine, and reports what disturbs it."""
MACHINE = re.compile(r"/(work|root|home|tmp|Users|private|opt|usr|var)/|\b[A-Z]:\\")
SIZE = 300_000


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """Name -> its value in the notebooks, so that they read only the published tables and measure briefly."""
    root = notebooks.published_only(notebooks.RESULTS, tmp_path_factory.mktemp("results"))
    return {"RESULTS": f"Path({str(root)!r})", "SECONDS": "0.1"}


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def check_outputs(notebook: nbformat.NotebookNode) -> None:
    """Check that every cell ran, in order, without an error, and that every call of a chart drew one."""
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    for cell in code(notebook):
        assert all(output.output_type != "error" for output in cell.outputs)
        last = cell.source.rstrip().splitlines()[-1]
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert ("image/png" in kinds) == bool(re.match(r"\w+_chart\(", last)), cell.source
        if re.match(r"\w+_of\(|reading\(|rows_table\(", last):
            assert "text/html" in kinds


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("path", READ, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_draws_every_figure_and_reads_only_published_tables(path, sources, monkeypatch):
    monkeypatch.chdir(path.parent)
    formatter, names, origins = DisplayFormatter(), {}, ""
    for cell in code(nbformat.read(path, as_version=4)):
        source, last = cell.source, cell.source.rstrip().splitlines()[-1]
        for name, value in sources.items():
            source = re.sub(rf"^{name} = .*$", lambda _, line=f"{name} = {value}": line, source, flags=re.M)
        with pd.option_context("display.max_colwidth", None):
            value = run_cell(source, names)
            shown = formatter.format(value)[0]
        assert ("image/png" in shown) == bool(re.match(r"\w+_chart\(", last)), source
        if re.match(r"\w+_of\(|reading\(|rows_table\(", last):
            assert "<td" in shown["text/html"], source
        origins += shown.get("text/html", "")
    assert "<td>own</td>" not in origins
    assert path.stem.startswith("01") or "<td>published</td>" in origins


ELSEWHERE = pytest.mark.full("another notebook runs in the kernel, and the code of this one without it")


@pytest.mark.parametrize(
    "path",
    [path if path.stem.startswith("06") else pytest.param(path, marks=ELSEWHERE) for path in READ],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_top_to_bottom_on_only_published_tables(path, sources, tmp_path):
    done = notebooks.execute(path, sources)
    check_outputs(done)
    texts = [output.text for cell in code(done) for output in cell.outputs if output.get("name") == "stderr"]
    assert path.stem == LIVE or not texts  # a warning of pandas or altair would be committed
    assert any(
        cell.source.splitlines()[-1].startswith("RESULTS = ") or "\nRESULTS = " in cell.source for cell in done.cells
    )
    assert [cell.source for cell in done.cells] == [cell.source for cell in nbformat.read(path, as_version=4).cells]
    pages = [
        output.data["text/html"]
        for cell in code(done)
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]
    assert not any("<td>own</td>" in page for page in pages)
    assert path.stem.startswith("01") or any("<td>published</td>" in page for page in pages)
    notebooks.write(tmp_path / path.name, done)
    assert (tmp_path / path.name).stat().st_size < SIZE


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_committed_outputs_are_whole_small_and_without_paths_of_a_machine(path):
    assert path.stat().st_size < SIZE
    notebook = nbformat.read(path, as_version=4)
    check_outputs(notebook)
    assert notebook.metadata == notebooks.KEPT
    for cell in notebook.cells:
        assert not cell.metadata  # no execution times
        texts = [cell.source, *(output.get("text", "") for output in cell.get("outputs", []))]
        texts += [
            one for output in cell.get("outputs", []) for kind, one in output.get("data", {}).items() if "text" in kind
        ]
        assert not any(MACHINE.search(text) for text in texts)


@pytest.mark.parametrize("path", READ, ids=lambda path: path.stem)
def test_notebooks_only_call_the_library(path):
    for cell in code(nbformat.read(path, as_version=4)):
        lines = [
            line for line in cell.source.splitlines() if line and "import" not in line and not line.startswith("%")
        ]
        assert not re.search(r"\bdef |\blambda\b|^\s*(for|while|if) |pyplot|read_csv", cell.source, re.M)
        assert len(lines) <= 6 or "RESULTS = " in cell.source


def test_there_are_nine_notebooks():
    assert [path.stem[:2] for path in ALL] == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]


def test_a_notebook_is_chosen_by_a_part_of_its_name_and_a_mistyped_one_is_refused(capsys):
    assert [path.stem for path in notebooks.find_notebooks(["04", "activ"])] == ["02_activation", "04_latency"]
    assert notebooks.find_notebooks([]) == ALL
    assert notebooks.main(["04_latncy"]) == 2
    assert "Did you mean 04_latency?" in capsys.readouterr().err


def test_a_cell_that_fails_is_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("raise ValueError('no such table')")])
    path = tmp_path / "08_broken.ipynb"
    nbformat.write(book, path)
    before = path.read_bytes()
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    assert notebooks.main([]) == 1
    error = capsys.readouterr().err
    assert "08_broken" in error and "no such table" in error
    assert path.read_bytes() == before


def test_what_is_written_is_the_same_wherever_it_ran(tmp_path):
    cell = nbformat.v4.new_code_cell("1", execution_count=1, id="a", metadata={"execution": {"iopub.busy": "2026"}})
    shown = {"text/plain": "<Figure at 0x7f>", "text/html": "<p>\n      a\n</p>"}
    cell.outputs = [nbformat.v4.new_output("execute_result", shown, execution_count=1, metadata={"x": {}})]
    book = nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.7"}})
    notebooks.write(tmp_path / "a.ipynb", book)
    read = nbformat.read(tmp_path / "a.ipynb", as_version=4)
    assert read.metadata == notebooks.KEPT
    assert read.cells[0].metadata == {}
    assert read.cells[0].outputs[0].data == {"text/html": "<p>\na\n</p>"}
    assert Path(tmp_path / "a.ipynb").read_bytes().endswith(b"}\n")
