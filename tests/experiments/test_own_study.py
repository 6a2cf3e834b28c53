"""Notebook 07 does what it says: images, a toggle and a study from scratch, in a copy of the checkout."""

import hashlib
import re
from pathlib import Path

import nbformat
import pytest
from support.cells import run_cell

import notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks/07_your_own_study.ipynb"
FULL = pytest.mark.full("its code up to the study runs without Jupyter, and test_programs.py runs a study in a file")
SHORT = '"--width=0.25 --resolution=32 --total_stride=8 --batch_size=40 --epochs=1"'


def sources() -> dict[str, str]:
    """File -> hash, for the files that the notebook copies."""
    files = [*ROOT.glob("mnet/**/*.py"), *ROOT.glob("experiments/**/*.yaml")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def done() -> nbformat.NotebookNode:
    before = sources()
    run = notebooks.execute(NOTEBOOK, {"SETTINGS": SHORT})
    after = sources()
    assert {name for name in before if before[name] != after.get(name)} == set()
    assert not [name for name in after if name.endswith("expansion.yaml")]
    return run


def output(notebook: nbformat.NotebookNode, part: str) -> nbformat.NotebookNode:
    """The last output of the cell that has `part` in its source."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and part in cell.source)
    return cell.outputs[-1]


def test_the_toggle_changes_v2_and_is_refused_where_there_is_no_expansion(monkeypatch, capsys):
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, object] = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code" and "SETTINGS" not in cell.source:
            run_cell(cell.source, names)
        if "ASK" in cell.source:
            break
    printed = capsys.readouterr().out
    names["FOLDER"].cleanup()
    assert "params=2,601,416" in printed
    assert "ConfigError: expansion=3" in printed
    assert "mobilenet_v1 must have blocks that expand" in printed


@FULL
def test_the_study_trains_every_cell_with_every_seed(done):
    text = output(done, "subprocess.run(command").text
    assert "3 cells, 6 runs" in text
    assert "[6/6]" in text
    assert "\x1b" not in text  # no terminal colours


@FULL
def test_its_table_has_the_cells_in_order_and_its_figure_is_drawn(done):
    table = output(done, "summary_of(").data["text/html"]
    assert table.index("<th>paper</th>") < table.index("<th>3</th>") < table.index("<th>1</th>")
    assert len(re.findall(r"<th>(paper|3|1)</th>\s*<td>2</td>", table)) == 3  # two seeds each
    assert "<td>own</td>" in output(done, "reading(").data["text/html"]
    assert "image/png" in output(done, "study_chart(").data
