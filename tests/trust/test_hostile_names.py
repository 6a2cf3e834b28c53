"""Names and texts that others chose: of studies and classes, in tables, on terminals, in files that are shared."""

import io
import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import predict
import publish
import pytest
import search
import train
from common.markdown import pipe_table
from common.program import program
from common.terminal import print_rows
from matplotlib.figure import Figure
from rich.console import Console

from mnet.errors import ConfigError
from mnet.figures import save_figure
from mnet.files import write_atomic
from mnet.studies.report import page
from mnet.studies.study import load_study
from mnet.tasks.drawing import draw_bars, draw_boxes, draw_legend, show_image

ROOT = Path(__file__).parents[2]
NAMES = [
    "..",
    "../results",
    " ",
    "a/b",
    "a\\b",
    "a" * 300,
    "a\0b",
    "a\nb",
    "\x1b[31m",
    ".hidden",
    "-rf",
    "published",
]
ESCAPE = "\x1b]0;mine\x07\x1b[2J\x9b31m"
"""Sets the title of a terminal, clears it and turns it red."""


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_study_and_a_search_have_the_plain_name_of_a_folder(tmp_path, capsys, name):
    for main, option in ((train.main, "study"), (search.main, "name")):
        assert main([f"--{option}={name}", f"--out={tmp_path / 'out'}", "--seed=0"]) == 2
        assert "must be " in capsys.readouterr().err
    assert train.main(["--study=", f"--out={tmp_path / 'out'}"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_file_of_such_a_name_is_none(tmp_path):
    shutil.copy(ROOT / "experiments/sweeps/se.yaml", tmp_path / "published.yaml")
    with pytest.raises(ConfigError, match="plain name of a folder, not 'published'"):
        load_study(tmp_path / "published.yaml")


@pytest.mark.parametrize("name", ["$", "$5 and $6_", r"$\frac$", "$^$"])
def test_a_class_or_a_path_with_dollars_is_drawn(tmp_path, name):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    show_image(left, np.zeros((30, 20, 3), np.uint8))
    draw_boxes(left, np.array([[1, 1, 9, 9]]), ["#E69F00"], [name])
    draw_legend(left, [0], [name])
    draw_bars(right, [name], [0.5])
    save_figure(figure, tmp_path / "a.png", title=name)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_images_of_one_name_have_drawings_of_their_own_below_the_folder(tmp_path):
    folders = [tmp_path / name for name in ("one/deep", "two", "real/deep")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "same.png").touch()
    (tmp_path / "two/link").symlink_to(tmp_path / "real/deep")
    (tmp_path / "real/same.png").touch()
    paths = [tmp_path / "two/same.png", tmp_path / "two/link/../same.png", tmp_path / "one/deep/same.png"]
    out = tmp_path / "out"
    drawings = predict.drawing_paths(out, paths)
    assert len({os.path.realpath(path) for path in drawings.values()}) == 3
    assert all(path.is_relative_to(out) and ".." not in path.parts for path in drawings.values())


def test_no_text_is_an_order_to_a_terminal(capsys, monkeypatch):
    @program
    def main(arguments):
        print(f"a name: {ESCAPE}")
        print_rows("title", {"cell": False}, [[f"relu{ESCAPE}"]])
        raise ConfigError(f"no {ESCAPE}")

    assert main([]) == 2
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b"} & {*out, *err}
    assert r"relu\x1b]0;mine\x07" in out and r"no \x1b]0" in err


def test_colours_still_reach_a_terminal(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)

    @program
    def main(arguments):
        Console(force_terminal=True, color_system="standard").print("[red]down")
        return 0

    assert main([]) == 0
    assert "\x1b[31m" in terminal.getvalue()


def test_a_cell_of_markdown_is_one_cell_of_text():
    texts = ["a | b", "two\nlines", "<script>x</script>", "<!-- end claims -->", "![x](http://there)", ESCAPE]
    table = pipe_table(["what"], [[text] for text in texts])
    assert len(table.splitlines()) == 2 + len(texts)
    assert all(line.replace(r"\|", "").count("|") == 2 for line in table.splitlines())
    assert not any(mark in table for mark in ("<", "](", "\x1b"))
    plain = ["[-0.1, +0.2]", "<= 1.05", "`se`"]
    assert pipe_table(["95%"], [plain]).endswith(f"| {' | '.join(plain)} |")


def test_links_are_not_published(tmp_path, caplog):
    root, into = tmp_path / "results", tmp_path / "into"
    (root / "se").mkdir(parents=True)
    (tmp_path / "private").write_text("a key")
    for name in ("runs.csv", "se.png", "latency.csv"):
        (root / "se" / name).symlink_to(tmp_path / "private")
    (root / "se/summary.csv").write_text("study\n")
    assert [path.name for path in (*publish.copy(root, into), *publish.copy_gpu(root, into))] == ["summary.csv"]
    assert "runs.csv is left out: it is a link" in caplog.text


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_a_file_has_the_rights_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "a", lambda stream: stream.write(b"x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_page_survives_a_fragment_that_is_no_text():
    script = (page.HERE / "script.js").read_text()
    assert script.count("decodeURIComponent") == 1
    assert "try { return decodeURIComponent(location.hash.slice(1)); } catch" in script
