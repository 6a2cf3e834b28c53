"""Names, paths, pipes and terminals as users have them."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from common.program import program
from predict import drawing_paths

from mnet.studies.options import listed

ROOT = Path(__file__).parents[2]
ODD = "a b, c'd$e (é).pth"


@pytest.mark.parametrize(
    ("target", "variables", "expected"),
    [
        ("ablate-se", {"DATA_DIR": ODD, "OUT": "my results"}, [f"--data_dir={ODD}", "--out=my results"]),
        ("diagnose", {"WEIGHTS": ODD}, [f"--weights={ODD}"]),
        ("predict", {"A": "runs/a b", "PICTURES": ODD, "OUT": "x y"}, ["runs/a b", ODD, "--results=x y"]),
        ("compare", {"A": ODD, "B": "b"}, [ODD, "b"]),
        ("frontier-se", {"PROFILE": "longer"}, ["se", "--profile=quick", "--profile=longer"]),
    ],
)
def test_make_hands_every_variable_to_the_program_as_it_is(
    target: str, variables: dict[str, str], expected: list[str]
) -> None:
    values = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "-n", "--no-print-directory", "-o", ".venv/.run", "-o", ".venv/.run-lab", target, *values]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert (
        shlex.split(printed)[2 : 2 + len(expected)] == expected or shlex.split(printed)[3:][: len(expected)] == expected
    )


def test_a_path_is_one_value_and_names_are_listed(tmp_path: Path) -> None:
    weights = tmp_path / "a, b.pth"
    assert listed("data_dir", "cats, dogs") == ["cats, dogs"]
    assert listed("width", "0.5,1") == ["0.5", "1"]
    assert listed("pretrained", str(weights)) == str(weights).split(",")
    weights.touch()
    assert listed("pretrained", str(weights)) == [str(weights)]


def test_a_program_continues_when_nobody_reads_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    os.close(reader)
    ended: list[str] = []

    @program
    def main(arguments: list[str]) -> int:
        for _ in range(3):
            print("a line of a long table" * 10_000, flush=True)
        ended.append("with its files written")
        return 0

    assert main([]) == 0
    assert ended
    stream.close()


def test_a_terminal_with_only_ascii_ends_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))

    @program
    def main(arguments: list[str]) -> int:
        print("V3 §5.2: 1,000 → 10")
        return 0

    assert main([]) == 0
    assert output.getvalue() == b"V3 ?5.2: 1,000 ? 10\n"


def test_images_of_the_same_name_get_separate_drawings(tmp_path: Path) -> None:
    names = ["a/x.jpg", "b/x.jpg", "b/c/x.jpg", "b/x.png", "a/X.jpg", "b/y.jpg"]
    paths = [tmp_path / name for name in names]
    drawings = drawing_paths(Path("out"), paths)
    assert len({str(drawing).lower() for drawing in drawings.values()}) == len(paths) - 1  # x and X in one folder
    assert drawings[paths[5]] == Path("out/y.predicted.png")
    assert drawings[paths[2]] == Path("out/b/c/x.jpg.predicted.png")
    assert drawing_paths(Path("out"), paths[:1]) == {paths[0]: Path("out/x.predicted.png")}
